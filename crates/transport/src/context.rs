//! What a transport is told about itself ([`Identity`]) and what it asks of its member ([`Host`]).

use std::{future::Future, pin::Pin, sync::OnceLock};

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, exponential_buckets};
use proto::{etcdserverpb as pb, raftpb};
use slog::Logger;
use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use crate::complaint::Complaints;
use crate::leases::LeaseRefusal;
use crate::limits::Limits;

/// Who this member is, as its headers say it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The member's ID.
    pub member: u64,
    /// The cluster's ID.
    pub cluster: u64,
    /// The URLs under which peers reach this member.
    pub peer_urls: Vec<String>,
    /// The etcd version reported to peers, `major.minor.patch`: an unparsable one would crash etcd members.
    pub version: String,
}

/// An answer that may take a while: a boxed future.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the transport asks of the member it serves. All calls come from inside the tokio runtime and must not block.
pub trait Host: Send + Sync + 'static {
    /// Messages from one peer, in the order in which raft should see them. Addressed to this member, not from a removed
    /// one; otherwise unchecked.
    fn deliver(&self, messages: Vec<raftpb::Message>);
    /// A message to this member was dropped or its connection was lost.
    fn unreachable(&self, member: u64);
    /// A snapshot message to this member was delivered, or was not.
    fn snapshot_status(&self, member: u64, ok: bool);
    /// Whether this member was removed from the cluster.
    fn is_removed(&self, member: u64) -> bool;
    /// The member list, etcd's `/members` JSON, without a newline at the end.
    fn members_json(&self) -> String;
    /// etcd's `/version` JSON.
    fn version_json(&self) -> String;
    /// Whether a downgrade is in progress, after a linearizable read; the error is the read's, as text.
    fn downgrade_enabled(&self) -> Answer<Result<bool, String>>;
    /// The hash of the key space at a revision (0 = current).
    fn hash_kv(&self, revision: i64) -> Answer<Result<HashKv, HashError>>;
    /// Makes a learner a voter, if this member leads and the learner is in step. The answer is the member list as of then,
    /// as in [`Host::members_json`].
    fn promote(&self, member: u64) -> Answer<Result<String, PromoteError>>;
    /// Renews a lease, as the leader: its TTL in seconds.
    fn renew_lease(&self, id: i64) -> Answer<Result<i64, LeaseRefusal>>;
    /// What is left of a lease, as the leader, and its keys if asked for. The header is not filled in, as in etcd.
    fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Answer<Result<pb::LeaseTimeToLiveResponse, LeaseRefusal>>;
    /// A peer says that this member was removed (403 on a POST, 410 on a stream). Called once. etcd stops its process.
    fn peer_rejected_us(&self);
}

/// The answer to `/members/hashkv`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKv {
    /// The store's current revision.
    pub revision: i64,
    /// The hash.
    pub hash: u32,
    /// The compaction that the hash knows.
    pub compact_revision: i64,
    /// The revision that was hashed.
    pub hash_revision: i64,
}

/// Why there is no hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// The revision was compacted.
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    /// The revision is yet to come.
    #[error("mvcc: required revision is a future revision")]
    Future,
    /// Anything else, as text.
    #[error("{0}")]
    Other(String),
}

/// Why a member was not promoted. The texts are etcd's, which the asking member looks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromoteError {
    /// There is no such member.
    #[error("membership: ID not found")]
    NotFound,
    /// It has a vote already.
    #[error("membership: can only promote a learner member")]
    NotLearner,
    /// Its log is too far behind.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    NotReady,
    /// Anything else, as text for the log: the asking member tries again until its request times out.
    #[error("{0}")]
    Other(String),
}

/// What every task of the transport shares.
pub(crate) struct Context {
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) log: Logger,
    /// Bytes of bodies of requests that are being read.
    pub(crate) bodies: AtomicUsize,
    round_trips: HistogramVec,
    faults: IntCounterVec,
    complaints: Complaints,
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
            complaints: Complaints::new(&limits),
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

    /// A probe was answered.
    pub(crate) fn round_trip(&self, peer: u64, took: Duration) {
        self.round_trips.with_label_values(&[&hex(peer)]).observe(took.as_secs_f64());
    }

    pub(crate) fn round_trips(&self) -> &HistogramVec {
        &self.round_trips
    }

    pub(crate) fn faults(&self) -> &IntCounterVec {
        &self.faults
    }

    /// A peer is one no more.
    pub(crate) fn forget(&self, peer: u64) {
        // An error says that it was never probed.
        let _ = self.round_trips.remove_label_values(&[&hex(peer)]);
    }

    /// False when a host was set before.
    pub(crate) fn set_host(&self, host: Arc<dyn Host>) -> bool {
        self.host.set(host).is_ok()
    }

    pub(crate) fn host(&self) -> &Arc<dyn Host> {
        self.host.get().expect("Transport::start comes before serve and update_peers")
    }

    pub(crate) fn is_started(&self) -> bool {
        self.host.get().is_some()
    }

    /// One line about what a sender does wrong, and no more of the same for a while. `what` is the line's message.
    pub(crate) fn complain(&self, who: &str, what: &'static str, error: &str) {
        self.faults.with_label_values(&[what]).inc();
        if let Some(before) = self.complaints.due(who, what, Instant::now(), 1) {
            slog::warn!(self.log, "{}", what; "local-member-id" => hex(self.identity.member),
                "remote-peer" => who, "error" => error, "times-since-last-told" => before);
        }
    }

    /// Whether a line about a peer's connections is due, and how many like it were left out.
    pub(crate) fn tells(&self, peer: u64, what: &'static str) -> Option<u64> {
        self.complaints.due(&hex(peer), what, Instant::now(), self.limits.connection_lines.max(1))
    }

    /// Tells the host once, however many connections are turned away.
    pub(crate) fn rejected_by(&self, peer: u64) {
        if self.rejected.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        slog::error!(self.log, "the member has been permanently removed from the cluster";
            "local-member-id" => hex(self.identity.member), "remote-peer-id" => hex(peer));
        self.host().peer_rejected_us();
    }

    /// Hands over what may be handed over of what this member's stream brought. The rule is etcd's `Process`: nothing from
    /// removed members, nothing that is addressed to another; and nobody speaks in another's name.
    pub(crate) fn admit(&self, sender: u64, mut messages: Vec<raftpb::Message>) {
        let host = self.host();
        let (me, mut last, mut false_names) = (self.identity.member, None, 0);
        messages.retain(|m| {
            let from = m.from();
            // One peer's batch has one sender: ask about it once.
            let removed = match last {
                Some((id, removed)) if id == from => removed,
                _ => host.is_removed(from),
            };
            last = Some((from, removed));
            let speaks_for_itself = from == sender || is_handed_on(m);
            false_names += usize::from(!speaks_for_itself);
            m.to() == me && !removed && speaks_for_itself
        });
        if false_names > 0 {
            let error = format!("{false_names} of one batch");
            self.complain(&hex(sender), "dropped a peer's messages in another's name", &error);
        }
        if !messages.is_empty() {
            host.deliver(messages);
        }
    }
}

/// Whether a member that does not lead hands such a message on to the leader, as it is: a read, or the wish that leadership
/// move. It names who said it first.
pub(crate) fn is_handed_on(message: &raftpb::Message) -> bool {
    use raftpb::MessageType::{MsgProp, MsgReadIndex, MsgTransferLeader};
    let number = message.r#type;
    [MsgProp, MsgReadIndex, MsgTransferLeader].iter().any(|kind| number == Some((*kind).into()))
}

/// etcd's spelling of an ID: lower-case hex without leading zeros.
pub(crate) fn hex(id: u64) -> String {
    format!("{id:x}")
}
