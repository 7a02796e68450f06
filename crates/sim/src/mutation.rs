//! Members that are broken on purpose: the oracles must find each of them, or they prove nothing.

use raft_node::core::Log;
use types::{Entry, HardState, Index, Term};
use wal::{MemDisk, Wal, WalError};

/// A way to be wrong. For the tests of the simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Promises are sent before the log is synced: the sync comes with the next write.
    SendBeforeSync,
    /// Terms and votes are never written.
    LoseHardState,
    /// One member leaves out an entry that it should apply.
    SkipEntry,
    /// A read is answered from what the member has, without asking the others.
    ReadWithoutQuorum,
    /// A write is acknowledged when it is proposed.
    AnswerBeforeCommit,
    /// The log is let go of before the engine has flushed what it held.
    ReleaseBeforeFlush,
    /// What was forwarded to the leader is forwarded again.
    ForwardTwice,
    /// A watcher that comes back is told from one revision too late.
    ResumeTooLate,
    /// Progress is announced to watchers that have not been told everything.
    PromiseTooEarly,
    /// Leases are renewed by whoever believes to lead.
    RenewWithoutQuorum,
    /// Revokes of leases whose time is over are proposed by whoever believes to lead, and forwarded.
    ExpireOnFormerLeader,
    /// A lease that a client has revoked is revoked for its end too: by then it may have been granted again.
    EndLeaseTwice,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::SendBeforeSync,
        Self::LoseHardState,
        Self::SkipEntry,
        Self::ReadWithoutQuorum,
        Self::AnswerBeforeCommit,
        Self::ReleaseBeforeFlush,
        Self::ForwardTwice,
        Self::ResumeTooLate,
        Self::PromiseTooEarly,
        Self::RenewWithoutQuorum,
        Self::ExpireOnFormerLeader,
        Self::EndLeaseTwice,
    ];
}

/// The log as a broken driver would use it.
pub(crate) struct MutantLog {
    pub(crate) wal: Wal<MemDisk>,
    pub(crate) mutation: Mutation,
}

impl Log for MutantLog {
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), WalError> {
        match self.mutation {
            Mutation::LoseHardState => self.wal.append(entries, None),
            Mutation::SendBeforeSync => {
                self.wal.sync()?;
                self.wal.append(entries, hard_state)
            }
            _ => self.wal.append(entries, hard_state),
        }
    }

    fn sync(&mut self) -> Result<(), WalError> {
        if self.mutation == Mutation::SendBeforeSync { Ok(()) } else { self.wal.sync() }
    }

    fn first_index(&self) -> Index {
        self.wal.first_index()
    }

    fn last_index(&self) -> Index {
        self.wal.last_index()
    }

    fn term(&self, index: Index) -> Option<Term> {
        self.wal.term(index)
    }

    fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, WalError> {
        self.wal.entries(low, high, max_bytes)
    }

    fn hard_state(&self) -> HardState {
        self.wal.hard_state()
    }

    fn release(&mut self, index: Index) -> Result<(), WalError> {
        self.wal.release(index)
    }
}
