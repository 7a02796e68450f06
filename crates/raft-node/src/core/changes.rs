//! Membership changes. etcd's numbers are add 0, remove 1, update 2, add learner 3. In raft-rs 2 adds a learner and 3
//! cannot be decoded, but its leader decodes what is proposed. So a leader bypasses raft-rs's `step`: the change is
//! decoded here with prost, checked as raft-rs would, and appended; the log's bytes stay etcd's. When it is applied,
//! raft-rs receives it in its own numbers. Updates and refused changes never reach it.

use super::{Core, Effects, Proposal};
use crate::convert::raft_entry;
use crate::{NodeFault, ProposeError};
use bytes::Bytes;
use machine::{ConfChangeKind, Effect, Outcome};
use prost::Message as _;
use proto::raftpb;
use raft::eraftpb;
use std::sync::Arc;
use types::EntryKind;

impl Core {
    /// On the leader: appends a change to the log, or returns it until the previous one is applied.
    pub(super) fn propose_change(&mut self, proposal: Proposal) {
        let Some(change) = decode(&proposal.data) else {
            slog::warn!(self.logger, "dropped a change of members that cannot be read"; "bytes" => proposal.data.len());
            return refuse(&mut self.effects, &proposal, ProposeError::Fault);
        };
        let me = self.node.raft.id;
        let removes_me =
            change.r#type() == raftpb::ConfChangeType::ConfChangeRemoveNode && change.node_id() == me;
        if self.node.raft.lead_transferee.is_some() || self.node.raft.has_pending_conf() {
            self.effects.returned.push(proposal);
            return;
        }
        if removes_me && self.conf_state().voters == [me] {
            return refuse(&mut self.effects, &proposal, ProposeError::NotEnoughMembers);
        }
        if removes_me {
            // raft-rs panics in a leader that applied its own removal, and of two members, the other could not be
            // elected. So the change is forwarded to a new leader. Just after a quorum check no member is active.
            if let Some(other) = self.best_transferee() {
                slog::info!(self.logger, "handing leadership over before this member is removed";
                    "to" => format!("{other:x}"));
                self.node.transfer_leader(other);
            }
            self.effects.returned.push(proposal);
            return;
        }
        let raft = &mut self.node.raft;
        let index = raft.raft_log.last_index() + 1;
        let mut entries = [raft_entry(EntryKind::ConfChange, 0, 0, proposal.data.clone())];
        if raft.append_entry(&mut entries) {
            raft.pending_conf_index = index;
            raft.bcast_append();
        } else {
            self.effects.returned.push(proposal);
        }
    }

    pub(super) fn apply_change(&mut self, outcome: &Outcome) -> Result<(), NodeFault> {
        let Effect::Conf { change, accepted: true, .. } = &outcome.effect else {
            return Ok(());
        };
        let kind = match change.kind {
            ConfChangeKind::AddNode => eraftpb::ConfChangeType::AddNode,
            ConfChangeKind::AddLearner => eraftpb::ConfChangeType::AddLearnerNode,
            ConfChangeKind::Remove => eraftpb::ConfChangeType::RemoveNode,
            ConfChangeKind::Update => return Ok(()),
        };
        if kind == eraftpb::ConfChangeType::RemoveNode && change.node == self.node.raft.id {
            // raft-rs must not be called any more: see the contract, point 7.
            self.removed = true;
            return Ok(());
        }
        let mut translated = eraftpb::ConfChange::default();
        translated.set_change_type(kind);
        translated.node_id = change.node;
        match self.node.apply_conf_change(&translated) {
            Ok(conf) => {
                self.node.mut_store().members_changed(conf);
                Ok(())
            }
            Err(error) => Err(NodeFault::Change { index: outcome.index, source: Arc::new(error) }),
        }
    }
}

/// Decodes a change as etcd does; `None` for what etcd's members would panic on.
fn decode(data: &Bytes) -> Option<raftpb::ConfChange> {
    machine::check(EntryKind::ConfChange, data).ok()?;
    raftpb::ConfChange::decode(&data[..]).ok()
}

fn refuse(effects: &mut Effects, proposal: &Proposal, error: ProposeError) {
    if proposal.id != 0 {
        effects.refused.push((proposal.id, error));
    }
}
