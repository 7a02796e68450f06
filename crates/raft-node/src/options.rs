//! The options of a node, and its interface to the peers.

use crate::{ChangeError, LeaseError, Limits};
use bytes::Bytes;
use machine::{Machine, Member, Membership};
use proto::raftpb;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::{Index, LeaseId};

/// The options of a node. Times must be equal on all members.
#[derive(Clone, Debug)]
pub struct Options {
    /// The ID of this member.
    pub member: u64,
    /// The cluster's ID; only for log lines.
    pub cluster: u64,
    /// One tick = one heartbeat (`--heartbeat-interval`).
    pub tick: Duration,
    /// Ticks without a leader before an election (`--election-timeout` / `--heartbeat-interval`).
    pub election_ticks: usize,
    /// Whether to hold a pre-vote before an election (`--pre-vote`).
    pub pre_vote: bool,
    /// The timeout of a request without its own: 5 s + 2 election timeouts.
    pub request_timeout: Duration,
    /// The largest encoded request, bytes (`--max-request-bytes`).
    pub max_request_bytes: usize,
    /// Whether to refuse changes of members that may cost the quorum (`--strict-reconfig-check`).
    pub strict_reconfig_check: bool,
    /// Whether voters are added as learners (`--auto-promote-learners`).
    pub learners_first: bool,
    /// The node's limits, with their defaults.
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
            strict_reconfig_check: true,
            learners_first: false,
            limits: Limits::default(),
        }
    }

    /// etcd's `ReqTimeout`: 5 s for queue and disk, plus two elections.
    pub fn request_timeout(election_timeout: Duration) -> Duration {
        Duration::from_secs(5) + 2 * election_timeout
    }

    /// The election timeout (`--election-timeout`).
    pub fn election_timeout(&self) -> Duration {
        self.tick * u32::try_from(self.election_ticks).unwrap_or(u32::MAX)
    }
}

/// The answer to a lease query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Seconds until it ends, rounded towards zero; negative while its revoke is pending.
    pub ttl: i64,
    /// The granted TTL, seconds.
    pub granted_ttl: i64,
    /// The attached keys, in no order; empty if not asked for.
    pub keys: Vec<Bytes>,
}

/// A question on its way to the leader.
pub type Asked<T> = Pin<Box<dyn Future<Output = Result<T, LeaseError>> + Send>>;

/// A promotion that the leader was asked for; in the end all members.
pub type Promoting = Pin<Box<dyn Future<Output = Result<Vec<Member>, ChangeError>> + Send>>;

/// The way to the peers. Called on the consensus thread: nothing may block.
pub trait Outbound: Send + Sync + 'static {
    /// Sends messages, in order for each receiver. Drops are reported with [`crate::Handle::report_unreachable`].
    fn send(&self, messages: Vec<raftpb::Message>);

    /// The state is that of a leader's snapshot at this index now, also after a restart: older ones may be removed. To
    /// drop the former machine may take long.
    fn installed(&self, _index: Index, _former: Machine) {}

    /// The members changed: add, move and remove peers.
    fn members_changed(&self, membership: Arc<Membership>);

    /// Asks the leader at this URL to renew a lease; returns the TTL in seconds. Called in the runtime.
    fn renew_lease(&self, _url: String, _id: LeaseId) -> Asked<i64> {
        Box::pin(async { Err(LeaseError::NoAnswer) })
    }

    /// Asks the leader at this URL for a lease's remaining time and keys. Called in the runtime.
    fn lease_status(&self, _url: String, _id: LeaseId, _with_keys: bool) -> Asked<LeaseStatus> {
        Box::pin(async { Err(LeaseError::NoAnswer) })
    }

    /// Asks the leader at this URL to promote a learner, within `limit`. Called in the runtime.
    fn promote(&self, _url: String, _member: u64, _limit: Duration) -> Promoting {
        Box::pin(async { Err(ChangeError::Unknown("nobody can be asked".to_owned())) })
    }

    /// Since when the member has been continuously reachable; `None` = it is not. Used to classify timeouts, and to
    /// check changes of members.
    fn active_since(&self, _member: u64) -> Option<Instant> {
        None
    }
}
