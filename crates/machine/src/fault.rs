//! Errors that stop this process, and errors that end one operation.

use crate::Refusal;
use types::Index;

/// A failure of this process: there is no answer for clients, and the member stops.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The storage engine failed.
    #[error(transparent)]
    Engine(#[from] engine::Fault),
    /// A row that this crate wrote cannot be decoded.
    #[error("stored row {row} cannot be read: {reason}")]
    Row {
        /// The key of the row.
        row: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A committed entry that no member can apply (etcd's would panic).
    #[error("entry {index} cannot be applied: {reason}")]
    Entry {
        /// The entry's place in the log.
        index: Index,
        /// What is wrong with it.
        reason: String,
    },
    /// The entries passed in skip an index.
    #[error("entry {index} does not follow the applied index {applied}")]
    Gap {
        /// The index of the entry passed.
        index: Index,
        /// The last applied index.
        applied: Index,
    },
    /// A read that the API should have refused, or a store that contradicts itself.
    #[error("broken invariant: {0}")]
    Broken(&'static str),
}

/// Why an operation ended without an answer.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// A refusal, the same on every member.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The reader's budget or cancellation ended it.
    #[error(transparent)]
    GivenUp(#[from] mvcc::GivenUp),
    /// This process failed; the member stops.
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
