//! Leadership transfer on request: one at a time, until it is done or times out.

use super::{Done, Member};
use crate::TransferError;
use crate::core::Input;
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) id: u64,
    pub(super) to: u64,
    pub(super) deadline: Instant,
}

impl Member {
    pub(super) fn transfer(&mut self, now: Instant, mut transfer: Transfer) {
        let refusal = if !self.core.leadership().is_leader {
            Some(TransferError::NotLeader)
        } else if transfer.to == 0 {
            transfer.to = self.core.best_transferee().unwrap_or(0);
            (transfer.to == 0).then_some(TransferError::BadTransferee)
        } else {
            (!self.core.conf_state().voters.contains(&transfer.to)).then_some(TransferError::BadTransferee)
        };
        if let Some(refusal) = refusal {
            self.done.push(Done::Transferred(transfer.id, Err(refusal)));
            return;
        }
        self.core.step(now, Input::Transfer(transfer.to));
        if let Some(earlier) = self.transfer.replace(transfer) {
            self.done.push(Done::Transferred(earlier.id, Err(TransferError::Timeout)));
        }
    }

    pub(super) fn watch_transfer(&mut self, now: Instant) {
        let leader = self.core.leadership().leader;
        if let Some(transfer) = self.transfer.take_if(|t| t.to == leader || now >= t.deadline) {
            let result = if transfer.to == leader { Ok(()) } else { Err(TransferError::Timeout) };
            self.done.push(Done::Transferred(transfer.id, result));
        }
    }
}
