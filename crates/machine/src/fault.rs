//! What ends this process, and what ends one operation.

use crate::Refusal;
use types::Index;

/// Nothing to answer a client with: the member stops.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The storage failed.
    #[error(transparent)]
    Engine(#[from] engine::Fault),
    /// A row that this crate wrote cannot be read.
    #[error("stored row {row} cannot be read: {reason}")]
    Row {
        /// Which.
        row: String,
        /// Why.
        reason: String,
    },
    /// A committed entry that no member can apply (etcd's would panic).
    #[error("entry {index} cannot be applied: {reason}")]
    Entry {
        /// Where it stands in the log.
        index: Index,
        /// What is wrong with it.
        reason: String,
    },
    /// Entries were handed over with a gap.
    #[error("entry {index} does not follow the applied index {applied}")]
    Gap {
        /// The entry that came.
        index: Index,
        /// The last one applied.
        applied: Index,
    },
    /// A read that the API should never have let through, or a store that contradicts itself.
    #[error("broken invariant: {0}")]
    Broken(&'static str),
}

/// Why an operation ended without an answer.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The client is refused, as on every member.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Whoever asked for a read has ended it.
    #[error(transparent)]
    GivenUp(#[from] mvcc::GivenUp),
    /// This process failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<engine::Fault> for Stop {
    fn from(fault: engine::Fault) -> Self {
        Stop::Fault(Fault::Engine(fault))
    }
}

impl From<mvcc::ReadError> for Stop {
    fn from(error: mvcc::ReadError) -> Self {
        match error {
            mvcc::ReadError::Compacted => Stop::Refused(Refusal::Compacted),
            mvcc::ReadError::FutureRevision => Stop::Refused(Refusal::FutureRevision),
            mvcc::ReadError::GivenUp(why) => Stop::GivenUp(why),
            mvcc::ReadError::Fault(fault) => Stop::Fault(Fault::Engine(fault)),
        }
    }
}
