//! The facade: the table of peers, and the life of the tasks that serve it.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, OnceLock, RwLock},
    time::Instant,
};

use proto::{etcdserverpb as pb, raftpb};
use slog::Logger;
use tokio::{net::TcpListener, runtime::Handle, task::AbortHandle};

use crate::{
    codec::Kind,
    context::{Context, Host, Identity, hex},
    dial,
    leases::{LeaseRefusal, Leases},
    limits::Limits,
    peer::{Peer, PeerStats, Standing},
    pipeline::{self, PostQueue},
    probe, router, server, urls,
};

/// The peers at one moment.
#[derive(Default)]
pub(crate) struct Table {
    peers: BTreeMap<u64, Arc<Peer>>,
    /// Since when, and who.
    remotes: BTreeMap<u64, (Instant, Arc<Peer>)>,
}

impl Table {
    /// A member if it is one, else a remote.
    pub(crate) fn find(&self, id: u64) -> Option<&Arc<Peer>> {
        self.peers.get(&id).or_else(|| self.remotes.get(&id).map(|(_, peer)| peer))
    }
}

/// etcd's peer protocol, both ends. See the crate's chapter for the order of calls.
pub struct Transport {
    context: Arc<Context>,
    inbox: router::Inbox,
    /// Replaced as a whole, so that `send`'s router never waits for a change of peers.
    table: RwLock<Arc<Table>>,
    /// Guards changes of `table`, which start and stop tasks.
    changing: Mutex<()>,
    runtime: OnceLock<Handle>,
    router: Mutex<Option<AbortHandle>>,
    leases: Leases,
}

impl Transport {
    /// A transport that does nothing yet, with the limits of a member.
    pub fn new(identity: Identity, log: Logger) -> Arc<Self> {
        Self::with(identity, Limits::default(), log)
    }

    /// A transport that does nothing yet.
    pub fn with(identity: Identity, limits: Limits, log: Logger) -> Arc<Self> {
        Arc::new(Self {
            inbox: router::Inbox::new(limits.inbox_messages),
            leases: Leases::new(&limits),
            context: Arc::new(Context::new(identity, limits, log)),
            table: RwLock::default(),
            changing: Mutex::new(()),
            runtime: OnceLock::new(),
            router: Mutex::new(None),
        })
    }

    /// Binds the transport to its member and to the current tokio runtime. Once, before `serve` and `update_peers`.
    ///
    /// # Panics
    /// Outside a tokio runtime, or the second time.
    pub fn start(self: &Arc<Self>, host: Arc<dyn Host>) {
        assert!(self.context.set_host(host), "a transport is started once");
        let runtime = Handle::current();
        let task = runtime.spawn(router::run(self.clone()));
        *self.router.lock().expect("no panic while the router is held") = Some(task.abort_handle());
        self.runtime.set(runtime).expect("set only here, and the host was set once");
    }

    /// Sends each message to the member in its `to`. From any thread; never blocks, never fails: what cannot be sent is
    /// dropped and reported by [`Host::unreachable`].
    pub fn send(&self, messages: Vec<raftpb::Message>) {
        if messages.is_empty() {
            return;
        }
        self.inbox.push(messages);
    }

    /// Makes these the other members of the cluster, with their URLs: adds, changes and removes. From any thread, after
    /// [`Transport::start`]. This member itself is skipped. Open streams survive a change of URLs.
    pub fn update_peers(&self, peers: &[(u64, Vec<String>)]) {
        let _changing = self.changing.lock().expect("no panic while peers change");
        let old = self.table();
        let me = self.context.identity.member;
        let mut table = Table { remotes: old.remotes.clone(), ..Table::default() };
        for (id, urls) in peers.iter().filter(|(id, _)| *id != me) {
            let remote = table.remotes.remove(id);
            let peer = if let Some(peer) = old.peers.get(id) {
                self.change_urls(peer, urls);
                peer.clone()
            } else {
                let posts = remote.as_ref().map(|(_, remote)| remote.posts.clone());
                self.add(*id, urls, Standing::Member, posts)
            };
            if let Some((_, remote)) = remote {
                remote.retire();
            }
            table.peers.insert(*id, peer);
        }
        let gone: Vec<_> = old.peers.values().filter(|p| !table.peers.contains_key(&p.id)).cloned().collect();
        self.put(table);
        for peer in gone {
            peer.stop();
            slog::info!(self.context.log, "removed remote peer"; "removed-remote-peer-id" => hex(peer.id));
        }
    }

    /// Answers peers on this listener until `shutdown` completes, then closes all its connections.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        assert!(self.context.is_started(), "Transport::start comes before serve");
        server::serve(self, listener, shutdown).await;
    }

    /// Since when there has been a working connection with this member; `None` when there is none.
    pub fn active_since(&self, member: u64) -> Option<Instant> {
        self.table().peers.get(&member)?.active_since()
    }

    /// `etcd_network_peer_round_trip_time_seconds`: of every probe, by peer.
    pub fn round_trips(&self) -> prometheus::HistogramVec {
        self.context.round_trips().clone()
    }

    /// `quorate_peer_faults_total`: what was done wrong at the peer port, by kind.
    pub fn faults(&self) -> prometheus::IntCounterVec {
        self.context.faults().clone()
    }

    /// Asks the leader, at one of its peer URLs, to renew a lease: its TTL in seconds. In the runtime.
    pub async fn renew_lease(&self, url: &str, id: i64) -> Result<i64, LeaseRefusal> {
        self.leases.renew(url, id, self.context.limits.request).await
    }

    /// Asks the leader, at one of its peer URLs, what is left of a lease and what hangs on it. In the runtime.
    pub async fn lease_time_to_live(
        &self,
        url: &str,
        id: i64,
        keys: bool,
    ) -> Result<pb::LeaseTimeToLiveResponse, LeaseRefusal> {
        self.leases.time_to_live(url, id, keys, self.context.limits.request).await
    }

    /// Counters of all members, by ID.
    pub fn stats(&self) -> Vec<PeerStats> {
        self.table().peers.values().map(|peer| peer.stats()).collect()
    }

    /// Ends all tasks and streams. `serve` ends by its own shutdown. Nothing can be sent afterwards.
    pub fn stop(&self) {
        let _changing = self.changing.lock().expect("no panic while peers change");
        if let Some(task) = self.router.lock().expect("no panic while the router is held").take() {
            task.abort();
        }
        let old = self.table();
        self.put(Table::default());
        old.peers.values().for_each(|peer| peer.stop());
        old.remotes.values().for_each(|(_, peer)| peer.stop());
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn inbox(&self) -> &router::Inbox {
        &self.inbox
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.read().expect("no panic while the table is held").clone()
    }

    /// A member of the cluster; remotes are not.
    pub(crate) fn member(&self, id: u64) -> Option<Arc<Peer>> {
        self.table().peers.get(&id).cloned()
    }

    /// Remembers an unknown sender, so that it can be answered (etcd `AddRemote`). Malformed URLs are not remembered. Where
    /// there are too many, the oldest gives way, but not at once: who goes on asking comes again.
    pub(crate) fn add_remote(&self, id: u64, peer_urls: &str) {
        let limits = &self.context.limits;
        let now = Instant::now();
        let oldest =
            |table: &Table| table.remotes.iter().min_by_key(|(_, (since, _))| *since).map(|(id, _)| *id);
        let is_kept = |since: Instant| now.saturating_duration_since(since) < limits.remote_kept;
        let no_place = |table: &Table| {
            let is_full = table.remotes.len() >= limits.remotes.max(1);
            table.find(id).is_some()
                || (is_full && oldest(table).is_some_and(|id| is_kept(table.remotes[&id].0)))
        };
        if id == self.context.identity.member || no_place(&self.table()) {
            return;
        }
        let list: Vec<String> = peer_urls.split(',').map(|url| url.trim().to_owned()).collect();
        if list.iter().any(|url| urls::parse(url).is_err()) {
            return;
        }
        let _changing = self.changing.lock().expect("no panic while peers change");
        let old = self.table();
        if no_place(&old) {
            return;
        }
        let mut table = Table { peers: old.peers.clone(), remotes: old.remotes.clone() };
        let is_full = table.remotes.len() >= limits.remotes.max(1);
        let gone = oldest(&table).filter(|_| is_full).and_then(|id| table.remotes.remove(&id));
        table.remotes.insert(id, (now, self.add(id, &list, Standing::Remote, None)));
        self.put(table);
        if let Some((_, gone)) = gone {
            gone.stop();
        }
    }

    fn put(&self, table: Table) {
        *self.table.write().expect("no panic while the table is held") = Arc::new(table);
    }

    fn add(&self, id: u64, urls: &[String], standing: Standing, posts: Option<Arc<PostQueue>>) -> Arc<Peer> {
        let runtime = self.runtime.get().expect("Transport::start comes before update_peers");
        let _inside = runtime.enter();
        let posts = posts.unwrap_or_else(|| Arc::new(PostQueue::new(&self.context.limits)));
        let peer = Peer::new(self.context.clone(), id, urls, standing, posts);
        let mut tasks = pipeline::spawn(&peer);
        if standing == Standing::Member {
            tasks.extend(Kind::ALL.map(|kind| runtime.spawn(dial::run(peer.clone(), kind)).abort_handle()));
            tasks.push(runtime.spawn(probe::run(peer.clone())).abort_handle());
        }
        peer.owns(tasks);
        let what = match standing {
            Standing::Member => "added remote peer",
            Standing::Remote => "added new remote peer",
        };
        if let Some(before) = self.context.tells(id, what) {
            slog::info!(self.context.log, "{}", what;
                "remote-peer-id" => hex(id), "remote-peer-urls" => urls.join(","), "left-out" => before);
        }
        peer
    }

    fn change_urls(&self, peer: &Peer, urls: &[String]) {
        if peer.urls.update(urls) {
            slog::info!(self.context.log, "updated remote peer";
                "updated-remote-peer-id" => hex(peer.id), "updated-remote-peer-urls" => urls.join(","));
        }
    }
}
