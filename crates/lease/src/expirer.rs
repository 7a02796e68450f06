//! The leader's side of leases: deadlines, renewals, revokes and checkpoints, as a function of changes and time.
//!
//! ```text
//! promote (first entry of own term applied) ─▶ deadlines: remaining TTL + election timeout, spread
//! granted · revoked · checkpointed (applied) ─▶ queue by time, one entry a lease; renewals leave it alone
//! renew ─▶ confirmed recently? alive? no remaining TTL in the log? ─▶ later deadline, no log entry
//!
//! deadline passed ─▶ expired ─▶ leadership confirmed after it ─▶ revokes, a few at a time ─▶ applied: gone
//! not renewed for long ─▶ checkpoint: the remaining TTL, for the next leader
//! ```
//!
//! Invariants:
//! * Deadlines exist only between [`Expirer::promote`] and [`Expirer::demote`], and belong to one term. What is handed
//!   out must be proposed by that term's leader and never forwarded.
//! * A deadline only moves later. Once it has passed, the lease is never renewed: it ends, or this member does not
//!   lead.
//! * A lease is revoked only after a confirmation of leadership that began after its deadline, and renewed only within
//!   [`Pace::confirmed_for`] of one. A new leader adds an election timeout, which covers the difference.
//! * Nothing is handed out for a lease whose revoke is in the log: it might hit a new lease granted under the same ID.
//! * A lease with a remaining TTL in the log is renewed only once that is cleared, or the next leader would end it
//!   early.

use crate::clock::{ClockState, Deadlines, first_after_renewal, later, seconds};
use crate::pace::{
    CHECKPOINTS_MAX, LOOKS_MAX, Pace, REVOKE_BATCH_MAX, REVOKES_IN_FLIGHT_MAX, REVOKES_PER_SECOND,
};
use crate::{Change, Checkpoint};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use types::mutant::{Mutant, is};
use types::{LeaseId, Term};

/// Whether checkpoints are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoints {
    /// Unknown who may lead next: log nothing, keep what is there.
    Undecided,
    /// Every potential leader clears the remaining TTL of a lease that it renews.
    Allowed,
    /// Some potential leader (etcd's, by default) does not, and would end leases early: clear all remaining TTLs.
    Forbidden,
}

/// The result of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Renewed for its whole TTL (seconds).
    Renewed(i64),
    /// This member does not lead, or has not applied its term's first entry.
    NotPrimary,
    /// No such lease is applied here.
    Unknown,
    /// It is past its deadline: it will be revoked, or another member leads.
    Expired,
    /// First confirm leadership in this term, then retry.
    Unconfirmed(Term),
    /// First log a checkpoint without remaining TTL in this term, then retry. Until it is applied or
    /// [`Expirer::not_cleared`] is called, the lease is not checkpointed.
    Checkpointed(Term),
}

/// Decides when each lease ends.
#[derive(Debug)]
pub struct Expirer {
    pace: Pace,
    checkpoints: Checkpoints,
    primary: Option<Deadlines>,
}

impl Expirer {
    /// An expirer without deadlines. Checkpoints wait for [`Expirer::set_checkpoints`].
    pub fn new(pace: Pace) -> Self {
        Self { pace, checkpoints: Checkpoints::Undecided, primary: None }
    }

    /// The settings that affect leases.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Starts leading a term. Returns the previous deadlines, if any, because freeing them takes time too.
    #[must_use]
    pub fn promote(&mut self, deadlines: Deadlines) -> Option<Deadlines> {
        let before = self.primary.replace(deadlines);
        self.clear_if_forbidden();
        before
    }

    /// Stops leading: drops the deadlines. Returns them, because freeing them takes time.
    #[must_use]
    pub fn demote(&mut self) -> Option<Deadlines> {
        self.primary.take()
    }

    /// The term of the deadlines, if there are any.
    pub fn term(&self) -> Option<Term> {
        self.primary.as_ref().map(|primary| primary.term)
    }

    /// Sets whether checkpoints are logged; returns whether that changed.
    pub fn set_checkpoints(&mut self, checkpoints: Checkpoints) -> bool {
        let is_new = self.checkpoints != checkpoints;
        if is_new {
            self.checkpoints = checkpoints;
            self.clear_if_forbidden();
        }
        is_new
    }

    fn clear_if_forbidden(&mut self) {
        let is_forbidden = self.checkpoints == Checkpoints::Forbidden;
        let Some(primary) = self.primary.as_mut().filter(|_| is_forbidden) else { return };
        let mut ids = Vec::new();
        for (id, clock) in &mut primary.clocks {
            clock.due = clock.is_logged() && !clock.clearing;
            ids.extend(clock.due.then_some(*id));
        }
        ids.sort_unstable();
        primary.checkpoints = ids.into();
    }

    /// Follows a change of the table. Returns whether it removed a lease that had expired.
    pub fn applied(&mut self, now: Instant, change: &Change) -> bool {
        self.primary.as_mut().is_some_and(|primary| primary.applied(now, change))
    }

    /// Reports that a round begun at `began` confirmed leadership of this term.
    pub fn confirm(&mut self, term: Term, began: Instant) {
        if let Some(primary) = self.primary.as_mut().filter(|primary| primary.term == term) {
            primary.confirmed = primary.confirmed.max(Some(began));
        }
    }

    /// Whether expired leases wait for a new confirmation; not while some can be revoked already.
    pub fn wants_confirmation(&self) -> bool {
        let Some(primary) = &self.primary else { return false };
        primary.expired.front().is_some_and(|(deadline, _)| !primary.is_confirmed(*deadline))
    }

    /// Renews a lease without a log entry, if possible.
    pub fn renew(&mut self, now: Instant, id: LeaseId) -> Renewal {
        let Some(primary) = &mut self.primary else { return Renewal::NotPrimary };
        let confirmed_for = self.pace.confirmed_for;
        let is_confirmed = primary.confirmed.is_some_and(|began| now.duration_since(began) <= confirmed_for);
        if !is_confirmed && !is(Mutant::RenewUnconfirmed) {
            return Renewal::Unconfirmed(primary.term);
        }
        let Some(clock) = primary.clocks.get_mut(&id) else { return Renewal::Unknown };
        if (clock.state != ClockState::Live || clock.deadline <= now) && !is(Mutant::RenewExpired) {
            return Renewal::Expired;
        }
        if clock.is_logged() && !is(Mutant::RenewUncleared) {
            clock.clearing = true;
            return Renewal::Checkpointed(primary.term);
        }
        // Never earlier: the deadline may include an election timeout.
        clock.deadline = clock.deadline.max(later(now, seconds(clock.ttl)));
        clock.checkpoint_at = first_after_renewal(now, clock.deadline);
        // Usually both are later. After a checkpoint the next one may be sooner.
        if clock.next() < clock.queued {
            clock.queued = clock.next();
            primary.queue.push(Reverse((clock.queued, id)));
        }
        Renewal::Renewed(clock.ttl)
    }

    /// Reports that the checkpoint asked for by [`Renewal::Checkpointed`] may not be logged.
    pub fn not_cleared(&mut self, term: Term, id: LeaseId) {
        let is_forbidden = self.checkpoints == Checkpoints::Forbidden;
        let Some(primary) = self.primary.as_mut().filter(|primary| primary.term == term) else { return };
        let Some(clock) = primary.clocks.get_mut(&id) else { return };
        clock.clearing = false;
        // Nobody may ask again, and the next leader might not clear it.
        if is_forbidden && clock.is_logged() {
            primary.checkpoint(id);
        }
    }

    /// Reports that checkpoints of [`Expirer::take_checkpoints`] in this term were not logged and never will be.
    pub fn not_logged(&mut self, term: Term, checkpoints: &[Checkpoint]) {
        let Some(primary) = self.primary.as_mut().filter(|primary| primary.term == term) else { return };
        for checkpoint in checkpoints {
            let Some(clock) = primary.clocks.get_mut(&checkpoint.id) else { continue };
            if checkpoint.remaining_ttl > 0 {
                clock.in_flight = clock.in_flight.saturating_sub(1);
            } else {
                clock.clearing = false;
                primary.checkpoint(checkpoint.id);
            }
        }
    }

    /// Seconds left, rounded towards zero; negative while its revoke is pending. `None` without lease or deadlines.
    pub fn remaining(&self, now: Instant, id: LeaseId) -> Option<i64> {
        let clock = self.primary.as_ref()?.clocks.get(&id)?;
        let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Some(match clock.deadline.checked_duration_since(now) {
            Some(left) => whole(left),
            None => -whole(now.duration_since(clock.deadline)),
        })
    }

    /// The deadline of a lease, if known here.
    pub fn deadline(&self, id: LeaseId) -> Option<Instant> {
        Some(self.primary.as_ref()?.clocks.get(&id)?.deadline)
    }

    /// Processes what is due. What is too much waits for the next call: [`Expirer::wake_at`] is then in the past.
    pub fn tick(&mut self, now: Instant) {
        let Some(primary) = &mut self.primary else { return };
        for _ in 0..LOOKS_MAX {
            let Some(Reverse((at, id))) = primary.queue.peek().copied().filter(|Reverse((at, _))| *at <= now)
            else {
                return;
            };
            primary.queue.pop();
            primary.process_due(now, at, id, self.checkpoints == Checkpoints::Allowed);
        }
    }

    /// Whether [`Expirer::take_revokes`] or [`Expirer::take_checkpoints`] may return something.
    pub fn wants_to_log(&self) -> bool {
        let Some(primary) = &self.primary else { return false };
        !(primary.expired.is_empty() && primary.checkpoints.is_empty())
    }

    /// The next leases to revoke in this term, if any may go now; they count as proposed, as do those in `revoking`.
    pub fn take_revokes(&mut self, now: Instant, revoking: &HashSet<LeaseId>) -> Vec<LeaseId> {
        let mut ids = Vec::new();
        let Some(primary) = &mut self.primary else { return ids };
        if now < primary.next_revoke {
            return ids;
        }
        while ids.len() < REVOKE_BATCH_MAX
            && primary.revoking < REVOKES_IN_FLIGHT_MAX
            && let Some((since, id)) = primary.expired.front().copied()
            && primary.is_confirmed(since)
        {
            primary.expired.pop_front();
            if primary.revoke(now, since, id) && !revoking.contains(&id) {
                ids.push(id);
            }
        }
        let per_batch = |count: usize| {
            Duration::from_secs(1) * u32::try_from(count).unwrap_or(u32::MAX) / REVOKES_PER_SECOND
        };
        // A late caller may catch up by one batch, no more.
        let due = primary.next_revoke.max(now.checked_sub(per_batch(REVOKE_BATCH_MAX)).unwrap_or(now));
        primary.next_revoke = due + per_batch(ids.len());
        ids
    }

    /// The checkpoints for one entry of this term, or none. Skips leases whose revokes are in the log (`revoking`).
    pub fn take_checkpoints(&mut self, now: Instant, revoking: &HashSet<LeaseId>) -> Vec<Checkpoint> {
        let mut taken = Vec::new();
        let may_log = self.checkpoints != Checkpoints::Undecided;
        let Some(primary) = self.primary.as_mut().filter(|_| may_log) else { return taken };
        while taken.len() < CHECKPOINTS_MAX
            && let Some(id) = primary.checkpoints.pop_front()
        {
            let Some(clock) = primary.clocks.get_mut(&id) else { continue };
            // It may be a new lease under the ID of one that was due.
            if !std::mem::take(&mut clock.due) {
                continue;
            }
            if clock.clearing || clock.state != ClockState::Live || revoking.contains(&id) {
                continue;
            }
            if self.checkpoints == Checkpoints::Forbidden {
                clock.clearing = true;
                taken.push(Checkpoint { id, remaining_ttl: 0 });
                continue;
            }
            // Rounded up, as in etcd: never less than promised.
            let left = clock.deadline.saturating_duration_since(now);
            let remaining_ttl = i64::try_from(left.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX);
            if remaining_ttl > 0 && remaining_ttl < clock.ttl {
                clock.in_flight += 1;
                taken.push(Checkpoint { id, remaining_ttl });
            }
        }
        taken
    }

    /// When to call [`Expirer::tick`] next if nothing else happens. Excludes waiting for a confirmation.
    pub fn wake_at(&self) -> Option<Instant> {
        let primary = self.primary.as_ref()?;
        let next = primary.queue.peek().map(|Reverse((at, _))| *at);
        let can_revoke = primary.expired.front().is_some_and(|(deadline, _)| primary.is_confirmed(*deadline))
            && primary.revoking < REVOKES_IN_FLIGHT_MAX;
        let revoke = can_revoke.then_some(primary.next_revoke);
        [next, revoke].into_iter().flatten().min()
    }

    /// The number of leases with deadlines.
    pub fn len(&self) -> usize {
        self.primary.as_ref().map_or(0, |primary| primary.clocks.len())
    }

    /// Whether no lease has a deadline.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
#[path = "tests/expirer.rs"]
mod tests;

#[cfg(test)]
#[path = "tests/naive.rs"]
mod naive;
