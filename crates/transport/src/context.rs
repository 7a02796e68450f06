//! What the parts of a transport share: who this member is ([`Identity`]), and what it does with messages ([`Host`]).

use std::{future::Future, pin::Pin, sync::OnceLock};

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, exponential_buckets};
use proto::{EtcdError, etcdserverpb as pb, peer_text, raftpb};
use slog::Logger;
use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

use crate::leases::LeaseRefusal;
use crate::limits::Limits;
use crate::log_limiter::LogLimiter;
use crate::slices::{SliceHash, SliceQuestion};
use crate::snapshot::{IncomingSnapshot, OutgoingSnapshot, SnapshotRefusal};
use crate::snapshot_meters::SnapshotMeters;

/// Who this member is, for the headers of its requests.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The ID of the member.
    pub member: u64,
    /// The ID of the cluster.
    pub cluster: u64,
    /// The URLs under which peers reach this member.
    pub peer_urls: Vec<String>,
    /// The etcd version reported to peers, `major.minor.patch`. A malformed one would crash etcd members.
    pub version: String,
}

/// A future of an answer.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the transport needs of its member. All calls come from inside the tokio runtime and must not block.
pub trait Host: Send + Sync + 'static {
    /// Takes messages from one peer, in raft's order: addressed to this member, not from a removed one, else unchecked.
    fn deliver(&self, messages: Vec<raftpb::Message>);
    /// A message to this member was dropped, or the connection was lost.
    fn unreachable(&self, member: u64);
    /// Makes the snapshot that raft asked for with this `MsgSnap`. The error is for the log. The future is dropped if the
    /// member is removed meanwhile, or the transport stopped; so are the pieces then.
    fn snapshot_for(&self, message: raftpb::Message) -> Answer<Result<OutgoingSnapshot, String>>;
    /// Whether a snapshot message to this member was delivered. Not called if one was replaced by the next.
    fn snapshot_status(&self, member: u64, ok: bool);
    /// Installs the snapshot of this `MsgSnap`, checked as in [`Host::deliver`], once its database was read to the end, and
    /// hands the message to raft. The future is never dropped: if the connection is lost, only
    /// [`IncomingSnapshot::next`] tells. One at a time ([`Limits::snapshots_received`]).
    fn receive_snapshot(
        &self,
        message: raftpb::Message,
        database: IncomingSnapshot,
    ) -> Answer<Result<(), SnapshotRefusal>>;
    /// Whether this member was removed from the cluster.
    fn is_removed(&self, member: u64) -> bool;
    /// The member list as etcd's `/members` JSON, without a line feed.
    fn members_json(&self) -> String;
    /// The versions as etcd's `/version` JSON.
    fn version_json(&self) -> String;
    /// Whether a downgrade is in progress, after a linearizable read. The error is that of the read.
    fn downgrade_enabled(&self) -> Answer<Result<bool, String>>;
    /// The hash of the key space at a revision (0 = current).
    fn hash_kv(&self, revision: i64) -> Answer<Result<HashKv, HashError>>;
    /// The hash of a slice of the key space.
    fn hash_slice(&self, question: SliceQuestion) -> Answer<Result<SliceHash, HashError>>;
    /// Makes a learner a voter, if this member leads and it is up to date. Returns [`Host::members_json`] after it.
    fn promote(&self, member: u64) -> Answer<Result<String, PromoteError>>;
    /// Renews a lease, as the leader. Returns the TTL in seconds.
    fn renew_lease(&self, id: i64) -> Answer<Result<i64, LeaseRefusal>>;
    /// The remaining TTL of a lease, as the leader, and its keys if asked for. Without a header, as in etcd.
    fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Answer<Result<pb::LeaseTimeToLiveResponse, LeaseRefusal>>;
    /// A peer reports that this member was removed (403 to a POST, 410 to a stream). Called once. etcd stops its
    /// process.
    fn peer_rejected_us(&self);
}

/// The answer to `/members/hashkv`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKv {
    /// The store's current revision.
    pub revision: i64,
    /// The hash of the key space.
    pub hash: u32,
    /// The compact revision at the time.
    pub compact_revision: i64,
    /// The revision that was hashed.
    pub hash_revision: i64,
}

/// Why a hash was not computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// The revision was compacted.
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    /// The revision is in the future.
    #[error("mvcc: required revision is a future revision")]
    Future,
    /// It has no page for that: it is an etcd member, or an older one of ours.
    #[error("not served")]
    NotServed,
    /// The other one is a member of another cluster.
    #[error("{}", peer_text::CLUSTER_ID_MISMATCH)]
    OtherCluster,
    /// Any other error, as text.
    #[error("{0}")]
    Other(String),
}

/// Why a member was not promoted. The texts are etcd's, which the asking member looks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromoteError {
    /// No member has this ID.
    #[error("{}", peer_text::MEMBER_NOT_FOUND)]
    NotFound,
    /// It is a voter already.
    #[error("{}", peer_text::NOT_LEARNER)]
    NotLearner,
    /// Its log is too far behind.
    #[error("{}", EtcdError::LearnerNotReady)]
    NotReady,
    /// Any other error, as text for the log. The asking member retries until its request times out.
    #[error("{0}")]
    Other(String),
}

pub(crate) struct Context {
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) log: Logger,
    /// Bytes of all request bodies in memory.
    pub(crate) bodies: AtomicUsize,
    /// Turns of snapshots that are sent, and received.
    pub(crate) sending: Arc<Semaphore>,
    pub(crate) receiving: Arc<Semaphore>,
    pub(crate) snapshots: SnapshotMeters,
    round_trips: HistogramVec,
    faults: IntCounterVec,
    log_limiter: LogLimiter,
    host: OnceLock<Arc<dyn Host>>,
    rejected: std::sync::atomic::AtomicBool,
}

impl Context {
    pub(crate) fn new(identity: Identity, limits: Limits, log: Logger) -> Self {
        let (name, help) =
            ("etcd_network_peer_round_trip_time_seconds", "Round-Trip-Time histogram between peers");
        let buckets = exponential_buckets(0.0001, 2.0, 16).expect("constant, valid buckets");
        let round_trips = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), &["To"])
            .expect("a constant, valid metric name");
        let (name, help) =
            ("quorate_peer_faults_total", "What peers, and whoever else reached the peer port, did wrong.");
        let faults =
            IntCounterVec::new(Opts::new(name, help), &["fault"]).expect("a constant, valid metric name");
        Self {
            log_limiter: LogLimiter::new(&limits),
            sending: Arc::new(Semaphore::new(limits.snapshots_sent.max(1))),
            receiving: Arc::new(Semaphore::new(limits.snapshots_received.max(1))),
            snapshots: SnapshotMeters::new(),
            identity,
            limits,
            log,
            bodies: AtomicUsize::new(0),
            round_trips,
            faults,
            host: OnceLock::new(),
            rejected: false.into(),
        }
    }

    pub(crate) fn round_trip(&self, peer: u64, took: Duration) {
        self.round_trips.with_label_values(&[&hex(peer)]).observe(took.as_secs_f64());
    }

    pub(crate) fn round_trips(&self) -> &HistogramVec {
        &self.round_trips
    }

    pub(crate) fn faults(&self) -> &IntCounterVec {
        &self.faults
    }

    pub(crate) fn forget(&self, peer: u64) {
        // Fails if it was never probed.
        let _ = self.round_trips.remove_label_values(&[&hex(peer)]);
    }

    /// Returns false if a host was set before.
    pub(crate) fn set_host(&self, host: Arc<dyn Host>) -> bool {
        self.host.set(host).is_ok()
    }

    pub(crate) fn host(&self) -> &Arc<dyn Host> {
        self.host.get().expect("Transport::start comes before serve and update_peers")
    }

    pub(crate) fn is_started(&self) -> bool {
        self.host.get().is_some()
    }

    /// Logs and counts a fault of a sender. The same line is not repeated for a while. `what` is the line's message.
    pub(crate) fn log_fault(&self, who: &str, what: &'static str, error: &str) {
        self.faults.with_label_values(&[what]).inc();
        if let Some(before) = self.log_limiter.due(who, what, Instant::now(), 1) {
            slog::warn!(self.log, "{}", what; "local-member-id" => hex(self.identity.member),
                "remote-peer" => who, "error" => error, "times-since-last-told" => before);
        }
    }

    /// If a line about a peer's connections may be logged: how many like it were left out.
    pub(crate) fn may_log(&self, peer: u64, what: &'static str) -> Option<u64> {
        self.log_limiter.due(&hex(peer), what, Instant::now(), self.limits.connection_lines.max(1))
    }

    pub(crate) fn rejected_by(&self, peer: u64) {
        if self.rejected.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        slog::error!(self.log, "the member has been permanently removed from the cluster";
            "local-member-id" => hex(self.identity.member), "remote-peer-id" => hex(peer));
        self.host().peer_rejected_us();
    }

    /// Delivers messages of one sender. As in etcd's `Process`, drops those from removed members or to another member;
    /// also those with another sender, unless they are of a type that is forwarded.
    pub(crate) fn admit(&self, sender: u64, mut messages: Vec<raftpb::Message>) {
        let host = self.host();
        let (me, mut last, mut false_names) = (self.identity.member, None, 0);
        messages.retain(|m| {
            let from = m.from();
            let removed = match last {
                Some((id, removed)) if id == from => removed,
                _ => host.is_removed(from),
            };
            last = Some((from, removed));
            let speaks_for_itself = from == sender || is_forwarded(m);
            false_names += usize::from(!speaks_for_itself);
            m.to() == me && !removed && speaks_for_itself
        });
        if false_names > 0 {
            let error = format!("{false_names} of one batch");
            self.log_fault(&hex(sender), "dropped a peer's messages in another's name", &error);
        }
        if !messages.is_empty() {
            host.deliver(messages);
        }
    }
}

/// Logs a line about a peer, unless too many like it were logged; the line says how many were left out before.
macro_rules! log_limited {
    ($level:ident, $context:expr, $peer:expr, $what:expr; $($fields:tt)*) => {
        if let Some(before) = $context.may_log($peer, $what) {
            slog::$level!($context.log, "{}", $what; $($fields)*, "left-out" => before);
        }
    };
}
pub(crate) use log_limited;

/// Whether followers forward such a message to the leader unchanged, so that its sender is another member: a proposal, a read
/// or a leadership transfer.
pub(crate) fn is_forwarded(message: &raftpb::Message) -> bool {
    use raftpb::MessageType::{MsgProp, MsgReadIndex, MsgTransferLeader};
    let number = message.r#type;
    [MsgProp, MsgReadIndex, MsgTransferLeader].iter().any(|kind| number == Some((*kind).into()))
}

/// An ID as etcd writes it: lower-case hexadecimal without leading zeros.
pub(crate) fn hex(id: u64) -> String {
    format!("{id:x}")
}
