//! Errors, one enum per operation. The texts are etcd's, because clients match on them.

use machine::Refusal;
use proto::{EtcdError, peer_text};
use std::sync::Arc;
use thiserror::Error;
use types::Index;

/// Why a proposal has no response.
#[derive(Clone, Debug, Error)]
pub enum ProposeError {
    /// Applied, and refused alike on every member.
    #[error("{0}")]
    Refused(Refusal),
    /// The inbox is full; nothing was logged.
    #[error("{}", EtcdError::TooManyRequests)]
    TooManyRequests,
    /// Larger than `--max-request-bytes`; nothing was logged.
    #[error("{}", EtcdError::RequestTooLarge)]
    TooLarge,
    /// No outcome until the deadline; it may still be applied.
    #[error("{}", EtcdError::Timeout)]
    Timeout,
    /// [`ProposeError::Timeout`], and the leader was lost meanwhile.
    #[error("{}", EtcdError::TimeoutLeaderLost)]
    TimeoutLeaderLost,
    /// [`ProposeError::Timeout`], and the leader (or, for a leader, a quorum) was unreachable meanwhile.
    #[error("{}", EtcdError::TimeoutConnectionLost)]
    TimeoutConnectionLost,
    /// No leader until the deadline, so the request never left this member; etcd's own context ends there.
    #[error("{}", EtcdError::DeadlineExceeded)]
    NotProposed,
    /// There is no leader, and the caller does not want to wait for one.
    #[error("{}", EtcdError::NoLeader)]
    NoLeader,
    /// Removing this member would leave no quorum.
    #[error("{}", EtcdError::NotEnoughStarted)]
    NotEnoughMembers,
    /// The member is stopping, or was removed from the cluster.
    #[error("{}", EtcdError::Stopped)]
    Stopped,
    /// Disk or engine failed: this process must end.
    #[error("etcdserver: storage failed")]
    Fault,
}

/// Why the members were not changed. The texts are etcd's.
#[derive(Clone, Debug, Error)]
pub enum ChangeError {
    /// Only the leader knows a learner's progress.
    #[error("{}", EtcdError::NotLeader)]
    NotLeader,
    /// No member has this ID.
    #[error("{}", peer_text::MEMBER_NOT_FOUND)]
    NotFound,
    /// The member is a voter already.
    #[error("{}", peer_text::NOT_LEARNER)]
    NotLearner,
    /// The learner's log is too far behind.
    #[error("{}", EtcdError::LearnerNotReady)]
    NotReady,
    /// After the change, too few voters would have started ever: it might cost the quorum.
    #[error("{}", EtcdError::NotEnoughStarted)]
    NotEnoughStarted,
    /// Too few voters have been connected with this member for long enough.
    #[error("{}", EtcdError::Unhealthy)]
    Unhealthy,
    /// Committed entries were not applied here in time.
    #[error("{}", EtcdError::TimeoutWaitAppliedIndex)]
    Behind,
    /// The change was not logged, was refused when it was applied, or its fate is unknown.
    #[error(transparent)]
    Propose(ProposeError),
    /// The leader's response over the peer port was none of the above.
    #[error("member promote: unknown error({0})")]
    Unknown(String),
}

/// Why a linearizable read cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// No quorum confirmed the leader until the deadline.
    #[error("{}", EtcdError::Timeout)]
    Timeout,
    /// The leader changed while the read waited; it is safe to retry.
    #[error("{}", EtcdError::LeaderChanged)]
    LeaderChanged,
    /// Too many reads are waiting already.
    #[error("{}", EtcdError::TooManyRequests)]
    TooManyRequests,
    /// The member is stopping, or was removed from the cluster.
    #[error("{}", EtcdError::Stopped)]
    Stopped,
}

/// Why a lease was not renewed or described. The texts are etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// No lease has this ID, or not any more.
    #[error("{}", peer_text::LEASE_NOT_FOUND)]
    NotFound,
    /// This member does not lead, or has not applied the entries of earlier terms: ask another one.
    #[error("{}", peer_text::NOT_PRIMARY)]
    NotPrimary,
    /// This member believes that it leads, but a quorum did not confirm it.
    #[error("{}", peer_text::NOT_PRIMARY)]
    Unconfirmed,
    /// Committed entries were not applied in time, so it is unknown whether the lease exists.
    #[error("{}", peer_text::BEHIND)]
    Behind,
    /// Leadership was lost during the operation.
    #[error("{}", EtcdError::LeaderChanged)]
    LeaderChanged,
    /// No leader was elected in time.
    #[error("{}", EtcdError::NoLeader)]
    NoLeader,
    /// The leader did not answer in time.
    #[error("{}", EtcdError::Timeout)]
    Timeout,
    /// The leader's response over the peer port was invalid.
    #[error("the leader did not answer")]
    NoAnswer,
    /// The member is stopping, or was removed from the cluster.
    #[error("{}", EtcdError::Stopped)]
    Stopped,
}

/// Why leadership was not transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// Only the leader can transfer leadership.
    #[error("{}", EtcdError::NotLeader)]
    NotLeader,
    /// The target is unknown, or is a learner.
    #[error("{}", EtcdError::BadLeaderTransferee)]
    BadTransferee,
    /// The target did not take over in time.
    #[error("{}", EtcdError::TimeoutLeaderTransfer)]
    Timeout,
    /// The member is stopping, so nothing was transferred.
    #[error("{}", EtcdError::Stopped)]
    Stopped,
}

/// Why a node cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The log ends before the engine's applied index: one of them was lost or replaced.
    #[error("the log ends at index {last}, but the engine has applied up to {applied}")]
    LogBehindEngine {
        /// The log's last index.
        last: u64,
        /// The engine's applied index.
        applied: u64,
    },
    /// The log starts after the engine's applied index: entries between are missing.
    #[error("the log begins at index {first}, but the engine has applied only up to {applied}")]
    LogAheadOfEngine {
        /// The log's first index.
        first: u64,
        /// The engine's applied index.
        applied: u64,
    },
    /// raft-rs refuses the configuration or the state.
    #[error("raft: {0}")]
    Raft(String),
    /// The operating system refuses a thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Why the consensus thread ended by itself. Never retried: a retry would report as written what a failed sync lost.
#[derive(Clone, Debug, Error)]
pub enum NodeFault {
    /// The disk of the log failed.
    #[error("log: {0}")]
    Log(#[source] Arc<wal::WalError>),
    /// The storage engine failed, or an entry cannot be applied.
    #[error("engine: {0}")]
    Engine(#[source] Arc<machine::Fault>),
    /// raft-rs refused something that it must accept.
    #[error("raft: {0}")]
    Raft(#[source] Arc<raft::Error>),
    /// raft-rs refused a committed change of members.
    #[error("raft: change of members at index {index}: {source}")]
    Change {
        /// The index of the change's entry.
        index: Index,
        /// Why raft-rs refused it.
        source: Arc<raft::Error>,
    },
    /// raft-rs goes on from a snapshot whose state this member does not have.
    #[error("raft: the state of the snapshot at index {0} is not there")]
    NoState(Index),
    /// A thread that flushes or applies ended early.
    #[error("engine: the thread for long work is gone")]
    ThreadGone,
    /// The consensus thread panicked.
    #[error("the consensus thread panicked")]
    Panicked,
}

impl From<wal::WalError> for NodeFault {
    fn from(error: wal::WalError) -> Self {
        Self::Log(Arc::new(error))
    }
}

impl From<machine::Fault> for NodeFault {
    fn from(fault: machine::Fault) -> Self {
        Self::Engine(Arc::new(fault))
    }
}

impl From<engine::Fault> for NodeFault {
    fn from(fault: engine::Fault) -> Self {
        machine::Fault::Engine(fault).into()
    }
}

impl From<raft::Error> for NodeFault {
    fn from(error: raft::Error) -> Self {
        Self::Raft(Arc::new(error))
    }
}
