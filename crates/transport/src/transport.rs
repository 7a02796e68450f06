//! [`Transport`], the facade of the crate.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Instant,
};

use proto::{etcdserverpb as pb, raftpb};
use slog::Logger;
use tokio::{net::TcpListener, runtime::Handle, task::AbortHandle};

use crate::{
    context::{Context, Host, Identity},
    leases::{LeaseRefusal, Leases},
    limits::Limits,
    peer::PeerStats,
    peers::Peers,
    router::{self, Inbox},
    server,
};

/// Both ends of etcd's peer protocol. The crate's chapter has the order of calls.
pub struct Transport {
    peers: Arc<Peers>,
    inbox: Arc<Inbox>,
    router: Mutex<Option<AbortHandle>>,
    leases: Leases,
}

impl Transport {
    /// A transport with [`Limits::default`]; it does nothing before [`Transport::start`].
    pub fn new(identity: Identity, log: Logger) -> Arc<Self> {
        Self::with(identity, Limits::default(), log)
    }

    /// A transport with these limits; it does nothing before [`Transport::start`].
    pub fn with(identity: Identity, limits: Limits, log: Logger) -> Arc<Self> {
        Arc::new(Self {
            inbox: Arc::new(Inbox::new(limits.inbox_messages)),
            leases: Leases::new(&limits),
            peers: Peers::new(Context::new(identity, limits, log)),
            router: Mutex::new(None),
        })
    }

    /// Starts the transport, in the current tokio runtime, before `serve` and `update_peers`. Panics outside a runtime,
    /// or if called twice.
    pub fn start(self: &Arc<Self>, host: Arc<dyn Host>) {
        assert!(self.context().set_host(host), "a transport is started once");
        let runtime = Handle::current();
        self.peers.start(runtime.clone());
        let task = runtime.spawn(router::run(self.inbox.clone(), self.peers.clone()));
        *self.router.lock().expect("no panic while the router is held") = Some(task.abort_handle());
    }

    /// Sends each message to its `to`, from any thread, without blocking. Drops are reported by [`Host::unreachable`].
    pub fn send(&self, messages: Vec<raftpb::Message>) {
        if messages.is_empty() {
            return;
        }
        self.inbox.push(messages);
    }

    /// Sets the cluster's members and peer URLs, after [`Transport::start`], from any thread. Skips this member. Open
    /// streams survive a change of URLs.
    pub fn update_peers(&self, peers: &[(u64, Vec<String>)]) {
        self.peers.update(peers);
    }

    /// Serves peers on this listener until `shutdown` completes, then closes all its connections.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        assert!(self.context().is_started(), "Transport::start comes before serve");
        server::serve(self.peers.clone(), listener, shutdown).await;
    }

    /// Since when the connection with this member works; `None` if it does not.
    pub fn active_since(&self, member: u64) -> Option<Instant> {
        self.peers.member(member)?.active_since()
    }

    /// The metric `etcd_network_peer_round_trip_time_seconds`, by peer.
    pub fn round_trips(&self) -> prometheus::HistogramVec {
        self.context().round_trips().clone()
    }

    /// The metric `quorate_peer_faults_total`, by kind of fault.
    pub fn faults(&self) -> prometheus::IntCounterVec {
        self.context().faults().clone()
    }

    /// The metrics of snapshots between members.
    pub fn snapshot_metrics(&self) -> Vec<Box<dyn prometheus::core::Collector>> {
        self.context().snapshots.collectors()
    }

    /// Asks the leader, at one of its peer URLs, to renew a lease. Returns the TTL in seconds. Call it in the runtime.
    pub async fn renew_lease(&self, url: &str, id: i64) -> Result<i64, LeaseRefusal> {
        self.leases.renew(url, id, self.context().limits.request).await
    }

    /// Asks the leader, at one of its peer URLs, for the remaining TTL of a lease, and for its keys. Call it in the
    /// runtime.
    pub async fn lease_time_to_live(
        &self,
        url: &str,
        id: i64,
        keys: bool,
    ) -> Result<pb::LeaseTimeToLiveResponse, LeaseRefusal> {
        self.leases.time_to_live(url, id, keys, self.context().limits.request).await
    }

    /// Counters of all members, by ID.
    pub fn stats(&self) -> Vec<PeerStats> {
        self.peers.stats()
    }

    /// Ends all tasks and streams; nothing can be sent afterwards. `serve` ends by its own shutdown.
    pub fn stop(&self) {
        if let Some(task) = self.router.lock().expect("no panic while the router is held").take() {
            task.abort();
        }
        self.peers.stop();
    }

    #[cfg(test)]
    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    fn context(&self) -> &Arc<Context> {
        self.peers.context()
    }
}
