//! Leadership handed over on request: one at a time, until it is done or its time is up.

use super::Driver;
use crate::TransferError;
use crate::core::Input;
use std::time::Instant;
use tokio::sync::oneshot;

/// A hand-over of leadership under way.
pub(super) struct Transfer {
    pub(super) to: u64,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<(), TransferError>>,
}

impl Driver {
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
            // The other end may have gone away: then nobody waits.
            let _ = transfer.reply.send(Err(refusal));
            return;
        }
        self.core.step(now, Input::Transfer(transfer.to));
        if let Some(earlier) = self.transfer.replace(transfer) {
            let _ = earlier.reply.send(Err(TransferError::Timeout));
        }
    }

    pub(super) fn watch_transfer(&mut self, now: Instant) {
        let leader = self.core.leadership().leader;
        if let Some(transfer) = self.transfer.take_if(|t| t.to == leader || now >= t.deadline) {
            let result = if transfer.to == leader { Ok(()) } else { Err(TransferError::Timeout) };
            let _ = transfer.reply.send(result);
        }
    }
}
