//! Keepalives, as `raft_node`'s handle serves them. Feeding and ending leases is the member's own code.

use super::{Around, ClientAnswer, Own, REQUEST_TIMEOUT, Waiter, Waits};
use crate::trace::trace;
use lease::Checkpoints;
use raft_node::core::Proposal;
use raft_node::waiters::Waiter as Waiting;
use raft_node::{RenewalStep, Renewing};
use std::time::{Duration, Instant};

/// A keepalive, and what it waits for.
pub(super) struct Keepalive {
    waiter: Waiter,
    renewing: Renewing,
    waits_for: RenewalStep,
    since: Instant,
}

impl Own {
    pub(super) fn allow_checkpoints(&self, allowed: bool) {
        let checkpoints = if allowed { Checkpoints::Allowed } else { Checkpoints::Forbidden };
        self.lessor.with(|expirer| expirer.set_checkpoints(checkpoints));
    }

    pub(super) fn keep_alive(
        &mut self,
        now: Instant,
        mut renewing: Renewing,
        waiter: &Waiter,
        around: &mut Around<'_>,
    ) {
        let (id, step) = (renewing.id(), renewing.step(&self.lessor, now));
        trace!(around.trace, "member {} is asked to renew lease {id}: {step:?}", self.id);
        let waits = |waits_for| {
            Waits::Keepalive(Box::new(Keepalive { waiter: waiter.clone(), renewing, waits_for, since: now }))
        };
        let waits_for = step.clone();
        let is_queued = match step {
            RenewalStep::Done(Ok(ttl)) => {
                around.oracle.promises.renewed(id, ttl, self.clock, self.shared.applied_index());
                return self.kept(waiter, true, around);
            }
            // Nobody here is so patient as to wait until it is gone.
            RenewalStep::Done(Err(_)) | RenewalStep::Gone => false,
            RenewalStep::Applied | RenewalStep::Confirmed(_) => self.pending.read(waits(waits_for)).is_ok(),
            RenewalStep::Cleared(term, request) => {
                let deadline = now + Duration::from_micros(REQUEST_TIMEOUT);
                let proposal = Proposal::of_command(&request.into(), self.ids.next_id(), deadline);
                // Some are patient.
                let deadline = now + Duration::from_micros(around.rng.below(REQUEST_TIMEOUT));
                let waiting = Waiting { reply: waits(waits_for), since: now, deadline };
                self.pending.propose_in_term(term, proposal, waiting).is_ok()
            }
        };
        if !is_queued {
            self.kept(waiter, false, around);
        }
    }

    /// What a keepalive waited for has happened, or will not: goes on in the next turn, or gives up.
    pub(super) fn waited(&mut self, keepalive: Keepalive, is_ok: bool, around: &mut Around<'_>) {
        let Keepalive { waiter, renewing, waits_for, since } = keepalive;
        match waits_for {
            RenewalStep::Confirmed(term) if is_ok => {
                self.lessor.with(|expirer| expirer.confirm(term, since));
            }
            RenewalStep::Cleared(term, _) if !is_ok => {
                self.lessor.with(|expirer| expirer.not_cleared(term, renewing.id()));
            }
            _ => {}
        }
        if is_ok {
            self.renewals.push((renewing, waiter));
        } else {
            self.kept(&waiter, false, around);
        }
    }

    /// Ends expired waiters; their logged entries may still be applied.
    pub(super) fn give_up(&mut self, now: Instant, around: &mut Around<'_>) {
        for (_, waiter) in self.pending.take_expired(now) {
            match waiter.reply {
                // It gives up by itself.
                Waits::Client(_) => {}
                Waits::Keepalive(keepalive) => self.waited(*keepalive, false, around),
            }
        }
    }

    pub(super) fn kept(&self, waiter: &Waiter, ok: bool, around: &mut Around<'_>) {
        let (client, number) = (waiter.client, waiter.number);
        let revision = ok.then_some(0);
        around.answers.push((self.clock, ClientAnswer { client, number, request_id: 0, revision }));
    }
}
