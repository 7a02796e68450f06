//! # The client port
//!
//! Everything that a client may say to this member, turned into proposals, reads and answers; and nothing else: what a
//! request does to the store is `machine`'s, how it is agreed on is `raft-node`'s.
//!
//! ```text
//!            ┌ socket (writes of one tick become one write)
//! TcpStream ─┤
//!            └ server: the preface? ─┬─ yes ─▶ HTTP/2 ─▶ router ─▶ kv · watch · lease · concurrency · maintenance · …
//!                                    │                    ▲
//!                                    └─ no ──▶ HTTP/1 ─▶ front ─┬─ /v3/… ─▶ gateway
//!                                              host, CORS       └─ pages · probes: /health /readyz /version /metrics
//! head:   content type, hosts, timeout, encoding, in grpc-go's order
//! router: learner rule, client version, leader wanted, deadline, counters
//! zip:    gzip in and out, on another thread where it is long
//! lease:  the log (grant, revoke) | the leader's clock, over the peers' port where another leads
//! kv:     parse (static checks) ─▶ node.propose | node.read_barrier + shared.range ─▶ status (etcd's code and text)
//! ```
//!
//! Invariants:
//! * A request is refused with etcd's code and text; [`status`] is the only place that knows them.
//! * No answer carries state older than its own header's revision, and every header carries cluster, member and term.
//! * Nothing is spawned for a request beyond HTTP/2's own stream task, and no request is woken from another thread but
//!   through the node's batched completions. Work that costs more than a small budget ([`slow`]) leaves the runtime's
//!   thread for a small capped pool, and ends when its client goes away.
//! * Every message is bounded before it is decoded, every socket's outgoing buffer is bounded ([`socket`]).
//!
//! Deliberately not here: users and roles. Of the Auth service, what does not write is answered as etcd does where
//! authentication is off, the rest is refused by name. Client keepalive pings are answered, but a client that pings too
//! often is not sent away: h2 does not show us pings.

mod access;
mod auth;
mod budget;
mod cluster;
mod concurrency;
mod connections;
mod downgrade;
mod front;
mod grpc;
mod head;
mod health;
mod intervals;
mod kv;
mod lease;
mod long;
mod maintenance;
mod metered;
mod methods;
mod metrics;
mod pages;
pub mod parse;
mod parts;
mod probes;
mod query;
mod range_stream;
mod router;
mod server;
mod slow;
mod snapshot;
mod socket;
pub mod status;
mod steps;
mod streams;
mod watch;
mod wire;
mod zip;

pub use budget::Options as InFlight;
pub use front::Traffic;
pub use mvcc::Cost;
pub use server::serve;
pub use slow::{Lane, Lost, Pool, WorkLimits};
pub use snapshot::{Pace, Snapshots};
pub use watch::WatchLimits;
pub use wire::Wire;
pub use zip::Compression;

use access::Access;
use gateway::Gateway;
use machine::Shared;
use metrics::Metrics;
use proto::etcdserverpb::ResponseHeader;
use raft_node::Handle;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};
use steps::Steps;

/// Locks what a panic elsewhere may have poisoned: every critical section of this crate leaves whole values behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a message may be longer than a log entry, in bytes: etcd's `grpcOverheadBytes`.
pub(crate) const OVERHEAD_BYTES: usize = 512 << 10;

/// Who this member is, as headers and `/version` say it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The member's ID.
    pub member: u64,
    /// The cluster's ID.
    pub cluster: u64,
    /// The server version reported to clients: `3.7.3`.
    pub version: String,
}

/// What a client may ask for. Names and defaults are etcd's flags'.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `--max-request-bytes`: the largest log entry a request may become; 512 KiB more are accepted on the wire.
    pub max_request_bytes: usize,
    /// `--max-txn-ops`: operations in one level of a transaction.
    pub max_txn_ops: usize,
    /// `--watch-progress-notify-interval`: after how long without events a watcher that asked for it is told where it is;
    /// at least 100 ms, and up to a tenth more.
    pub watch_progress_interval: Duration,
    /// `--max-concurrent-streams`, for each connection.
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-interval`: how long a silent connection may be before it is pinged; zero is never.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`: how long an answer to a ping may take.
    pub keepalive_timeout: Duration,
    /// Connections to the ports for clients; beyond them new ones are closed at once. No limit by default: the composer
    /// derives it from the file descriptors there are.
    pub connections_max: usize,
    /// The same for the ports for metrics.
    pub monitors_max: usize,
    /// Requests that are half here.
    pub requests: InFlight,
    /// Large answers that nobody has read yet.
    pub answers: InFlight,
    /// The same of small ones.
    pub values: InFlight,
    /// What a connection may take.
    pub wire: Arc<Wire>,
    /// The longest answer, in bytes without its prefix: etcd's 2 GiB less one (`math.MaxInt32`).
    pub send_bytes_max: usize,
    /// How compressed calls are worked on.
    pub compression: Compression,
    /// How snapshots are made and sent.
    pub snapshots: Snapshots,
    /// How long a piece of a list may wait for its client before the list lets go of the state that it reads, for which
    /// compaction waits. Five seconds: who takes some hundred kB a second never does.
    pub view_hold_max: Duration,
    /// How much watching may be done at once.
    pub watching: WatchLimits,
    /// How much work may be where.
    pub work: WorkLimits,
    /// How much JSON is read and written where.
    pub json: gateway::WorkLimits,
    /// What HTTP/1.1 has.
    pub http: Http,
    /// What `/metrics` shows.
    pub shown: Shown,
}

/// What `/metrics` shows beyond the basic series.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// `--metrics=extensive`: how long calls take, by method.
    pub extensive: bool,
    /// `--metrics-prefixes`: prefixes whose keys and bytes are counted.
    pub prefixes: Vec<String>,
}

/// What is served over HTTP/1.1, and to whom.
#[derive(Clone, Debug)]
pub struct Http {
    /// `--enable-grpc-gateway`: the JSON gateway under `/v3/`.
    pub gateway: bool,
    /// `--cors`: the origins that browsers may come from; none, or `*` among them, is all.
    pub origins: Vec<String>,
    /// `--host-whitelist`: the names that requests may be for; none, or `*` among them, is all.
    pub hosts: Vec<String>,
}

impl Default for Http {
    fn default() -> Self {
        Self { gateway: true, origins: vec!["*".to_owned()], hosts: vec!["*".to_owned()] }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_request_bytes: 3 << 19, // 1.5 MiB
            max_txn_ops: 128,
            watch_progress_interval: Duration::from_mins(10),
            max_concurrent_streams: u32::MAX,
            keepalive_interval: Duration::from_hours(2),
            keepalive_timeout: Duration::from_secs(20),
            connections_max: usize::MAX,
            monitors_max: usize::MAX,
            requests: InFlight::default(),
            answers: InFlight::default(),
            values: InFlight::values(),
            wire: Arc::default(),
            send_bytes_max: i32::MAX as usize,
            compression: Compression::default(),
            snapshots: Snapshots::default(),
            view_hold_max: Duration::from_secs(5),
            watching: WatchLimits::default(),
            work: WorkLimits::default(),
            json: gateway::WorkLimits::default(),
            http: Http::default(),
            shown: Shown::default(),
        }
    }
}

/// The front end's state: one for a member, shared by all its listeners.
pub struct Api {
    pub(crate) node: Handle,
    pub(crate) shared: Arc<Shared>,
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) slow: Pool,
    pub(crate) steps: Steps,
    pub(crate) zip: Arc<zip::Zip>,
    pub(crate) turns: maintenance::Turns,
    pub(crate) watches: watch::Watches,
    /// How often this member has been without a leader for too long: then streams that want one end.
    pub(crate) leader_losses: tokio::sync::watch::Sender<u64>,
    pub(crate) access: Access,
    pub(crate) connections: connections::Connections,
    pub(crate) requests: Arc<budget::Budget>,
    pub(crate) answers: Arc<budget::Budget>,
    pub(crate) values: Arc<budget::Budget>,
    /// Nothing where it is switched off.
    pub(crate) gateway: Option<Gateway>,
    /// Whether the leader is being watched already, for the counters of its changes and losses.
    pub(crate) watching: AtomicBool,
    pub(crate) log: slog::Logger,
}

impl Api {
    /// A front end over a running node and the state it applies to.
    pub fn new(
        node: Handle,
        shared: Arc<Shared>,
        identity: Identity,
        limits: Limits,
        log: slog::Logger,
    ) -> Arc<Self> {
        let metrics = Metrics::new(&identity, shared.quota(), &limits.shown);
        let access = Access::new(&limits.http.origins, &limits.http.hosts);
        let zip = Arc::new(zip::Zip::new(limits.compression.clone()));
        let gateway = {
            let max_message_bytes = limits.max_request_bytes + OVERHEAD_BYTES;
            limits.http.gateway.then(|| Gateway::new(max_message_bytes, limits.json))
        };
        if limits.watch_progress_interval < watch::PROGRESS_INTERVAL_MIN {
            slog::warn!(log, "adjusting watch progress notify interval to minimum period";
                "min-watch-progress-notify-interval" => format!("{:?}", watch::PROGRESS_INTERVAL_MIN));
        }
        let connections = connections::Connections::new(
            limits.connections_max,
            limits.monitors_max,
            metrics::Connections::new(metrics.registry()),
        );
        let (requests, answers, values) =
            (limits.requests.clone(), limits.answers.clone(), limits.values.clone());
        let requests = budget::Budget::new(requests);
        let answers = budget::Budget::beside(&requests, answers);
        let slow = Pool::new(limits.work);
        slow.register(metrics.registry());
        let steps = Steps::new(limits.work.step_max, metrics.registry(), log.clone());
        Arc::new(Self {
            node,
            shared,
            identity,
            turns: maintenance::Turns::new(&limits.snapshots),
            watches: watch::Watches::new(limits.watching),
            limits,
            metrics,
            slow,
            steps,
            zip,
            leader_losses: tokio::sync::watch::Sender::new(0),
            access,
            connections,
            requests,
            answers,
            values: budget::Budget::new(values),
            gateway,
            watching: AtomicBool::new(false),
            log,
        })
    }

    /// Whether clients hold much memory without moving: requests that are half here take more than half of their room.
    pub fn holds_much(&self) -> bool {
        self.requests.is_crowded()
    }

    /// Where other parts of the server register what `/metrics` shows of them.
    pub fn registry(&self) -> &prometheus::Registry {
        self.metrics.registry()
    }

    /// A header at a revision.
    pub(crate) fn header(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.identity.cluster,
            member_id: self.identity.member,
            revision,
            raft_term: self.node.status().term,
        }
    }

    /// Completes the header that the machine left with only a revision; 0 becomes the newest revision, as in etcd.
    pub(crate) fn complete(&self, header: &mut Option<ResponseHeader>) {
        let revision = match header.as_ref().map_or(0, |h| h.revision) {
            0 => self.shared.view().revision(),
            known => known,
        };
        *header = Some(self.header(revision));
    }
}
