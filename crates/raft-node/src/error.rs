//! What can go wrong, one enum an operation. The texts are etcd's, because clients match on them.

use machine::Refusal;
use thiserror::Error;

/// Why a proposal has no answer.
#[derive(Clone, Debug, Error)]
pub enum ProposeError {
    /// Applied, and refused alike on every member.
    #[error("{0}")]
    Refused(Refusal),
    /// The inbox is full; nothing was logged.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// Larger than `--max-request-bytes`; nothing was logged.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// No answer until the deadline; it may still be applied.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// As [`ProposeError::Timeout`]; a leader was lost while it waited.
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    TimeoutLeaderLost,
    /// As [`ProposeError::Timeout`]; the leader (or, for a leader, a quorum) was out of reach while it waited.
    #[error("etcdserver: request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// No leader came until the deadline, so the request never left this member; etcd's own context ends there.
    #[error("context deadline exceeded")]
    NotProposed,
    /// There is no leader, and the caller does not want to wait for one.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// Removing this member would leave nobody who decides.
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughMembers,
    /// The member is stopping, or has been removed from the cluster.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// The disk or the engine failed: this process must end.
    #[error("etcdserver: storage failed")]
    Fault,
}

/// Why a linearizable read cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// No quorum confirmed the leader until the deadline.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// A new leader came while the read waited; it is safe to ask again.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// Too many reads wait.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// The member is stopping, or has been removed from the cluster.
    #[error("etcdserver: server stopped")]
    Stopped,
}

/// Why a lease was not renewed, or its time not told. The texts are etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// There is no such lease, or not any more.
    #[error("lease not found")]
    NotFound,
    /// This member does not lead, or has not applied what came before its term: somebody else is to be asked.
    #[error("not a primary lessor")]
    NotPrimary,
    /// This member leads as far as it knows, but the others did not confirm it.
    #[error("not a primary lessor")]
    Unconfirmed,
    /// What is committed was not applied here in time: whether there is such a lease is not known.
    #[error("waiting for node to catch up its applied index has timed out")]
    Behind,
    /// Leadership went while the lease was looked at.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// No leader came in time.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// The leader did not answer in time.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// The leader's answer over the peers' port was no answer.
    #[error("the leader did not answer")]
    NoAnswer,
    /// The member is stopping, or has been removed from the cluster.
    #[error("etcdserver: server stopped")]
    Stopped,
}

/// Why leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// Only the leader can hand it over.
    #[error("etcdserver: not leader")]
    NotLeader,
    /// The member is unknown, or has no vote.
    #[error("etcdserver: bad leader transferee")]
    BadTransferee,
    /// The other did not take over in time.
    #[error("etcdserver: request timed out, leader transfer took too long")]
    Timeout,
    /// The member is stopping.
    #[error("etcdserver: server stopped")]
    Stopped,
}

/// Why a node cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The log ends before what the engine has applied: one of them was lost or replaced.
    #[error("the log ends at index {last}, but the engine has applied up to {applied}")]
    LogBehindEngine {
        /// The log's last index.
        last: u64,
        /// The engine's applied index.
        applied: u64,
    },
    /// The log begins after what the engine has applied: entries in between are gone.
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

/// Why the consensus thread ended before it was told to. Nothing of it is retried: a failed write or sync may have
/// lost data that a retry would report as written.
#[derive(Clone, Debug, Error)]
pub enum NodeFault {
    /// The log's disk failed.
    #[error("log: {0}")]
    Log(String),
    /// The engine failed.
    #[error("engine: {0}")]
    Engine(String),
    /// raft-rs refused what must not be refused.
    #[error("raft: {0}")]
    Raft(String),
    /// The consensus thread panicked.
    #[error("the consensus thread panicked")]
    Panicked,
}
