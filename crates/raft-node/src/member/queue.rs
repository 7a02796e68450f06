//! Proposals that wait for a leader, or for room in the log.

use crate::Limits;
use crate::core::Proposal;
use std::collections::VecDeque;
use std::time::Instant;
use types::EntryKind;

#[derive(Debug, Default)]
pub(super) struct Queue {
    normal: VecDeque<Proposal>,
    /// Membership changes. Only one may be in progress, so they must not hold up the others.
    changes: VecDeque<Proposal>,
    retry_changes: bool,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.normal.is_empty() && self.changes.is_empty()
    }

    pub(super) fn is_due(&self) -> bool {
        !self.normal.is_empty() || (self.retry_changes && !self.changes.is_empty())
    }

    pub(super) fn push(&mut self, proposal: Proposal) {
        match proposal.kind {
            EntryKind::Normal => self.normal.push_back(proposal),
            EntryKind::ConfChange => {
                self.changes.push_back(proposal);
                self.retry_changes = true;
            }
        }
    }

    pub(super) fn push_front(&mut self, proposal: Proposal) {
        match proposal.kind {
            EntryKind::Normal => self.normal.push_front(proposal),
            EntryKind::ConfChange => self.changes.push_front(proposal),
        }
    }

    pub(super) fn retry_changes(&mut self) {
        self.retry_changes = true;
    }

    /// The next batch, as large as the limits allow. Expired proposals are dropped.
    pub(super) fn take(&mut self, now: Instant, limits: &Limits) -> Vec<Proposal> {
        let (entries_max, bytes_max) = (limits.batch_entries.max(1), limits.batch_bytes.max(1));
        let mut batch = Vec::with_capacity(self.normal.len().min(entries_max));
        let mut bytes = 0;
        while batch.len() < entries_max
            && bytes < bytes_max
            && let Some(proposal) = self.normal.pop_front()
        {
            if proposal.deadline > now {
                bytes += proposal.data.len();
                batch.push(proposal);
            }
        }
        if std::mem::take(&mut self.retry_changes) {
            batch.extend(self.changes.drain(..).filter(|change| change.deadline > now));
        }
        batch
    }

    pub(super) fn drop_expired(&mut self, now: Instant) {
        for queue in [&mut self.normal, &mut self.changes] {
            queue.retain(|proposal| proposal.deadline > now);
        }
    }
}
