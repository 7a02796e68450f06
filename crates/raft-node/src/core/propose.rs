//! Proposals: into this member's log if it leads, otherwise forwarded to the leader. All waiting ones become one
//! `MsgProp` of many entries: one step of raft, one message per follower.
//!
//! A peer's proposal is forwarded again, but only a few times and within its original deadline: members that take each
//! other for the leader would pass it on forever.

use super::{Core, Dropped};
use crate::ProposeError;
use crate::convert::{forward_context, raft_entry};
use crate::room::Permit;
use bytes::Bytes;
use machine::Command;
use raft::StateRole;
use raft::eraftpb::{self, MessageType};
use std::time::Instant;
use types::{EntryKind, Term};

/// A proposal: an entry that is to enter the log.
#[derive(Debug)]
pub struct Proposal {
    /// The waiter's request ID; 0 for a peer's entry, whose ID is inside the data.
    pub id: u64,
    /// The kind of entry.
    pub kind: EntryKind,
    /// The payload of the entry.
    pub data: Bytes,
    /// Dropped if it has not reached raft by then.
    pub deadline: Instant,
    /// How often it was sent between members; 0 = this member's own.
    pub hops: u8,
    /// The queue space it holds until it is logged or dropped.
    pub permit: Option<Permit>,
}

impl Proposal {
    /// A proposal of this member.
    pub fn new(id: u64, kind: EntryKind, data: Bytes, deadline: Instant) -> Self {
        Self { id, kind, data, deadline, hops: 0, permit: None }
    }

    /// A proposal forwarded by a member.
    pub fn forwarded(kind: EntryKind, data: Bytes, deadline: Instant, hops: u8) -> Self {
        Self { hops, ..Self::new(0, kind, data, deadline) }
    }

    /// A copy, as if another member had forwarded it.
    pub(crate) fn again(&self) -> Self {
        Self::forwarded(self.kind, self.data.clone(), self.deadline, self.hops)
    }

    /// An entry of this member's that asks for this.
    pub fn of_command(command: &Command, id: u64, deadline: Instant) -> Self {
        Self::new(id, EntryKind::Normal, command.encode(id), deadline)
    }
}

impl Core {
    /// Logs proposals, or forwards them to the leader. Those that cannot be accepted now are returned.
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

    /// Logs entries if this member leads the term; otherwise refuses them, and never forwards them.
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

    /// Appends one `MsgProp` with many entries: to the leader's own raft, or as a message to the leader.
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
            if run.last().is_some_and(|last| is_full || route(last) != route(&proposal)) {
                self.forward_run(now, std::mem::take(&mut run));
                bytes = 0;
            }
            bytes += proposal.data.len() as u64;
            run.push(proposal);
        }
        self.forward_run(now, run);
    }

    fn forward_run(&mut self, now: Instant, run: Vec<Proposal>) {
        let peers = run.first().filter(|proposal| proposal.hops > 0);
        let mark = peers.map_or_else(Bytes::new, |first| {
            forward_context(first.hops, first.deadline.saturating_duration_since(now))
        });
        self.append(run, mark);
    }
}

/// A proposal's forwarding history; `None` for this member's own.
fn route(proposal: &Proposal) -> Option<(u8, Instant)> {
    (proposal.hops > 0).then_some((proposal.hops, proposal.deadline))
}
