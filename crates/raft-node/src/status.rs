//! Where a node stands, as any thread may read it without asking the consensus thread.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A reading of the node's state. Fields are read one by one: they are each true at some time during the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The term.
    pub term: u64,
    /// The leader this member knows of; 0 = none.
    pub leader: u64,
    /// The newest committed index known here.
    pub commit: u64,
    /// The newest index applied here.
    pub applied: u64,
    /// The log's last index.
    pub last: u64,
    /// Whether this member leads.
    pub is_leader: bool,
    /// Whether this member has no vote.
    pub is_learner: bool,
    /// Whether this member has applied its own removal. It does nothing any more and the process should end.
    pub is_removed: bool,
    /// Requests waiting to reach the log.
    pub pending_proposals: usize,
}

/// Who leads, for those who wait for changes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// The leader; 0 = none.
    pub leader: u64,
    /// Whether it is this member.
    pub is_leader: bool,
}

/// How far a member's log is known to match the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The member.
    pub member: u64,
    /// The newest index it has stored.
    pub matched: u64,
    /// Whether it answered within the last election timeout.
    pub active: bool,
    /// Whether it has no vote.
    pub is_learner: bool,
}

/// The shared cells behind [`Status`]; written by the consensus thread only.
#[derive(Debug, Default)]
pub(crate) struct StatusCells {
    pub term: AtomicU64,
    pub leader: AtomicU64,
    pub commit: AtomicU64,
    pub applied: AtomicU64,
    pub last: AtomicU64,
    pub is_leader: AtomicBool,
    pub is_learner: AtomicBool,
    pub is_removed: AtomicBool,
    /// When the leader of now was first seen.
    pub leader_since: Mutex<Option<Instant>>,
    /// Since when there has been no leader; `None` while there is one, and before the first was seen.
    pub leader_lost: Mutex<Option<Instant>>,
    /// What a leader knows of the members, renewed every tick; empty elsewhere.
    pub peers: Mutex<Vec<PeerProgress>>,
}

impl StatusCells {
    pub(crate) fn read(&self, pending_proposals: usize) -> Status {
        Status {
            term: self.term.load(Relaxed),
            leader: self.leader.load(Relaxed),
            commit: self.commit.load(Relaxed),
            applied: self.applied.load(Relaxed),
            last: self.last.load(Relaxed),
            is_leader: self.is_leader.load(Relaxed),
            is_learner: self.is_learner.load(Relaxed),
            is_removed: self.is_removed.load(Relaxed),
            pending_proposals,
        }
    }
}
