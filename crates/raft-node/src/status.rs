//! A node's status, readable from any thread without asking the consensus thread.

use crate::core::PeerProgress;
use crate::member::MemberStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use types::lock;

/// A reading of the node's status. Fields are read one by one: each was true at some time during the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The newest term known.
    pub term: u64,
    /// The leader that this member knows; 0 = none.
    pub leader: u64,
    /// The newest commit index known here.
    pub commit: u64,
    /// The newest index applied here.
    pub applied: u64,
    /// The log's last index.
    pub last: u64,
    /// Whether this member leads.
    pub is_leader: bool,
    /// Whether this member is a learner.
    pub is_learner: bool,
    /// Whether this member has applied its own removal. It does nothing any more; the process should end.
    pub is_removed: bool,
    /// Requests waiting to reach the log.
    pub pending_proposals: usize,
}

/// The shared cells behind [`Status`], written only by the consensus thread.
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
    /// When the current leader was first seen.
    pub leader_since: Mutex<Option<Instant>>,
    /// Since when there is no leader; `None` while there is one, or before the first.
    pub leader_lost: Mutex<Option<Instant>>,
    /// A leader's knowledge of the members, renewed every tick; empty on other members.
    pub peers: Mutex<Vec<PeerProgress>>,
}

impl StatusCells {
    pub(crate) fn publish(&self, status: &MemberStatus) {
        let MemberStatus { leadership, commit, applied, last, is_removed } = *status;
        self.term.store(leadership.term, Relaxed);
        // A removed member knows no leader.
        self.leader.store(if is_removed { 0 } else { leadership.leader }, Relaxed);
        self.is_leader.store(leadership.is_leader && !is_removed, Relaxed);
        self.is_removed.store(is_removed, Relaxed);
        self.commit.store(commit, Relaxed);
        self.applied.store(applied, Relaxed);
        self.last.store(last, Relaxed);
    }

    pub(crate) fn leader_changed(&self, leader: u64, now: Instant) {
        *lock(&self.leader_lost) = (leader == 0).then_some(now);
        if leader != 0 {
            *lock(&self.leader_since) = Some(now);
        }
    }

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
