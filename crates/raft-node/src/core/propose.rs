//! The way of a proposal into a log: this member's where it leads, the leader's where it follows.
//!
//! Everything that waits becomes one `MsgProp` of many entries: one step of raft, and one message a follower.

use super::{Core, Proposal};
use crate::ProposeError;
use crate::convert::raft_entry;
use crate::limits::MESSAGE_BYTES_MAX;
use raft::StateRole;
use raft::eraftpb::{self, MessageType};
use types::{EntryKind, Term};

impl Core {
    /// Puts proposals into the log, or on the way to the leader's. What cannot be taken now comes back.
    pub(super) fn propose(&mut self, proposals: Vec<Proposal>) {
        if !self.takes_proposals() {
            self.effects.returned.extend(proposals);
            return;
        }
        if self.node.raft.state == StateRole::Leader {
            self.propose_as_leader(proposals);
        } else {
            self.forward(proposals);
        }
    }

    /// Puts entries into the log if this member leads the term; they never leave it otherwise.
    pub(super) fn propose_in_term(&mut self, term: Term, proposals: Vec<Proposal>) {
        let raft = &self.node.raft;
        let is_mine = raft.state == StateRole::Leader && raft.term == term && self.takes_proposals();
        let left = if is_mine { self.log_or_return(proposals) } else { proposals };
        self.effects.refused.extend(left.iter().map(|proposal| (proposal.id, ProposeError::NoLeader)));
    }

    fn propose_as_leader(&mut self, proposals: Vec<Proposal>) {
        let mut run = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            match proposal.kind {
                EntryKind::Normal => run.push(proposal),
                EntryKind::ConfChange => {
                    self.append(std::mem::take(&mut run));
                    self.propose_change(proposal);
                }
            }
        }
        self.append(run);
    }

    /// One `MsgProp` with many entries: to the leader's own raft, or by it to the leader.
    fn append(&mut self, run: Vec<Proposal>) {
        let returned = self.log_or_return(run);
        self.effects.returned.extend(returned);
    }

    fn log_or_return(&mut self, run: Vec<Proposal>) -> Vec<Proposal> {
        if run.is_empty() {
            return run;
        }
        let mut message = eraftpb::Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node.raft.id;
        let entries: Vec<_> = run.iter().map(|p| raft_entry(p.kind, 0, 0, p.data.clone())).collect();
        message.set_entries(entries.into());
        if self.node.raft.step(message).is_err() { run } else { Vec::new() }
    }

    fn forward(&mut self, proposals: Vec<Proposal>) {
        let mut run = Vec::new();
        let mut bytes = 0;
        for proposal in proposals {
            bytes += proposal.data.len() as u64;
            run.push(proposal);
            if bytes >= MESSAGE_BYTES_MAX {
                self.append(std::mem::take(&mut run));
                bytes = 0;
            }
        }
        self.append(run);
    }
}
