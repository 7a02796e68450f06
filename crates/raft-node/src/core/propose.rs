//! The way of a proposal into a log: this member's where it leads, the leader's where it follows.
//!
//! Everything that waits becomes one `MsgProp` of many entries: one step of raft, and one message a follower.
//!
//! A proposal that a peer forwarded is handed on where this member does not lead (any more), but only a few times, and its
//! time is not renewed: members that take each other for the leader would send it round for ever.

use super::{Core, Dropped, Proposal};
use crate::ProposeError;
use crate::convert::{hop_mark, raft_entry};
use bytes::Bytes;
use raft::StateRole;
use raft::eraftpb::{self, MessageType};
use std::time::Instant;
use types::{EntryKind, Term};

impl Core {
    /// Puts proposals into the log, or on the way to the leader's. What cannot be taken now comes back.
    pub(super) fn propose(&mut self, now: Instant, proposals: Vec<Proposal>) {
        if !self.takes_proposals() {
            self.effects.returned.extend(proposals);
            return;
        }
        if self.node.raft.state == StateRole::Leader {
            self.propose_as_leader(proposals);
        } else {
            self.forward(now, proposals);
        }
    }

    /// Puts entries into the log if this member leads the term; they never leave it otherwise.
    pub(super) fn propose_in_term(&mut self, term: Term, proposals: Vec<Proposal>) {
        let raft = &self.node.raft;
        let is_mine = raft.state == StateRole::Leader && raft.term == term && self.takes_proposals();
        let left = if is_mine { self.log_or_return(proposals, Bytes::new()) } else { proposals };
        self.effects.refused.extend(left.iter().map(|proposal| (proposal.id, ProposeError::NoLeader)));
    }

    fn propose_as_leader(&mut self, proposals: Vec<Proposal>) {
        let mut run = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            match proposal.kind {
                EntryKind::Normal => run.push(proposal),
                EntryKind::ConfChange => {
                    self.append(std::mem::take(&mut run), Bytes::new());
                    self.propose_change(proposal);
                }
            }
        }
        self.append(run, Bytes::new());
    }

    /// One `MsgProp` with many entries: to the leader's own raft, or by it to the leader.
    fn append(&mut self, run: Vec<Proposal>, mark: Bytes) {
        let returned = self.log_or_return(run, mark);
        self.effects.returned.extend(returned);
    }

    fn log_or_return(&mut self, run: Vec<Proposal>, mark: Bytes) -> Vec<Proposal> {
        if run.is_empty() {
            return run;
        }
        let mut message = eraftpb::Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node.raft.id;
        let entries: Vec<_> = run.iter().map(|p| raft_entry(p.kind, 0, 0, p.data.clone())).collect();
        message.set_entries(entries.into());
        message.context = mark;
        if self.node.raft.step(message).is_err() { run } else { Vec::new() }
    }

    fn forward(&mut self, now: Instant, proposals: Vec<Proposal>) {
        let mut run: Vec<Proposal> = Vec::new();
        let mut bytes = 0;
        for proposal in proposals {
            if proposal.hops > self.limits.forward_hops {
                self.effects.dropped.push(Dropped::Proposal);
                continue;
            }
            let is_full = bytes >= self.limits.message_bytes || run.len() >= self.limits.peer_entries.max(1);
            if run.last().is_some_and(|last| is_full || road(last) != road(&proposal)) {
                self.forward_run(now, std::mem::take(&mut run));
                bytes = 0;
            }
            bytes += proposal.data.len() as u64;
            run.push(proposal);
        }
        self.forward_run(now, run);
    }

    /// Entries that came by the same road go in one message, and the road with them.
    fn forward_run(&mut self, now: Instant, run: Vec<Proposal>) {
        let peers = run.first().filter(|proposal| proposal.hops > 0);
        let mark = peers.map_or_else(Bytes::new, |first| {
            hop_mark(first.hops, first.deadline.saturating_duration_since(now))
        });
        self.append(run, mark);
    }
}

/// What a message says of the way of its entries. Of this member's own it says nothing.
fn road(proposal: &Proposal) -> Option<(u8, Instant)> {
    (proposal.hops > 0).then_some((proposal.hops, proposal.deadline))
}
