//! The deadlines of one term: what each lease waits for next, and which leases have expired.

use crate::pace::{
    CHECKPOINT_FIRST, CHECKPOINT_INTERVAL, CHECKPOINT_SHORTEST, Pace, REVOKE_RETRY, REVOKES_PER_SECOND,
};
use crate::{Change, Info};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};
use types::mutant::{Mutant, is};
use types::{LeaseId, Term};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) ttl: i64,
    pub(crate) deadline: Instant,
    pub(crate) checkpoint_at: Option<Instant>,
    /// The only valid queue entry, never later than [`Clock::next`]; once expired, the position in `expired`.
    pub(crate) queued: Instant,
    pub(crate) state: ClockState,
    /// Whether a remaining TTL is applied.
    pub(crate) stored: bool,
    /// Checkpoints that are logged but not applied: the application of an older, clearing one must not hide them.
    pub(crate) in_flight: u32,
    /// Whether it belongs in the next checkpoint entry.
    pub(crate) due: bool,
    /// Whether a renewal is clearing the remaining TTL.
    pub(crate) clearing: bool,
}

impl Clock {
    fn new(lease: &Info, deadline: Instant, checkpoint_at: Option<Instant>) -> Self {
        let mut clock = Self {
            ttl: lease.ttl,
            deadline,
            checkpoint_at,
            queued: deadline,
            state: ClockState::Live,
            stored: lease.remaining_ttl > 0,
            in_flight: 0,
            due: false,
            clearing: false,
        };
        clock.queued = clock.next();
        clock
    }

    /// Whether the log may hold a remaining TTL, so that the next leader would find it.
    pub(crate) fn is_logged(&self) -> bool {
        self.stored || (self.in_flight > 0 && !is(Mutant::ForgetCheckpointInFlight))
    }

    /// When a live lease needs attention next.
    pub(crate) fn next(&self) -> Instant {
        self.checkpoint_at.map_or(self.deadline, |due| due.min(self.deadline))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockState {
    Live,
    Expired,
    Revoking,
}

/// The deadlines that a leader keeps for one term.
#[derive(Debug)]
pub struct Deadlines {
    pub(crate) term: Term,
    pub(crate) clocks: HashMap<LeaseId, Clock>,
    pub(crate) queue: BinaryHeap<Reverse<(Instant, LeaseId)>>,
    /// Expired leases whose revokes are not proposed yet, by deadline.
    pub(crate) expired: VecDeque<(Instant, LeaseId)>,
    pub(crate) checkpoints: VecDeque<LeaseId>,
    pub(crate) revoking: usize,
    /// When the last confirmed round began.
    pub(crate) confirmed: Option<Instant>,
    /// The earliest time for the next revokes, which are rate-limited.
    pub(crate) next_revoke: Instant,
}

impl Deadlines {
    /// The deadlines of a new leader that has applied all entries of earlier terms: every lease gets its remaining TTL,
    /// or its full one, plus an election timeout, spread so that revokes keep up. Half a second for a million leases:
    /// build it off the consensus thread; [`Deadlines::applied`] brings later changes.
    pub fn new(pace: Pace, now: Instant, term: Term, leases: impl IntoIterator<Item = Info>) -> Self {
        let extension = if is(Mutant::NoExtension) { Duration::ZERO } else { pace.extension };
        let end = |lease: &Info| later(now, seconds(left_of(lease)).saturating_add(extension));
        let mut order: Vec<(Instant, Info)> = leases.into_iter().map(|lease| (end(&lease), lease)).collect();
        order.sort_unstable_by_key(|(deadline, lease)| (*deadline, lease.id));
        // As etcd: spread at three quarters of the revoke rate, which leaves room for new leases.
        let distance = Duration::from_secs(1) / (REVOKES_PER_SECOND / 4 * 3);
        let mut free = now;
        let mut clocks = HashMap::with_capacity(order.len());
        let mut queue = Vec::with_capacity(order.len());
        for (deadline, lease) in order {
            let deadline = deadline.max(free);
            free = deadline + distance;
            let clock = Clock::new(&lease, deadline, first_after_promotion(now, deadline));
            queue.push(Reverse((clock.queued, lease.id)));
            clocks.insert(lease.id, clock);
        }
        Self {
            term,
            clocks,
            queue: queue.into(),
            expired: VecDeque::new(),
            checkpoints: VecDeque::new(),
            revoking: 0,
            confirmed: None,
            next_revoke: now,
        }
    }

    /// The term that the deadlines belong to.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Follows a change of the table. Returns whether it removed a lease that had expired.
    pub fn applied(&mut self, now: Instant, change: &Change) -> bool {
        match *change {
            Change::Granted { id, ttl } => {
                let deadline = later(now, seconds(ttl));
                let lease = Info { id, ttl, remaining_ttl: 0 };
                self.insert(&lease, deadline, first_after_renewal(now, deadline));
            }
            Change::Revoked { id } => {
                let Some(clock) = self.clocks.remove(&id) else { return false };
                self.revoking -= usize::from(clock.state == ClockState::Revoking);
                return clock.state == ClockState::Revoking;
            }
            Change::Checkpointed { id, remaining_ttl } => {
                if let Some(clock) = self.clocks.get_mut(&id) {
                    clock.stored = remaining_ttl > 0;
                    clock.in_flight = clock.in_flight.saturating_sub(clock.stored.into());
                    clock.clearing &= clock.is_logged();
                }
            }
        }
        false
    }

    fn insert(&mut self, lease: &Info, deadline: Instant, checkpoint_at: Option<Instant>) {
        let clock = Clock::new(lease, deadline, checkpoint_at);
        self.queue.push(Reverse((clock.queued, lease.id)));
        self.clocks.insert(lease.id, clock);
    }

    pub(crate) fn is_confirmed(&self, deadline: Instant) -> bool {
        self.confirmed.is_some_and(|began| began >= deadline) || is(Mutant::RevokeUnconfirmed)
    }

    /// Handles a queue entry that came due: what the lease waits for may have moved since.
    pub(crate) fn process_due(&mut self, now: Instant, at: Instant, id: LeaseId, checkpoints: bool) {
        let Some(clock) = self.clocks.get_mut(&id).filter(|clock| clock.queued == at) else { return };
        match clock.state {
            ClockState::Live if clock.deadline <= now => {
                let deadline = clock.deadline;
                return self.expire(deadline, id);
            }
            ClockState::Live => {}
            ClockState::Revoking => {
                // Its revoke was not applied for long: confirm leadership again and propose it once more.
                self.revoking -= 1;
                return self.expire(now, id);
            }
            ClockState::Expired => return,
        }
        let mut wants_checkpoint = false;
        if clock.checkpoint_at.is_some_and(|due| due <= now) {
            clock.checkpoint_at = next_checkpoint(now, clock.deadline);
            wants_checkpoint = checkpoints && !clock.clearing;
        }
        clock.queued = clock.next();
        self.queue.push(Reverse((clock.queued, id)));
        if wants_checkpoint {
            self.checkpoint(id);
        }
    }

    /// Marks the lease as expired: it waits for a round that begins after `since`, then for its revoke.
    fn expire(&mut self, since: Instant, id: LeaseId) {
        if let Some(clock) = self.clocks.get_mut(&id) {
            (clock.state, clock.queued) = (ClockState::Expired, since);
            self.expired.push_back((since, id));
        }
    }

    pub(crate) fn checkpoint(&mut self, id: LeaseId) {
        if let Some(clock) = self.clocks.get_mut(&id).filter(|clock| !clock.due) {
            clock.due = true;
            self.checkpoints.push_back(id);
        }
    }

    /// Marks the lease that expired at `since` as proposed, unless it was granted anew under the same ID.
    pub(crate) fn revoke(&mut self, now: Instant, since: Instant, id: LeaseId) -> bool {
        let expired = |clock: &&mut Clock| clock.state == ClockState::Expired && clock.queued == since;
        let Some(clock) = self.clocks.get_mut(&id).filter(expired) else {
            return false;
        };
        clock.state = ClockState::Revoking;
        clock.queued = now + REVOKE_RETRY;
        self.revoking += 1;
        self.queue.push(Reverse((clock.queued, id)));
        true
    }
}

/// What a new leader takes as the remaining TTL, seconds.
fn left_of(lease: &Info) -> i64 {
    if lease.remaining_ttl > 0 { lease.remaining_ttl } else { lease.ttl }
}

pub(crate) fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

/// `now + by`, or the latest time that the clock can represent.
pub(crate) fn later(now: Instant, by: Duration) -> Instant {
    /// Longer than any lease, and within the clock of every system.
    const LONGEST: Duration = Duration::from_secs(10_000_000_000);
    now.checked_add(by.min(LONGEST)).unwrap_or(now + CHECKPOINT_INTERVAL)
}

/// A checkpoint time, if it is before the deadline: later it would be useless.
fn if_before(deadline: Instant, at: Instant) -> Option<Instant> {
    (at + CHECKPOINT_SHORTEST <= deadline).then_some(at)
}

pub(crate) fn first_after_renewal(now: Instant, deadline: Instant) -> Option<Instant> {
    if_before(deadline, now + CHECKPOINT_FIRST)
}

/// The first checkpoint after a promotion: at two fifths of the TTL, when a living client would have renewed (a third).
fn first_after_promotion(now: Instant, deadline: Instant) -> Option<Instant> {
    let wait = deadline.duration_since(now) * 2 / 5;
    if_before(deadline, now + wait.clamp(CHECKPOINT_SHORTEST, CHECKPOINT_FIRST))
}

/// The next checkpoint. After the first, the lease counts as abandoned: the less is left, the more frequent they are.
fn next_checkpoint(now: Instant, deadline: Instant) -> Option<Instant> {
    let wait = deadline.duration_since(now) / 2;
    if_before(deadline, now + wait.clamp(CHECKPOINT_SHORTEST, CHECKPOINT_INTERVAL))
}
