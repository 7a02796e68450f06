//! The leader's leases, between the consensus thread (which feeds and empties the clockwork, see `driver::leases`) and
//! the tasks of the runtime that renew and ask.
//!
//! Any member may be asked: who does not lead asks the leader over the peers' port ([`Outbound`]), as etcd's members do.
//!
//! A renewal costs a lock and a look at the clock: no entry in the log, and a round of leadership's confirmation only
//! when the last one is older than [`lease::Pace::confirmed_for`]; all that wait share it.

use crate::front::{Command, Waiter, lock};
use crate::handle::Handle;
use crate::limits::Limits;
use crate::{Asked, LeaseError, ProposeError};
use bytes::Bytes;
use lease::{Change, Checkpoints, Deadlines, Expirer, Pace, Renewal};
use proto::etcdserverpb as pb;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};
use types::{LeaseId, Term};

/// Before what could not be logged now is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// How long a question about a lease waits for what is committed to be applied (etcd: `applyTimeout`).
const APPLY_MAX: Duration = Duration::from_secs(1);
/// Upper bounds of the histogram of granted TTLs: 1 s to 2^23 s (etcd: `ExponentialBuckets(1, 2, 24)`).
pub const TTL_BUCKETS: usize = 24;

/// What consensus thread and runtime share.
#[derive(Debug)]
pub(crate) struct Lessor {
    inner: Mutex<Inner>,
    counters: Counters,
    /// Turns at gathering what hangs on a lease, where that is much.
    gathering: Arc<Semaphore>,
}

#[derive(Debug)]
struct Inner {
    expirer: Expirer,
    waiting: Waiting,
}

/// Renewals of leases whose time is over. Nothing is ever sent to them: the sender goes.
#[derive(Debug, Default)]
struct Waiting {
    by_lease: HashMap<LeaseId, Vec<oneshot::Sender<()>>>,
    count: usize,
    count_max: usize,
}

impl Waiting {
    /// One more, if there is room.
    fn wait(&mut self, id: LeaseId) -> Option<oneshot::Receiver<()>> {
        if let Some(waiting) =
            self.by_lease.get_mut(&id).filter(|waiting| waiting.len() == waiting.capacity())
        {
            // Who gave up makes room.
            let before = waiting.len();
            waiting.retain(|waits| !waits.is_closed());
            self.count -= before - waiting.len();
        }
        if self.count >= self.count_max {
            return None;
        }
        let (waits, gone) = oneshot::channel();
        self.by_lease.entry(id).or_default().push(waits);
        self.count += 1;
        Some(gone)
    }

    fn gone(&mut self, id: LeaseId) {
        self.count -= self.by_lease.remove(&id).map_or(0, |waiting| waiting.len());
    }
}

#[derive(Debug, Default)]
struct Counters {
    granted: AtomicU64,
    revoked: AtomicU64,
    renewed: AtomicU64,
    expired: AtomicU64,
    ttl_sum: AtomicU64,
    /// Not cumulative; the last holds what is above all bounds.
    ttl_buckets: [AtomicU64; TTL_BUCKETS + 1],
}

/// How many leases came and went here since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// Granted, on any member.
    pub granted: u64,
    /// Gone, on any member.
    pub revoked: u64,
    /// Renewals, on the leader.
    pub renewed: u64,
    /// Gone because their time was over, on the leader.
    pub expired: u64,
    /// The sum of all granted TTLs, in seconds.
    pub ttl_sum: u64,
    /// Grants by TTL: at index i those of at most 2^i seconds (and above the bound before), at last all longer ones.
    pub ttl_buckets: [u64; TTL_BUCKETS + 1],
}

impl Lessor {
    pub(crate) fn new(election_timeout: Duration, limits: &Limits) -> Self {
        let expirer = Expirer::new(Pace::of(election_timeout));
        let waiting = Waiting { count_max: limits.renewals_waiting, ..Waiting::default() };
        let inner = Mutex::new(Inner { expirer, waiting });
        let gathering = Arc::new(Semaphore::new(limits.lease_keys_threads));
        Self { inner, counters: Counters::default(), gathering }
    }

    /// Lets the clockwork be used. For the consensus thread.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Expirer) -> T) -> T {
        act(&mut lock(&self.inner).expirer)
    }

    /// This member leads the deadlines' term.
    pub(crate) fn promote(&self, deadlines: Deadlines) {
        let before = self.with(|expirer| expirer.promote(deadlines));
        // Without the lock: there may be many.
        drop(before);
    }

    /// Nobody waits any more for leases of a term that is over.
    pub(crate) fn demote(&self) {
        let mut inner = lock(&self.inner);
        let fresh = Waiting { count_max: inner.waiting.count_max, ..Waiting::default() };
        let before = (inner.expirer.demote(), std::mem::replace(&mut inner.waiting, fresh));
        drop(inner);
        drop(before);
    }

    /// Entries changed the table.
    pub(crate) fn applied(&self, now: Instant, changes: &[Change]) {
        let mut inner = lock(&self.inner);
        for change in changes {
            let expired = inner.expirer.applied(now, change);
            if let Change::Revoked { id } = change {
                inner.waiting.gone(*id);
            }
            self.counters.count(change, expired);
        }
    }

    fn renew(&self, now: Instant, id: LeaseId) -> Renewal {
        let renewal = lock(&self.inner).expirer.renew(now, id);
        if let Renewal::Renewed(_) = renewal {
            self.counters.renewed.fetch_add(1, Relaxed);
        }
        renewal
    }

    /// Ends when the lease is gone, or this member's term; or, where too many wait, after a while.
    async fn gone(&self, id: LeaseId) {
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

impl Counters {
    fn count(&self, change: &Change, expired: bool) {
        match *change {
            Change::Granted { ttl, .. } => {
                self.granted.fetch_add(1, Relaxed);
                let ttl = u64::try_from(ttl).unwrap_or(0);
                self.ttl_sum.fetch_add(ttl, Relaxed);
                // The first bound at or above: 1 s at 0, 2 s at 1, 3 and 4 s at 2.
                let at = ttl.max(1).next_power_of_two().trailing_zeros() as usize;
                self.ttl_buckets[at.min(TTL_BUCKETS)].fetch_add(1, Relaxed);
            }
            Change::Revoked { .. } => {
                self.revoked.fetch_add(1, Relaxed);
                self.expired.fetch_add(u64::from(expired), Relaxed);
            }
            Change::Checkpointed { .. } => {}
        }
    }
}

impl Handle {
    /// Renews a lease, wherever the leader is, for its whole TTL, which is answered in seconds.
    pub async fn keep_alive(&self, id: LeaseId) -> Result<i64, LeaseError> {
        if self.status().is_leader {
            match self.renew_lease(id).await {
                Err(LeaseError::NotPrimary) => {}
                answer => return answer,
            }
        }
        self.ask_leader(|url| match url {
            None => {
                let own = self.clone();
                Box::pin(async move { own.renew_lease(id).await })
            }
            Some(url) => self.shared.outbound.renew_lease(url, id),
        })
        .await
    }

    /// What is left of a lease, wherever the leader is, and what hangs on it.
    pub async fn lease_status(&self, id: LeaseId, with_keys: bool) -> Result<LeaseStatus, LeaseError> {
        if self.status().is_leader {
            return self.own_lease_status(id, with_keys).await.map_err(|error| match error {
                LeaseError::NotPrimary => LeaseError::LeaderChanged,
                other => other,
            });
        }
        self.ask_leader(|url| match url {
            None => {
                let own = self.clone();
                Box::pin(async move { own.own_lease_status(id, with_keys).await })
            }
            Some(url) => self.shared.outbound.lease_status(url, id, with_keys),
        })
        .await
    }

    /// Asks whoever leads, by each of its peer URLs or here, until there is an answer.
    async fn ask_leader<T>(&self, ask: impl Fn(Option<String>) -> Asked<T>) -> Result<T, LeaseError> {
        let patience = self.shared.options.request_timeout;
        let asking = async {
            loop {
                for url in self.leader_urls().await? {
                    match ask(url).await {
                        Ok(answer) => return Ok(answer),
                        Err(error @ (LeaseError::NotFound | LeaseError::Stopped)) => return Err(error),
                        Err(_) => {}
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        match tokio::time::timeout(patience, asking).await {
            Ok(answer) => answer,
            Err(_) if self.status().leader == 0 => Err(LeaseError::NoLeader),
            Err(_) => Err(LeaseError::Timeout),
        }
    }

    /// Where the leader is reached, once there is one; `None` stands for this member.
    async fn leader_urls(&self) -> Result<Vec<Option<String>>, LeaseError> {
        let mut leadership = self.watch_leader();
        let known = leadership.wait_for(|leadership| leadership.leader != 0).await;
        let leader = known.map_err(|_| LeaseError::Stopped)?.leader;
        if leader == self.shared.options.member {
            return Ok(vec![None]);
        }
        let membership = self.shared.machine.membership();
        let urls = membership.members.get(&leader).map(|member| member.peer_urls.clone());
        Ok(urls.unwrap_or_default().into_iter().map(Some).collect())
    }

    /// Renews a lease as the leader; else it is [`LeaseError::NotPrimary`]. A lease whose time is over is waited for until
    /// it is gone.
    pub async fn renew_lease(&self, id: LeaseId) -> Result<i64, LeaseError> {
        let lessor = &self.shared.lessor;
        let deadline = Instant::now() + self.shared.options.request_timeout;
        let mut is_known_to_be_applied = false;
        loop {
            match lessor.renew(Instant::now(), id) {
                Renewal::Renewed(ttl) => return Ok(ttl),
                Renewal::NotPrimary => return Err(LeaseError::NotPrimary),
                Renewal::Unknown if is_known_to_be_applied => return Err(LeaseError::NotFound),
                // It may have been granted a moment ago.
                Renewal::Unknown => {
                    self.wait_applied().await.map_err(|Behind| LeaseError::Behind)?;
                    is_known_to_be_applied = true;
                }
                Renewal::Unconfirmed(term) => self.confirm_term(term).await?,
                Renewal::Expired => {
                    // At its end the deadline is found to be over.
                    let _ = tokio::time::timeout_at(deadline.into(), lessor.gone(id)).await;
                }
                Renewal::Checkpointed(term) => {
                    if self.clear_remainder(term, id).await.is_err() {
                        lessor.with(|expirer| expirer.not_cleared(term, id));
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            if Instant::now() >= deadline {
                return Err(LeaseError::Unconfirmed);
            }
        }
    }

    /// What is left of a lease, as the leader; else it is [`LeaseError::NotPrimary`].
    pub async fn own_lease_status(&self, id: LeaseId, with_keys: bool) -> Result<LeaseStatus, LeaseError> {
        self.wait_applied().await.map_err(|Behind| LeaseError::Behind)?;
        let machine = &self.shared.machine;
        let granted_ttl = machine.lease(id).ok_or(LeaseError::NotFound)?.ttl;
        let keys = if with_keys { self.lease_keys(id).await? } else { Vec::new() };
        match self.lease_remaining(id) {
            Some(ttl) => Ok(LeaseStatus { ttl, granted_ttl, keys }),
            None if self.keeps_leases() => Err(LeaseError::NotFound),
            None => Err(LeaseError::NotPrimary),
        }
    }

    /// The keys that hang on a lease; many are gathered on a blocking thread, as long as somebody waits for them.
    async fn lease_keys(&self, id: LeaseId) -> Result<Vec<Bytes>, LeaseError> {
        let machine = &self.shared.machine;
        let at_once = self.options().limits.lease_keys.max(1);
        let mut keys = machine.lease_keys(id, None, at_once).unwrap_or_default();
        if keys.len() < at_once {
            return Ok(keys);
        }
        let turns = Arc::clone(&self.shared.lessor.gathering);
        let turn = turns.acquire_owned().await.map_err(|_| LeaseError::Stopped)?;
        let (machine, waits) = (Arc::clone(machine), Arc::new(()));
        let asked = Arc::downgrade(&waits);
        let gathered = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            while asked.strong_count() > 0 {
                let last = keys.last().cloned();
                let more = machine.lease_keys(id, last.as_deref(), at_once).unwrap_or_default();
                keys.extend_from_slice(&more);
                if more.len() < at_once {
                    break;
                }
            }
            keys
        });
        let gathered = gathered.await.map_err(|_| LeaseError::NoAnswer);
        drop(waits);
        gathered
    }

    /// Seconds until the lease ends, cut off towards zero; below zero while it is being revoked. `None` where this
    /// member does not know: it does not lead, or there is no such lease.
    pub fn lease_remaining(&self, id: LeaseId) -> Option<i64> {
        self.shared.lessor.with(|expirer| expirer.remaining(Instant::now(), id))
    }

    /// Whether this member keeps the leases' time: it leads, and has applied what came before its term.
    pub fn keeps_leases(&self) -> bool {
        self.shared.lessor.with(|expirer| expirer.term().is_some())
    }

    /// The ends of leases, by the leader's clock; for others nothing is known.
    pub fn lease_deadlines(&self, ids: &[LeaseId]) -> Vec<Option<Instant>> {
        self.shared.lessor.with(|expirer| ids.iter().map(|id| expirer.deadline(*id)).collect())
    }

    /// Says whether one of these members would misunderstand checkpoints; whether that is news. It is ignored where they
    /// are not the cluster's members any more: a change of members makes it undecided.
    pub fn set_lease_checkpoints(&self, members: &BTreeSet<u64>, checkpoints: Checkpoints) -> bool {
        self.shared.lessor.with(|expirer| {
            // Under the lock: the consensus thread publishes a change of members before it takes the lock for it.
            let are_current = self.shared.machine.membership().members.keys().eq(members);
            are_current && expirer.set_checkpoints(checkpoints)
        })
    }

    /// How many leases came and went.
    pub fn lease_counts(&self) -> LeaseCounts {
        let counters = &self.shared.lessor.counters;
        LeaseCounts {
            granted: counters.granted.load(Relaxed),
            revoked: counters.revoked.load(Relaxed),
            renewed: counters.renewed.load(Relaxed),
            expired: counters.expired.load(Relaxed),
            ttl_sum: counters.ttl_sum.load(Relaxed),
            ttl_buckets: std::array::from_fn(|at| counters.ttl_buckets[at].load(Relaxed)),
        }
    }

    /// Waits until this member has applied all that was acknowledged anywhere before the call, but not for long. What it
    /// knows to be committed is not enough: a follower may have applied, and answered, what the leader applies next.
    pub async fn wait_applied(&self) -> Result<(), Behind> {
        self.read_barrier(Some(Instant::now() + APPLY_MAX)).await.map_err(|_| Behind)
    }

    async fn confirm_term(&self, term: Term) -> Result<(), LeaseError> {
        let began = Instant::now();
        self.read_barrier(None).await.map_err(|_| LeaseError::Unconfirmed)?;
        self.shared.lessor.with(|expirer| expirer.confirm(term, began));
        Ok(())
    }

    /// Logs that the lease has all of its time, if this member still leads the term.
    async fn clear_remainder(&self, term: Term, id: LeaseId) -> Result<(), ProposeError> {
        let checkpoint = pb::LeaseCheckpoint { id, remaining_ttl: 0 };
        let request = pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] };
        let request = pb::InternalRaftRequest { lease_checkpoint: Some(request), ..Default::default() };
        let (id, answer) = self.submit_in_term(request, term)?;
        self.shared.answer(id, answer).await.map(drop)
    }

    fn submit_in_term(
        &self,
        request: pb::InternalRaftRequest,
        term: Term,
    ) -> Result<(u64, oneshot::Receiver<Result<machine::Response, ProposeError>>), ProposeError> {
        let since = Instant::now();
        let deadline = since + self.shared.options.request_timeout;
        let proposal = self.shared.entry(request, deadline);
        let (reply, answer) = oneshot::channel();
        let id = proposal.id;
        self.shared.watch_for(id, Waiter::Request { reply, since, deadline })?;
        self.shared.command(Command::ProposeInTerm { term, proposal });
        Ok((id, answer))
    }
}

/// What a lease is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Seconds until it ends, cut off towards zero; below zero while it is being revoked.
    pub ttl: i64,
    /// What was granted, in seconds.
    pub granted_ttl: i64,
    /// What hangs on it, in no order; nothing if that was not asked for.
    pub keys: Vec<Bytes>,
}

/// This member has not applied yet what is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("waiting for node to catch up its applied index has timed out")]
pub struct Behind;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_wait_up_to_a_limit_and_who_gave_up_makes_room() {
        const MAX: usize = 64;
        let mut waiting = Waiting { count_max: MAX, ..Waiting::default() };
        let mut held: Vec<_> = (0..MAX).map(|_| waiting.wait(7).unwrap()).collect();
        assert!(waiting.wait(8).is_none());
        assert_eq!(waiting.by_lease.len(), 1, "who is refused leaves nothing behind");
        drop(held.split_off(1));
        assert!(waiting.wait(7).is_some(), "nobody was left but one");
        assert!(waiting.wait(8).is_some() && waiting.count == 3);
        waiting.gone(7);
        assert!(held[0].try_recv().is_err() && waiting.count == 1);
        waiting.gone(9);
        waiting.gone(8);
        assert_eq!((waiting.count, waiting.by_lease.len()), (0, 0));
    }
}
