//! The lessor: lease deadlines, shared by the member that maintains them and the tasks that renew leases.

use crate::limits::Limits;
use crate::room::{Permit, Room};
use lease::{Change, Deadlines, Expirer, Pace, Renewal};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use types::{LeaseId, lock};

pub(crate) const RETRY: Duration = Duration::from_millis(50);
/// Upper bounds of the histogram of granted TTLs: 1 s to 2^23 s (etcd: `ExponentialBuckets(1, 2, 24)`).
pub const TTL_BUCKETS: usize = 24;

/// The expirer behind a lock, with waiters and counters.
#[derive(Debug)]
pub struct Lessor {
    inner: Mutex<Inner>,
    /// Limits how many tasks collect a lease's many keys at once.
    gathering: Arc<Semaphore>,
}

#[derive(Debug)]
struct Inner {
    expirer: Expirer,
    waiting: Waiting,
    counts: LeaseCounts,
}

/// Renewals of expired leases, waiting until those are gone. Dropping the sender wakes them.
#[derive(Debug)]
struct Waiting {
    by_lease: HashMap<LeaseId, Vec<(oneshot::Sender<()>, Permit)>>,
    room: Arc<Room>,
}

impl Waiting {
    fn wait(&mut self, id: LeaseId) -> Option<oneshot::Receiver<()>> {
        if let Some(waiting) =
            self.by_lease.get_mut(&id).filter(|waiting| waiting.len() == waiting.capacity())
        {
            // Waiters that gave up make room.
            waiting.retain(|(waits, _)| !waits.is_closed());
        }
        if self.room.is_full() {
            return None;
        }
        let (waits, gone) = oneshot::channel();
        self.by_lease.entry(id).or_default().push((waits, self.room.take(0)));
        Some(gone)
    }

    fn gone(&mut self, id: LeaseId) {
        self.by_lease.remove(&id);
    }
}

/// Counters of leases on this member since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// Leases granted, on any member.
    pub granted: u64,
    /// Leases revoked, on any member.
    pub revoked: u64,
    /// Renewals, counted on the leader.
    pub renewed: u64,
    /// Leases that expired, counted on the leader.
    pub expired: u64,
    /// The sum of all granted TTLs, seconds.
    pub ttl_sum: u64,
    /// Grants by TTL: index i counts those of at most 2^i seconds (above the previous bound), the last all longer ones.
    pub ttl_buckets: [u64; TTL_BUCKETS + 1],
}

impl Lessor {
    /// A lessor without leases.
    pub fn new(election_timeout: Duration, limits: &Limits) -> Self {
        let expirer = Expirer::new(Pace::of(election_timeout));
        let room = Room::new(limits.renewals_waiting, usize::MAX);
        let waiting = Waiting { by_lease: HashMap::new(), room };
        let inner = Mutex::new(Inner { expirer, waiting, counts: LeaseCounts::default() });
        let gathering = Arc::new(Semaphore::new(limits.lease_keys_threads));
        Self { inner, gathering }
    }

    /// Runs `act` on the expirer, under its lock.
    pub fn with<T>(&self, act: impl FnOnce(&mut Expirer) -> T) -> T {
        act(&mut lock(&self.inner).expirer)
    }

    pub(crate) fn promote(&self, deadlines: Deadlines) {
        let before = self.with(|expirer| expirer.promote(deadlines));
        // Dropped outside the lock: there may be many.
        drop(before);
    }

    /// Ends the term: drops its deadlines and wakes its waiters.
    pub(crate) fn demote(&self) {
        let mut inner = lock(&self.inner);
        let before = (inner.expirer.demote(), std::mem::take(&mut inner.waiting.by_lease));
        drop(inner);
        drop(before);
    }

    pub(crate) fn applied(&self, now: Instant, changes: &[Change]) {
        let mut inner = lock(&self.inner);
        for change in changes {
            let expired = inner.expirer.applied(now, change);
            if let Change::Revoked { id } = change {
                inner.waiting.gone(*id);
            }
            inner.counts.count(change, expired);
        }
    }

    /// Renews a lease, if that is possible at once.
    pub fn renew(&self, now: Instant, id: LeaseId) -> Renewal {
        let mut inner = lock(&self.inner);
        let renewal = inner.expirer.renew(now, id);
        inner.counts.renewed += u64::from(matches!(renewal, Renewal::Renewed(_)));
        renewal
    }

    pub(crate) fn counts(&self) -> LeaseCounts {
        lock(&self.inner).counts
    }

    pub(crate) async fn turn_at_gathering(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.gathering).acquire_owned().await.ok()
    }

    /// Waits until the lease is gone or the term ends; if too many wait already, for a fixed time.
    pub(crate) async fn gone(&self, id: LeaseId) {
        let gone = {
            let mut inner = lock(&self.inner);
            if inner.expirer.deadline(id).is_none() {
                return;
            }
            inner.waiting.wait(id)
        };
        match gone {
            Some(gone) => drop(gone.await),
            None => tokio::time::sleep(RETRY).await,
        }
    }
}

impl LeaseCounts {
    fn count(&mut self, change: &Change, expired: bool) {
        match *change {
            Change::Granted { ttl, .. } => {
                self.granted += 1;
                let ttl = u64::try_from(ttl).unwrap_or(0);
                self.ttl_sum = self.ttl_sum.wrapping_add(ttl);
                // The first bound at or above: 1 s at 0, 2 s at 1, 3 and 4 s at 2.
                let at = ttl.max(1).next_power_of_two().trailing_zeros() as usize;
                self.ttl_buckets[at.min(TTL_BUCKETS)] += 1;
            }
            Change::Revoked { .. } => {
                self.revoked += 1;
                self.expired += u64::from(expired);
            }
            Change::Checkpointed { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_wait_up_to_a_limit_and_who_gave_up_makes_room() {
        const MAX: usize = 64;
        let mut waiting = Waiting { by_lease: HashMap::new(), room: Room::new(MAX, usize::MAX) };
        let mut held: Vec<_> = (0..MAX).map(|_| waiting.wait(7).unwrap()).collect();
        assert!(waiting.wait(8).is_none());
        assert_eq!(waiting.by_lease.len(), 1, "who is refused leaves nothing behind");
        drop(held.split_off(1));
        assert!(waiting.wait(7).is_some(), "nobody was left but one");
        assert!(waiting.wait(8).is_some() && waiting.room.count() == 3);
        waiting.gone(7);
        assert!(held[0].try_recv().is_err() && waiting.room.count() == 1);
        waiting.gone(9);
        waiting.gone(8);
        assert_eq!((waiting.room.count(), waiting.by_lease.len()), (0, 0));
    }
}
