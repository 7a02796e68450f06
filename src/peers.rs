//! The two adaptors between consensus and transport: what the node sends, and what the peers ask of the member.

use crate::corruption::own_hash;
use crate::divergence::Slices;
use crate::snapshots::{Engines, Incoming, outgoing};
use machine::{Machine, Membership, Shared};
use proto::{etcdserverpb as pb, raftpb};
use raft_node::{Asked, ChangeError, Handle, LeaseError, LeaseStatus, Outbound, Promoting};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use transport::{
    Answer, HashError, HashKv, Host, IncomingSnapshot, LeaseRefusal, OutgoingSnapshot, PromoteError,
    SliceHash, SliceQuestion, SnapshotRefusal, Transport,
};
use types::Index;

pub(crate) struct Out {
    transport: Arc<Transport>,
    member: u64,
    engines: Arc<Engines>,
    /// The node starts before the transport, which needs it: earlier changes of members are read from the membership.
    /// Held while the transport is told, so that no older list comes after a newer one.
    is_started: Mutex<bool>,
}

impl Out {
    pub(crate) fn new(transport: Arc<Transport>, member: u64, engines: Arc<Engines>) -> Self {
        Self { transport, member, engines, is_started: Mutex::new(false) }
    }

    /// The transport is started: it gets the members from `newest`, and from now on each change.
    pub(crate) fn started(&self, newest: impl FnOnce() -> Arc<Membership>) {
        let mut is_started = types::lock(&self.is_started);
        *is_started = true;
        self.transport.update_peers(&newest().others(self.member));
    }
}

impl Outbound for Out {
    fn send(&self, messages: Vec<raftpb::Message>) {
        self.transport.send(messages);
    }

    fn installed(&self, index: Index, former: Machine) {
        self.engines.installed(index, former);
    }

    fn members_changed(&self, membership: Arc<Membership>) {
        let is_started = types::lock(&self.is_started);
        if *is_started {
            self.transport.update_peers(&membership.others(self.member));
        }
    }

    fn renew_lease(&self, url: String, id: i64) -> Asked<i64> {
        let transport = Arc::clone(&self.transport);
        Box::pin(
            async move { transport.renew_lease(&url, id).await.map_err(|refusal| lease_error(&refusal)) },
        )
    }

    fn lease_status(&self, url: String, id: i64, with_keys: bool) -> Asked<LeaseStatus> {
        let transport = Arc::clone(&self.transport);
        Box::pin(async move {
            let answer = transport.lease_time_to_live(&url, id, with_keys).await;
            let answer = answer.map_err(|refusal| lease_error(&refusal))?;
            Ok(LeaseStatus { ttl: answer.ttl, granted_ttl: answer.granted_ttl, keys: answer.keys })
        })
    }

    fn promote(&self, url: String, member: u64, limit: Duration) -> Promoting {
        Box::pin(async move {
            let asked = transport::ask_to_promote(&url, member, limit).await;
            asked.map_err(|refusal| match refusal {
                PromoteError::NotFound => ChangeError::NotFound,
                PromoteError::NotLearner => ChangeError::NotLearner,
                PromoteError::NotReady => ChangeError::NotReady,
                PromoteError::Other(text) => ChangeError::Unknown(text),
            })
        })
    }

    fn active_since(&self, member: u64) -> Option<Instant> {
        self.transport.active_since(member)
    }
}

fn lease_error(refusal: &LeaseRefusal) -> LeaseError {
    match refusal {
        LeaseRefusal::NotFound => LeaseError::NotFound,
        LeaseRefusal::Behind => LeaseError::Behind,
        LeaseRefusal::Other(_) => LeaseError::NoAnswer,
    }
}

fn lease_refusal(error: LeaseError) -> LeaseRefusal {
    match error {
        LeaseError::NotFound => LeaseRefusal::NotFound,
        LeaseError::Behind => LeaseRefusal::Behind,
        other => LeaseRefusal::Other(other.to_string()),
    }
}

pub(crate) struct Member {
    pub(crate) node: Handle,
    pub(crate) shared: Arc<Shared>,
    /// Turns at what peers may ask that takes long.
    pub(crate) work: Arc<api::Pool>,
    /// Hashes of small parts of what it holds.
    pub(crate) slices: Arc<Slices>,
    /// Told when a peer says that this member was removed.
    pub(crate) removed: Arc<Notify>,
    /// What makes a leader's snapshot this member's state.
    pub(crate) incoming: Arc<Incoming>,
}

impl Host for Member {
    fn deliver(&self, messages: Vec<raftpb::Message>) {
        for message in messages {
            self.node.deliver(message);
        }
    }

    fn unreachable(&self, member: u64) {
        self.node.report_unreachable(member);
    }

    fn snapshot_for(&self, message: raftpb::Message) -> Answer<Result<OutgoingSnapshot, String>> {
        Box::pin(outgoing(Arc::clone(&self.shared), message))
    }

    fn receive_snapshot(
        &self,
        message: raftpb::Message,
        body: IncomingSnapshot,
    ) -> Answer<Result<(), SnapshotRefusal>> {
        Box::pin(Arc::clone(&self.incoming).receive(self.node.clone(), message, body))
    }

    fn snapshot_status(&self, member: u64, ok: bool) {
        self.node.report_snapshot(member, ok);
    }

    fn is_removed(&self, member: u64) -> bool {
        self.shared.membership().removed.contains(&member)
    }

    fn members_json(&self) -> String {
        self.shared.membership().members_json()
    }

    fn version_json(&self) -> String {
        crate::duties::version_json(&self.shared.membership())
    }

    fn downgrade_enabled(&self) -> Answer<Result<bool, String>> {
        let (node, shared) = (self.node.clone(), Arc::clone(&self.shared));
        Box::pin(async move {
            node.read_barrier(None).await.map_err(|error| error.to_string())?;
            Ok(shared.membership().downgrade.as_ref().is_some_and(|job| job.enabled))
        })
    }

    fn hash_kv(&self, revision: i64) -> Answer<Result<HashKv, HashError>> {
        let (shared, work) = (Arc::clone(&self.shared), Arc::clone(&self.work));
        Box::pin(async move { own_hash(shared, &work, revision).await })
    }

    fn hash_slice(&self, question: SliceQuestion) -> Answer<Result<SliceHash, HashError>> {
        Box::pin(Arc::clone(&self.slices).hash(question))
    }

    fn promote(&self, member: u64) -> Answer<Result<String, PromoteError>> {
        let (node, shared) = (self.node.clone(), Arc::clone(&self.shared));
        Box::pin(async move {
            node.promote_as_leader(member, None).await.map_err(|error| match error {
                ChangeError::NotFound => PromoteError::NotFound,
                ChangeError::NotLearner => PromoteError::NotLearner,
                ChangeError::NotReady => PromoteError::NotReady,
                error => PromoteError::Other(error.to_string()),
            })?;
            Ok(shared.membership().members_json())
        })
    }

    fn renew_lease(&self, id: i64) -> Answer<Result<i64, LeaseRefusal>> {
        let node = self.node.clone();
        Box::pin(async move { node.renew_lease(id).await.map_err(lease_refusal) })
    }

    fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Answer<Result<pb::LeaseTimeToLiveResponse, LeaseRefusal>> {
        let node = self.node.clone();
        Box::pin(async move {
            let LeaseStatus { ttl, granted_ttl, keys } =
                node.own_lease_status(id, keys).await.map_err(lease_refusal)?;
            let header = Some(pb::ResponseHeader::default());
            Ok(pb::LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys })
        })
    }

    fn peer_rejected_us(&self) {
        self.removed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::Settings;
    use raft_node::bootstrap;
    use std::sync::atomic::AtomicBool;
    use wal::{MemDisk, Wal};

    fn members(ids: &[u64]) -> Arc<Membership> {
        let member = |id: u64| {
            let peer_urls = vec![format!("http://127.0.0.1:{id}")];
            (id, machine::Member { id, peer_urls, ..machine::Member::default() })
        };
        Arc::new(Membership { members: ids.iter().map(|id| member(*id)).collect(), ..Membership::default() })
    }

    struct Nobody;

    impl Host for Nobody {
        fn deliver(&self, _: Vec<raftpb::Message>) {}
        fn unreachable(&self, _: u64) {}
        fn snapshot_for(&self, _: raftpb::Message) -> Answer<Result<OutgoingSnapshot, String>> {
            Box::pin(async { Err(String::new()) })
        }
        fn snapshot_status(&self, _: u64, _: bool) {}
        fn receive_snapshot(
            &self,
            _: raftpb::Message,
            _: IncomingSnapshot,
        ) -> Answer<Result<(), SnapshotRefusal>> {
            Box::pin(async { Ok(()) })
        }
        fn is_removed(&self, _: u64) -> bool {
            false
        }
        fn members_json(&self) -> String {
            String::new()
        }
        fn version_json(&self) -> String {
            String::new()
        }
        fn downgrade_enabled(&self) -> Answer<Result<bool, String>> {
            Box::pin(async { Ok(false) })
        }
        fn hash_kv(&self, _: i64) -> Answer<Result<HashKv, HashError>> {
            Box::pin(async { Err(HashError::Future) })
        }
        fn hash_slice(&self, _: SliceQuestion) -> Answer<Result<SliceHash, HashError>> {
            Box::pin(async { Err(HashError::Future) })
        }
        fn promote(&self, _: u64) -> Answer<Result<String, PromoteError>> {
            Box::pin(async { Err(PromoteError::NotFound) })
        }
        fn renew_lease(&self, _: i64) -> Answer<Result<i64, LeaseRefusal>> {
            Box::pin(async { Err(LeaseRefusal::NotFound) })
        }
        fn lease_time_to_live(
            &self,
            _: i64,
            _: bool,
        ) -> Answer<Result<pb::LeaseTimeToLiveResponse, LeaseRefusal>> {
            Box::pin(async { Err(LeaseRefusal::NotFound) })
        }
        fn peer_rejected_us(&self) {}
    }

    fn silent() -> slog::Logger {
        slog::Logger::root(slog::Discard, slog::o!())
    }

    fn engines(dir: &tempfile::TempDir) -> Arc<Engines> {
        Engines::open(dir.path(), engine_rocks::Options::default(), 1, silent()).expect("an empty folder")
    }

    /// A node of its own, in memory.
    fn alone(engines: Arc<Engines>) -> Handle {
        let log = silent();
        let disk = MemDisk::new();
        let mut log_of_raft = Wal::create(disk.clone(), &bootstrap::metadata(1, 7)).expect("memory");
        let (entries, state) = bootstrap::first_log(&[members(&[1]).members[&1].clone()]);
        log_of_raft.append(&entries, Some(&state)).expect("memory");
        log_of_raft.sync().expect("memory");
        drop(log_of_raft);
        let engine: Arc<dyn engine::Engine> = Arc::new(engine::MemoryEngine::default());
        let settings = Settings::new(1, 2);
        let machine = Machine::open(engine, settings).expect("memory");
        let transport =
            transport::Identity { member: 1, cluster: 7, peer_urls: Vec::new(), version: "3.7.3".to_owned() };
        let out = Arc::new(Out::new(Transport::new(transport, log.clone()), 1, engines));
        let (wal, _) = Wal::open(disk).expect("memory");
        raft_node::start(raft_node::Options::new(1, 7), wal, machine, out, log).expect("a node").0
    }

    /// It walks the whole store: neither the runtime's thread nor the lane of what is short is the place for that.
    #[tokio::test]
    async fn a_hash_for_a_peer_waits_for_its_turn_among_what_is_long() {
        let dir = tempfile::tempdir().expect("a folder");
        let engines = engines(&dir);
        let node = alone(Arc::clone(&engines));
        let observed = Arc::new(crate::observed::Observed::new(engines.current()));
        let incoming =
            Incoming::new(engines, Settings::new(1, 2), observed, silent()).expect("an empty folder");
        let work = Arc::new(api::Pool::new(api::WorkLimits { long_max: 1, ..Default::default() }));
        let removed = Arc::new(Notify::new());
        let shared = node.machine();
        let slices =
            Slices::new(Arc::clone(&shared), Arc::clone(&work), crate::divergence::Limits::default());
        let member = Member { shared, node, work: Arc::clone(&work), slices, removed, incoming };
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (end, ends) = std::sync::mpsc::sync_channel::<()>(1);
        let wait = move |_: &AtomicBool| (begun.send(()), ends.recv());
        let busy = tokio::spawn(async move { work.run(api::Lane::Long, wait).await });
        has_begun.await.expect("the lane was free");
        let mut hash = member.hash_kv(0);
        let early = tokio::time::timeout(Duration::from_millis(200), &mut hash).await;
        assert!(early.is_err(), "it did not wait: {:?}", early.map(|hash| hash.is_ok()));
        end.send(()).expect("it waits for this");
        busy.await.expect("no panic").expect("it had its turn").1.expect("it was told");
        assert_eq!(hash.await.expect("a hash").compact_revision, -1);
    }

    /// The consensus thread tells of a change right after the list was read that the start hands over.
    #[tokio::test]
    async fn a_change_of_members_during_the_start_is_not_overwritten_by_the_older_list() {
        let identity =
            transport::Identity { member: 1, cluster: 7, peer_urls: Vec::new(), version: "3.7.3".to_owned() };
        let transport = Transport::new(identity, silent());
        transport.start(Arc::new(Nobody));
        let dir = tempfile::tempdir().expect("a folder");
        let out = Arc::new(Out::new(Arc::clone(&transport), 1, engines(&dir)));
        let (told, changed) = (Arc::clone(&out), members(&[1, 2, 3]));
        let runtime = tokio::runtime::Handle::current();
        let mut change = None;
        out.started(|| {
            let list = members(&[1, 2]);
            change = Some(std::thread::spawn(move || {
                let _inside = runtime.enter();
                told.members_changed(changed);
            }));
            std::thread::sleep(Duration::from_millis(100));
            list
        });
        change.expect("it was begun").join().expect("it ends");
        let peers: Vec<u64> = transport.stats().iter().map(|peer| peer.member).collect();
        assert_eq!(peers, [2, 3]);
        transport.stop();
    }
}
