//! The clocks of one term: what each lease waits for, and which of them are over.

use crate::expirer::{
    CHECKPOINT_FIRST, CHECKPOINT_INTERVAL, CHECKPOINT_SHORTEST, Pace, REVOKE_RETRY, REVOKES_PER_SECOND,
};
use crate::{Change, Info};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};
use types::{LeaseId, Term};

/// One lease's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) ttl: i64,
    pub(crate) deadline: Instant,
    pub(crate) checkpoint_at: Option<Instant>,
    /// The time under which it stands in the queue: its only valid entry. Never later than what it waits for. Of an expired
    /// lease, the time under which it stands among these.
    pub(crate) queued: Instant,
    pub(crate) state: State,
    /// A remainder is applied.
    pub(crate) stored: bool,
    /// Remainders that are logged and not applied yet: a remainder that was cleared late must not hide them.
    pub(crate) in_flight: u32,
    /// It is to be checkpointed with the next entry.
    pub(crate) due: bool,
    /// A renewal clears the remainder.
    pub(crate) clearing: bool,
}

impl Clock {
    fn new(lease: &Info, deadline: Instant, checkpoint_at: Option<Instant>) -> Self {
        let mut clock = Self {
            ttl: lease.ttl,
            deadline,
            checkpoint_at,
            queued: deadline,
            state: State::Live,
            stored: lease.remaining_ttl > 0,
            in_flight: 0,
            due: false,
            clearing: false,
        };
        clock.queued = clock.next();
        clock
    }

    /// Whether the next leader may find a remainder.
    pub(crate) fn is_logged(&self) -> bool {
        self.stored || self.in_flight > 0
    }

    /// What a live lease waits for.
    pub(crate) fn next(&self) -> Instant {
        self.checkpoint_at.map_or(self.deadline, |due| due.min(self.deadline))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Live,
    Expired,
    Revoking,
}

/// The deadlines of one term.
#[derive(Debug)]
pub struct Deadlines {
    pub(crate) term: Term,
    pub(crate) clocks: HashMap<LeaseId, Clock>,
    pub(crate) queue: BinaryHeap<Reverse<(Instant, LeaseId)>>,
    /// Past their deadlines, in the order of these, and not proposed yet.
    pub(crate) expired: VecDeque<(Instant, LeaseId)>,
    pub(crate) checkpoints: VecDeque<LeaseId>,
    pub(crate) revoking: usize,
    /// When the last confirmation began.
    pub(crate) confirmed: Option<Instant>,
    /// No revokes before this: they keep their distance.
    pub(crate) next_revoke: Instant,
}

impl Deadlines {
    /// Those of a new leader that has applied all of the terms before: every lease gets what was left of it when that was
    /// last logged, else all of its time, and an election timeout. Where many would end together they are set apart, so
    /// that the revokes keep up.
    ///
    /// Of a million leases this takes half a second: nobody should have to wait for it. What is applied meanwhile is made
    /// up for with [`Deadlines::applied`].
    pub fn new(pace: Pace, now: Instant, term: Term, leases: impl IntoIterator<Item = Info>) -> Self {
        let end = |lease: &Info| later(now, seconds(left_of(lease)).saturating_add(pace.extension));
        let mut order: Vec<(Instant, Info)> = leases.into_iter().map(|lease| (end(&lease), lease)).collect();
        order.sort_unstable_by_key(|(deadline, lease)| (*deadline, lease.id));
        // Three quarters of what revokes allow for, as etcd: new ones have their share.
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

    /// The term for which they were made.
    pub fn term(&self) -> Term {
        self.term
    }

    /// An entry changed the table. Says whether that was the end of a lease whose time was over.
    pub fn applied(&mut self, now: Instant, change: &Change) -> bool {
        match *change {
            Change::Granted { id, ttl } => {
                let deadline = later(now, seconds(ttl));
                let lease = Info { id, ttl, remaining_ttl: 0 };
                self.insert(&lease, deadline, first_after_renewal(now, deadline));
            }
            Change::Revoked { id } => {
                let Some(clock) = self.clocks.remove(&id) else { return false };
                self.revoking -= usize::from(clock.state == State::Revoking);
                return clock.state == State::Revoking;
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
        self.confirmed.is_some_and(|began| began >= deadline)
    }

    /// An entry of the queue came up: what its lease waits for may have moved since.
    pub(crate) fn look_at(&mut self, now: Instant, at: Instant, id: LeaseId, checkpoints: bool) {
        let Some(clock) = self.clocks.get_mut(&id).filter(|clock| clock.queued == at) else { return };
        match clock.state {
            State::Live if clock.deadline <= now => {
                let deadline = clock.deadline;
                return self.expire(deadline, id);
            }
            State::Live => {}
            State::Revoking => {
                // It was not applied for long: once more, confirmed anew.
                self.revoking -= 1;
                return self.expire(now, id);
            }
            State::Expired => return,
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

    /// The lease waits for a confirmation that begins after this, and then for its revoke.
    fn expire(&mut self, since: Instant, id: LeaseId) {
        if let Some(clock) = self.clocks.get_mut(&id) {
            (clock.state, clock.queued) = (State::Expired, since);
            self.expired.push_back((since, id));
        }
    }

    /// The lease goes into one of the next checkpoints.
    pub(crate) fn checkpoint(&mut self, id: LeaseId) {
        if let Some(clock) = self.clocks.get_mut(&id).filter(|clock| !clock.due) {
            clock.due = true;
            self.checkpoints.push_back(id);
        }
    }

    /// Takes the lease that expired then as proposed to be revoked, if it is still there. A lease may have been granted
    /// with its ID since, and expired in its turn.
    pub(crate) fn revoke(&mut self, now: Instant, since: Instant, id: LeaseId) -> bool {
        let expired = |clock: &&mut Clock| clock.state == State::Expired && clock.queued == since;
        let Some(clock) = self.clocks.get_mut(&id).filter(expired) else {
            return false;
        };
        clock.state = State::Revoking;
        clock.queued = now + REVOKE_RETRY;
        self.revoking += 1;
        self.queue.push(Reverse((clock.queued, id)));
        true
    }
}

/// What a new leader must take as left of a lease, in seconds.
fn left_of(lease: &Info) -> i64 {
    if lease.remaining_ttl > 0 { lease.remaining_ttl } else { lease.ttl }
}

pub(crate) fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

/// A time later by this much, or as late as the clock goes.
pub(crate) fn later(now: Instant, by: Duration) -> Instant {
    /// Longer than any lease, and within what the clock of every system can say.
    const LONGEST: Duration = Duration::from_secs(10_000_000_000);
    now.checked_add(by.min(LONGEST)).unwrap_or(now + CHECKPOINT_INTERVAL)
}

/// A checkpoint must come well before the end, or it is worth nothing.
fn if_before(deadline: Instant, at: Instant) -> Option<Instant> {
    (at + CHECKPOINT_SHORTEST <= deadline).then_some(at)
}

pub(crate) fn first_after_renewal(now: Instant, deadline: Instant) -> Option<Instant> {
    if_before(deadline, now + CHECKPOINT_FIRST)
}

/// A client that is alive renews after a third of the time: who has not by two fifths is checkpointed, so that leases
/// end however often leaders change.
fn first_after_promotion(now: Instant, deadline: Instant) -> Option<Instant> {
    let wait = deadline.duration_since(now) * 2 / 5;
    if_before(deadline, now + wait.clamp(CHECKPOINT_SHORTEST, CHECKPOINT_FIRST))
}

/// After a first checkpoint the lease counts as left alone: the shorter its time, the closer they come.
fn next_checkpoint(now: Instant, deadline: Instant) -> Option<Instant> {
    let wait = deadline.duration_since(now) / 2;
    if_before(deadline, now + wait.clamp(CHECKPOINT_SHORTEST, CHECKPOINT_INTERVAL))
}
