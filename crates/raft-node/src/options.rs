//! What a node is told at its start, and what it needs of the world.

use crate::{LeaseError, LeaseStatus, Limits};
use machine::Membership;
use proto::raftpb;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::LeaseId;

/// How a node behaves. Times must agree over the cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// This member's ID.
    pub member: u64,
    /// The cluster's ID; only for log lines.
    pub cluster: u64,
    /// One tick = one heartbeat (`--heartbeat-interval`).
    pub tick: Duration,
    /// Ticks without a leader before an election (`--election-timeout` / `--heartbeat-interval`).
    pub election_ticks: usize,
    /// Ask before disturbing a leader (`--pre-vote`).
    pub pre_vote: bool,
    /// How long a request without an own deadline waits: 5 s + 2 election timeouts.
    pub request_timeout: Duration,
    /// The longest request, encoded (`--max-request-bytes`).
    pub max_request_bytes: usize,
    /// What is bounded, and by how much.
    pub limits: Limits,
}

impl Options {
    /// etcd's defaults for a member.
    pub fn new(member: u64, cluster: u64) -> Self {
        let tick = Duration::from_millis(100);
        let election_ticks = 10;
        Self {
            member,
            cluster,
            tick,
            election_ticks,
            pre_vote: true,
            request_timeout: Self::request_timeout(tick * 10),
            max_request_bytes: 1_572_864,
            limits: Limits::default(),
        }
    }

    /// etcd's `ReqTimeout`: 5 s for queue and disk, and two elections.
    pub fn request_timeout(election_timeout: Duration) -> Duration {
        Duration::from_secs(5) + 2 * election_timeout
    }

    /// `--election-timeout`.
    pub fn election_timeout(&self) -> Duration {
        self.tick * u32::try_from(self.election_ticks).unwrap_or(u32::MAX)
    }
}

/// A question on its way to the leader.
pub type Asked<T> = Pin<Box<dyn Future<Output = Result<T, LeaseError>> + Send>>;

/// The way out, to the peers. Called on the consensus thread: nothing here may block.
pub trait Outbound: Send + Sync + 'static {
    /// Sends messages, in order for each receiver. What cannot be sent is dropped and reported with
    /// [`crate::Handle::report_unreachable`].
    fn send(&self, messages: Vec<raftpb::Message>);

    /// The members changed: add, move and remove peers.
    fn members_changed(&self, membership: Arc<Membership>);

    /// Asks the leader, at this URL of its, to renew a lease: its TTL in seconds. Called in the runtime.
    fn renew_lease(&self, _url: String, _id: LeaseId) -> Asked<i64> {
        Box::pin(async { Err(LeaseError::NoAnswer) })
    }

    /// Asks the leader, at this URL of its, what is left of a lease and what hangs on it. Called in the runtime.
    fn lease_status(&self, _url: String, _id: LeaseId, _with_keys: bool) -> Asked<LeaseStatus> {
        Box::pin(async { Err(LeaseError::NoAnswer) })
    }

    /// Since when the member has been in reach without a break; `None` = it is not. Tells timeouts apart.
    fn active_since(&self, _member: u64) -> Option<Instant> {
        None
    }
}
