//! Where this member stands: what raft knows, for those who ask.

use super::Core;
use crate::{Leadership, PeerProgress};
use raft::StateRole;
use types::{ConfState, Index};

impl Core {
    /// Whether a proposal would reach a log now. Without a leader, while leadership is handed over, or while too much
    /// is not committed or not applied, proposals wait.
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

    /// Whether the effects that wait to be taken say that this proposal was not logged.
    pub fn has_refused(&self, proposal: u64) -> bool {
        self.effects.refused.iter().any(|(id, _)| *id == proposal)
    }

    /// Whether this member has applied its own removal.
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// Who leads.
    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    /// (commit, applied, last) index.
    pub fn indexes(&self) -> (Index, Index, Index) {
        let log = &self.node.raft.raft_log;
        (log.committed, log.applied, log.last_index())
    }

    /// The members as raft counts them.
    pub fn conf_state(&self) -> ConfState {
        let mut conf = self.node.raft.prs().conf().to_conf_state();
        let (mut voters, mut learners) = (conf.take_voters(), conf.take_learners());
        voters.sort_unstable();
        learners.sort_unstable();
        ConfState { voters, learners }
    }

    /// What a leader knows of the members' logs; nothing elsewhere.
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
            })
            .collect()
    }

    /// The voter, other than this leader, whose log is the longest: the best to hand leadership to.
    pub fn best_transferee(&self) -> Option<u64> {
        let me = self.node.raft.id;
        self.peers()
            .into_iter()
            .filter(|peer| peer.member != me && !peer.is_learner && peer.active)
            .max_by_key(|peer| peer.matched)
            .map(|peer| peer.member)
    }
}
