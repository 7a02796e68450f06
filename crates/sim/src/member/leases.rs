//! Keepalives, as `raft_node`'s handle serves them. Feeding and ending leases is the member's own code.

use super::{Around, ClientAnswer, Own, REQUEST_TIMEOUT, Waiter, Waits};
use crate::client::Ask;
use crate::trace::trace;
use lease::{Checkpoints, Renewal};
use proto::etcdserverpb as pb;
use raft_node::core::Proposal;
use raft_node::member::{Batch, Control};
use std::time::{Duration, Instant};
use types::LeaseId;

impl Own {
    pub(super) fn allow_checkpoints(&self, allowed: bool) {
        let checkpoints = if allowed { Checkpoints::Allowed } else { Checkpoints::Forbidden };
        self.lessor.with(|expirer| expirer.set_checkpoints(checkpoints));
    }

    pub(super) fn keep_alive(
        &mut self,
        now: Instant,
        id: LeaseId,
        waiter: Waiter,
        batch: &mut Batch,
        around: &mut Around<'_>,
    ) {
        let renewal = self.lessor.renew(now, id);
        trace!(around.trace, "member {} is asked to renew lease {id}: {renewal:?}", self.id);
        match renewal {
            Renewal::Renewed(ttl) => {
                around.oracle.promises.renewed(id, ttl, self.clock, self.shared.applied_index());
                self.kept(&waiter, true, around);
            }
            Renewal::Unconfirmed(term) => {
                self.read(Waits::Keepalive { waiter, lease: id, term, since: now }, batch);
            }
            Renewal::Checkpointed(term) => {
                let checkpoint = pb::LeaseCheckpoint { id, remaining_ttl: 0 };
                let request = pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] };
                let deadline = now + Duration::from_micros(REQUEST_TIMEOUT);
                let proposal = Proposal::of_command(&request.into(), self.ids.next_id(), deadline);
                // Some are patient.
                let deadline = now + Duration::from_micros(around.rng.below(REQUEST_TIMEOUT));
                self.wait_for(
                    proposal.id,
                    now,
                    deadline,
                    Waits::Keepalive { waiter, lease: id, term, since: now },
                );
                batch.controls.push(Control::ProposeInTerm { term, proposal });
            }
            Renewal::NotPrimary | Renewal::Unknown | Renewal::Expired => self.kept(&waiter, false, around),
        }
    }

    /// Ends expired waiters; their logged entries may still be applied.
    pub(super) fn give_up(&mut self, now: Instant, around: &mut Around<'_>) {
        for (_, waiter) in self.waiters.take_expired(now) {
            match waiter.reply {
                // It gives up by itself.
                Waits::Client(_) => {}
                Waits::Keepalive { waiter, lease, term, .. } => {
                    self.lessor.with(|expirer| expirer.not_cleared(term, lease));
                    self.kept(&waiter, false, around);
                }
            }
        }
    }

    /// What a keepalive waited for has happened: retries it in the next turn.
    pub(super) fn ask_again(&mut self, id: LeaseId, waiter: Waiter) {
        self.inbox.requests.push((Ask::KeepAlive(id), waiter));
    }

    pub(super) fn kept(&self, waiter: &Waiter, ok: bool, around: &mut Around<'_>) {
        let (client, number) = (waiter.client, waiter.number);
        let revision = ok.then_some(0);
        around.answers.push((self.clock, ClientAnswer { client, number, request_id: 0, revision }));
    }
}
