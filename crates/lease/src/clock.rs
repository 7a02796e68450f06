//! The clocks of one term: what each lease waits for, and which of them are over.

use crate::Info;
use crate::expirer::{CHECKPOINT_FIRST, CHECKPOINT_INTERVAL, CHECKPOINT_SHORTEST, REVOKE_RETRY};
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
pub(crate) struct Primary {
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

impl Primary {
    pub(crate) fn new(now: Instant, term: Term) -> Self {
        Self {
            term,
            clocks: HashMap::new(),
            queue: BinaryHeap::new(),
            expired: VecDeque::new(),
            checkpoints: VecDeque::new(),
            revoking: 0,
            confirmed: None,
            next_revoke: now,
        }
    }

    pub(crate) fn insert(&mut self, lease: &Info, deadline: Instant, checkpoint_at: Option<Instant>) {
        let mut clock = Clock {
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
    pub(crate) fn expire(&mut self, since: Instant, id: LeaseId) {
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
pub(crate) fn left_of(lease: &Info) -> i64 {
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
pub(crate) fn if_before(deadline: Instant, at: Instant) -> Option<Instant> {
    (at + CHECKPOINT_SHORTEST <= deadline).then_some(at)
}

pub(crate) fn first_after_renewal(now: Instant, deadline: Instant) -> Option<Instant> {
    if_before(deadline, now + CHECKPOINT_FIRST)
}

/// A client that is alive renews after a third of the time: who has not by two fifths is checkpointed, so that leases
/// end however often leaders change.
pub(crate) fn first_after_promotion(now: Instant, deadline: Instant) -> Option<Instant> {
    let wait = deadline.duration_since(now) * 2 / 5;
    if_before(deadline, now + wait.clamp(CHECKPOINT_SHORTEST, CHECKPOINT_FIRST))
}

/// After a first checkpoint the lease counts as left alone: the shorter its time, the closer they come.
pub(crate) fn next_checkpoint(now: Instant, deadline: Instant) -> Option<Instant> {
    let wait = deadline.duration_since(now) / 2;
    if_before(deadline, now + wait.clamp(CHECKPOINT_SHORTEST, CHECKPOINT_INTERVAL))
}
