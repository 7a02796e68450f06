//! Queries of raft's state.

use super::Core;
use raft::{ProgressState, StateRole};
use types::{ConfState, Index};

/// Who leads, for subscribers to changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The newest term known.
    pub term: u64,
    /// The leader's ID; 0 = none.
    pub leader: u64,
    /// Whether this member leads.
    pub is_leader: bool,
}

/// A leader's knowledge of a member's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The ID of the member.
    pub member: u64,
    /// The highest index known to be on its disk.
    pub matched: u64,
    /// Whether it responded within the last election timeout.
    pub active: bool,
    /// Whether it is a learner, without a vote.
    pub is_learner: bool,
    /// The index of the snapshot that it is being sent; 0 = none.
    pub snapshot: Index,
}

impl Core {
    /// Whether a proposal would be accepted now: not without a leader, in a transfer, or with too much in progress.
    pub fn takes_proposals(&self) -> bool {
        let (raft, limits) = (&self.node.raft, &self.limits);
        let log = &raft.raft_log;
        !self.removed
            && raft.leader_id != 0
            && raft.lead_transferee.is_none()
            && log.committed - log.applied <= limits.backlog_entries
            && (raft.state != StateRole::Leader
                || (log.last_index() - log.committed <= limits.uncommitted_entries
                    && raft.uncommitted_size() <= limits.uncommitted_bytes))
    }

    /// Whether the pending effects say that this proposal was refused.
    pub fn has_refused(&self, proposal: u64) -> bool {
        self.effects.refused.iter().any(|(id, _)| *id == proposal)
    }

    /// Whether this member has applied its own removal.
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// The current leadership, as raft sees it.
    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    /// The (commit, applied, last) indexes.
    pub fn indexes(&self) -> (Index, Index, Index) {
        let log = &self.node.raft.raft_log;
        (log.committed, log.applied, log.last_index())
    }

    /// The voters and learners in raft's configuration.
    pub fn conf_state(&self) -> ConfState {
        let mut conf = self.node.raft.prs().conf().to_conf_state();
        let (mut voters, mut learners) = (conf.take_voters(), conf.take_learners());
        voters.sort_unstable();
        learners.sort_unstable();
        ConfState { voters, learners }
    }

    /// A leader's knowledge of the members' logs; empty on other members.
    pub fn peers(&self) -> Vec<PeerProgress> {
        if self.node.raft.state != StateRole::Leader {
            return Vec::new();
        }
        let prs = self.node.raft.prs();
        let learners = prs.conf().learners();
        prs.iter()
            .map(|(id, pr)| PeerProgress {
                member: *id,
                matched: pr.matched,
                active: pr.recent_active || *id == self.node.raft.id,
                is_learner: learners.contains(id),
                snapshot: if pr.state == ProgressState::Snapshot { pr.pending_snapshot } else { 0 },
            })
            .collect()
    }

    /// The best target for a leadership transfer: another voter, with the longest log.
    pub fn best_transferee(&self) -> Option<u64> {
        let me = self.node.raft.id;
        self.peers()
            .into_iter()
            .filter(|peer| peer.member != me && !peer.is_learner && peer.active)
            .max_by_key(|peer| peer.matched)
            .map(|peer| peer.member)
    }
}
