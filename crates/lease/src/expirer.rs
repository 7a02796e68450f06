//! The leader's clockwork: when which lease ends, as a function of what happened and of the time given.
//!
//! ```text
//! promote (first entry of the own term applied) ─▶ deadlines: what is left + an election timeout, spread out
//! granted · revoked · checkpointed (applied) ────▶ one entry a lease in a queue of times, renewals leave it alone
//! renew ─▶ confirmed lately? live? nothing logged of what is left? ─▶ a later deadline, no log entry
//!
//! deadline passed ─▶ expired ─▶ leadership confirmed after it ─▶ revokes, a few at a time ─▶ applied: gone
//! not renewed for long ─▶ checkpoints: what is left, for the next leader
//! ```
//!
//! Invariants:
//! * There are deadlines only between [`Expirer::promote`] and [`Expirer::demote`], and they belong to one term. What is
//!   handed out is to be logged by that term's leader or by nobody: whoever forwards it breaks the promise.
//! * A deadline only ever moves back. Once it has passed, the lease is not renewed any more: it is gone, or this member
//!   is not the leader.
//! * A lease is revoked only after a confirmation that began after its deadline, and renewed only within
//!   [`Pace::confirmed_for`] of one: a leader that comes after adds an election timeout, which covers the difference.
//! * Nothing is handed out for a lease whose revoke is in the log: what comes behind it would meet a lease granted with the
//!   same ID.
//! * A lease of which the log knows a remainder is renewed only after that is cleared through the log, or the next
//!   leader would end it early.

use crate::clock::{Deadlines, State, first_after_renewal, later, seconds};
use crate::{Change, Checkpoint};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use types::{LeaseId, Term};

/// Revokes proposed within a second: a hundred thousand leases that end together are gone in ten seconds, and the log
/// stays free for the clients. etcd allows itself 1,000.
pub const REVOKES_PER_SECOND: u32 = 10_000;
/// Revokes proposed and not applied yet: what one commit may carry besides the clients' entries. So they never come
/// faster than they are applied here.
pub const REVOKES_IN_FLIGHT_MAX: usize = 256;
/// A lease whose revoke was proposed and which is still there is tried again after this long (etcd:
/// `defaultExpiredleaseRetryInterval`).
pub const REVOKE_RETRY: Duration = Duration::from_secs(3);
/// Revokes handed out at once: few enough that what a client sends meanwhile hardly waits for them.
pub const REVOKE_BATCH_MAX: usize = 64;
/// Leases looked at in one [`Expirer::tick`]: of a million about a millisecond, in which no lease is renewed.
pub(crate) const LOOKS_MAX: usize = 512;
/// Leases in one checkpoint entry (etcd: `maxLeaseCheckpointBatchSize`).
pub const CHECKPOINTS_MAX: usize = 1_000;
/// A lease that was granted or renewed is not checkpointed before this long: one that is kept alive mostly never is.
pub const CHECKPOINT_FIRST: Duration = Duration::from_mins(1);
/// The longest time between two checkpoints of one lease (etcd: `defaultLeaseCheckpointInterval`).
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_mins(5);
/// The shortest time between two checkpoints of one lease; what is closer to its end needs none.
pub const CHECKPOINT_SHORTEST: Duration = Duration::from_secs(1);

/// How a member's settings bear on leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Added to every deadline by a new leader: an election timeout. The leader before may have renewed that long after
    /// it was last confirmed.
    pub extension: Duration,
    /// How long after the begin of a confirmation leases may still be renewed; less than `extension`.
    pub confirmed_for: Duration,
}

impl Pace {
    /// Of a member with this election timeout.
    pub fn of(election_timeout: Duration) -> Self {
        Self { extension: election_timeout, confirmed_for: election_timeout / 4 * 3 }
    }
}

/// Whether what is left of leases is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoints {
    /// Nobody knows yet who might lead next: nothing is logged, and what is there stays.
    Undecided,
    /// Every member that may lead clears the remainder of a lease that it renews.
    Allowed,
    /// A member that may lead does not (etcd's, by default) and would end leases early: remainders are cleared.
    Forbidden,
}

/// What came of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It lasts for its whole TTL (seconds) again.
    Renewed(i64),
    /// This member does not lead, or has not applied its term's first entry yet.
    NotPrimary,
    /// There is no such lease among what is applied here.
    Unknown,
    /// Its time is over: it is gone soon, or somebody else leads.
    Expired,
    /// Leadership must be confirmed in this term first; then ask again.
    Unconfirmed(Term),
    /// A checkpoint with nothing left must be logged in this term first; then ask again. Until that is applied, or
    /// [`Expirer::not_cleared`] is called, the lease is not checkpointed.
    Checkpointed(Term),
}

/// When which lease ends.
#[derive(Debug)]
pub struct Expirer {
    pace: Pace,
    checkpoints: Checkpoints,
    primary: Option<Deadlines>,
}

impl Expirer {
    /// One that knows of no lease. Checkpoints wait for [`Expirer::set_checkpoints`].
    pub fn new(pace: Pace) -> Self {
        Self { pace, checkpoints: Checkpoints::Undecided, primary: None }
    }

    /// How this member's settings bear on leases.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// This member leads a term. Hands back the deadlines of before, if there were some: to give the memory back takes
    /// a while too.
    #[must_use]
    pub fn promote(&mut self, deadlines: Deadlines) -> Option<Deadlines> {
        let before = self.primary.replace(deadlines);
        self.clear_if_forbidden();
        before
    }

    /// This member does not lead any more: there are no deadlines. Hands back those of before.
    #[must_use]
    pub fn demote(&mut self) -> Option<Deadlines> {
        self.primary.take()
    }

    /// The term of the deadlines, while there are any.
    pub fn term(&self) -> Option<Term> {
        self.primary.as_ref().map(|primary| primary.term)
    }

    /// Says who might lead next; whether that is news.
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

    /// An entry changed the table. Says whether that was the end of a lease whose time was over.
    pub fn applied(&mut self, now: Instant, change: &Change) -> bool {
        self.primary.as_mut().is_some_and(|primary| primary.applied(now, change))
    }

    /// Leadership of this term was confirmed by a round that began then.
    pub fn confirm(&mut self, term: Term, began: Instant) {
        if let Some(primary) = self.primary.as_mut().filter(|primary| primary.term == term) {
            primary.confirmed = primary.confirmed.max(Some(began));
        }
    }

    /// Whether leases wait for a confirmation that begins now; only while there is nothing to revoke without.
    pub fn wants_confirmation(&self) -> bool {
        let Some(primary) = &self.primary else { return false };
        primary.expired.front().is_some_and(|(deadline, _)| !primary.is_confirmed(*deadline))
    }

    /// Renews a lease, without an entry in the log.
    pub fn renew(&mut self, now: Instant, id: LeaseId) -> Renewal {
        let Some(primary) = &mut self.primary else { return Renewal::NotPrimary };
        let confirmed_for = self.pace.confirmed_for;
        if primary.confirmed.is_none_or(|began| now.duration_since(began) > confirmed_for) {
            return Renewal::Unconfirmed(primary.term);
        }
        let Some(clock) = primary.clocks.get_mut(&id) else { return Renewal::Unknown };
        if clock.state != State::Live || clock.deadline <= now {
            return Renewal::Expired;
        }
        if clock.is_logged() {
            clock.clearing = true;
            return Renewal::Checkpointed(primary.term);
        }
        // Not earlier than it was: the deadline may hold an extension.
        clock.deadline = clock.deadline.max(later(now, seconds(clock.ttl)));
        clock.checkpoint_at = first_after_renewal(now, clock.deadline);
        // Mostly both are later than before. After a checkpoint the next one may be sooner.
        if clock.next() < clock.queued {
            clock.queued = clock.next();
            primary.queue.push(Reverse((clock.queued, id)));
        }
        Renewal::Renewed(clock.ttl)
    }

    /// What [`Renewal::Checkpointed`] asked for is not known to be logged.
    pub fn not_cleared(&mut self, term: Term, id: LeaseId) {
        let is_forbidden = self.checkpoints == Checkpoints::Forbidden;
        let Some(primary) = self.primary.as_mut().filter(|primary| primary.term == term) else { return };
        let Some(clock) = primary.clocks.get_mut(&id) else { return };
        clock.clearing = false;
        // Nobody may ask again, and a member may lead next that would not clear it.
        if is_forbidden && clock.is_logged() {
            primary.checkpoint(id);
        }
    }

    /// What [`Expirer::take_checkpoints`] handed out in this term was not logged, and never will be.
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

    /// Seconds until the lease ends, cut off towards zero; below zero while it waits for its revoke. `None` without
    /// such a lease here, or without deadlines.
    pub fn remaining(&self, now: Instant, id: LeaseId) -> Option<i64> {
        let clock = self.primary.as_ref()?.clocks.get(&id)?;
        let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Some(match clock.deadline.checked_duration_since(now) {
            Some(left) => whole(left),
            None => -whole(now.duration_since(clock.deadline)),
        })
    }

    /// The deadline of a lease, if it is known here.
    pub fn deadline(&self, id: LeaseId) -> Option<Instant> {
        Some(self.primary.as_ref()?.clocks.get(&id)?.deadline)
    }

    /// Looks at the time: deadlines that passed, checkpoints that are due. Where many are due, some wait for the next
    /// call, and [`Expirer::wake_at`] is past.
    pub fn tick(&mut self, now: Instant) {
        let Some(primary) = &mut self.primary else { return };
        for _ in 0..LOOKS_MAX {
            let Some(Reverse((at, id))) = primary.queue.peek().copied().filter(|Reverse((at, _))| *at <= now)
            else {
                return;
            };
            primary.queue.pop();
            primary.look_at(now, at, id, self.checkpoints == Checkpoints::Allowed);
        }
    }

    /// Whether [`Expirer::take_revokes`] or [`Expirer::take_checkpoints`] may hand out something.
    pub fn wants_to_log(&self) -> bool {
        let Some(primary) = &self.primary else { return false };
        !(primary.expired.is_empty() && primary.checkpoints.is_empty())
    }

    /// The next leases to revoke in this term, if any may go now. They are taken as proposed; so are those whose revokes
    /// are `going` through the log already.
    pub fn take_revokes(&mut self, now: Instant, going: &HashSet<LeaseId>) -> Vec<LeaseId> {
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
            if primary.revoke(now, since, id) && !going.contains(&id) {
                ids.push(id);
            }
        }
        let per_batch = |count: usize| {
            Duration::from_secs(1) * u32::try_from(count).unwrap_or(u32::MAX) / REVOKES_PER_SECOND
        };
        // Who comes late for a batch may make up for it, but not for more than that.
        let due = primary.next_revoke.max(now.checked_sub(per_batch(REVOKE_BATCH_MAX)).unwrap_or(now));
        primary.next_revoke = due + per_batch(ids.len());
        ids
    }

    /// One entry's worth of checkpoints to log in this term; empty when none is due, or may be logged. None for leases
    /// whose revokes are `going` through the log.
    pub fn take_checkpoints(&mut self, now: Instant, going: &HashSet<LeaseId>) -> Vec<Checkpoint> {
        let mut taken = Vec::new();
        let may_log = self.checkpoints != Checkpoints::Undecided;
        let Some(primary) = self.primary.as_mut().filter(|_| may_log) else { return taken };
        while taken.len() < CHECKPOINTS_MAX
            && let Some(id) = primary.checkpoints.pop_front()
        {
            let Some(clock) = primary.clocks.get_mut(&id) else { continue };
            // A lease that was granted with the ID of one that was due is not.
            if !std::mem::take(&mut clock.due) {
                continue;
            }
            if clock.clearing || clock.state != State::Live || going.contains(&id) {
                continue;
            }
            if self.checkpoints == Checkpoints::Forbidden {
                clock.clearing = true;
                taken.push(Checkpoint { id, remaining_ttl: 0 });
                continue;
            }
            // As etcd, rounded up: a second more is a promise kept.
            let left = clock.deadline.saturating_duration_since(now);
            let remaining_ttl = i64::try_from(left.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX);
            if remaining_ttl > 0 && remaining_ttl < clock.ttl {
                clock.in_flight += 1;
                taken.push(Checkpoint { id, remaining_ttl });
            }
        }
        taken
    }

    /// When there is something to do next, if nothing else happens. Not while a confirmation is awaited.
    pub fn wake_at(&self) -> Option<Instant> {
        let primary = self.primary.as_ref()?;
        let next = primary.queue.peek().map(|Reverse((at, _))| *at);
        let can_revoke = primary.expired.front().is_some_and(|(deadline, _)| primary.is_confirmed(*deadline))
            && primary.revoking < REVOKES_IN_FLIGHT_MAX;
        let revoke = can_revoke.then_some(primary.next_revoke);
        [next, revoke].into_iter().flatten().min()
    }

    /// How many leases have deadlines.
    pub fn len(&self) -> usize {
        self.primary.as_ref().map_or(0, |primary| primary.clocks.len())
    }

    /// Whether none has.
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
