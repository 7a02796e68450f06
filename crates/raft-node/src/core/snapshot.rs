//! Going on from a leader's snapshot. Its state was made durable beside the old one before raft hears of it, so that the
//! record in the log alone decides which of the two a member has after a crash.

use super::Core;
use crate::conf::wire_conf;
use crate::{NodeFault, SnapshotHead};
use proto::walpb;
use types::{HardState, Index};

impl Core {
    /// Whether a snapshot of this index was stepped, and is to be installed with the next work.
    pub fn is_restoring(&self) -> bool {
        self.node.snap().is_some()
    }

    /// Steps a snapshot as a message of the present leader. Without a leader nothing happens.
    pub(super) fn step_snapshot(&mut self, head: SnapshotHead) {
        let (leader, term, me) = (self.node.raft.leader_id, self.node.raft.term, self.node.raft.id);
        if leader == 0 || leader == me {
            return;
        }
        let (index, of_term) = head.point();
        if of_term > term {
            // A leader of the past would take the answer for its own entries.
            slog::warn!(self.logger, "dropped a snapshot of a later term than this member has heard of";
                "index" => index, "snapshot-term" => of_term, "term" => term);
            return;
        }
        if let Err(error) = self.node.step(head.sent_by(leader, term).0) {
            slog::warn!(self.logger, "raft ignored a snapshot"; "index" => index, "error" => %error);
        }
    }

    /// Records the snapshot in the log, if there is one. The hard state that commits it follows at once and alone, so
    /// that no entry comes between the two.
    pub(super) fn install(&mut self, ready: &raft::Ready) -> Result<Option<Index>, NodeFault> {
        if ready.snapshot().is_empty() {
            return Ok(None);
        }
        let metadata = ready.snapshot().get_metadata();
        let conf = metadata.get_conf_state();
        let conf_state = Some(wire_conf(conf));
        let record = walpb::Snapshot { index: Some(metadata.index), term: Some(metadata.term), conf_state };
        let state = self.node.raft.hard_state();
        let state = HardState { term: state.term, vote: state.vote, commit: state.commit };
        let store = self.node.mut_store();
        store.install(&record, &state)?;
        store.members_changed(conf.clone());
        store.log_mut().sync()?;
        self.written_commit = state.commit;
        Ok(Some(metadata.index))
    }
}
