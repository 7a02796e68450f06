//! Lease renewals and queries, for tasks of the runtime. A member that does not lead asks the leader over the peer port
//! ([`crate::Outbound`]), as etcd's do.
//!
//! A renewal costs a lock and a look at the clock: no log entry, and a round to confirm leadership only if the last one
//! is older than [`lease::Pace::confirmed_for`]; all waiting renewals share it.

use crate::handle::Handle;
use crate::lessor::{LeaseCounts, RETRY};
use crate::options::{Asked, LeaseStatus};
use crate::queues::Reply;
use crate::renewal::{RenewalStep, Renewing};
use crate::waiters::Waiter;
use crate::{LeaseError, ProposeError};
use bytes::Bytes;
use lease::Checkpoints;
use proto::etcdserverpb as pb;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use types::{LeaseId, Term};

/// How long a lease query waits for committed entries to be applied (etcd: `applyTimeout`).
const APPLY_MAX: Duration = Duration::from_secs(1);

impl Handle {
    /// Renews a lease for its whole TTL, through the leader; returns the TTL in seconds.
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

    /// A lease's remaining time and keys, from the leader.
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

    /// Asks the leader, here or at each of its peer URLs, until there is an answer.
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

    /// The leader's peer URLs, once there is a leader; `None` stands for this member.
    pub(crate) async fn leader_urls(&self) -> Result<Vec<Option<String>>, LeaseError> {
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

    /// Renews a lease as the leader, else [`LeaseError::NotPrimary`]. For an expired one it waits until it is gone.
    pub async fn renew_lease(&self, id: LeaseId) -> Result<i64, LeaseError> {
        let lessor = &self.shared.lessor;
        let deadline = Instant::now() + self.shared.options.request_timeout;
        let mut renewing = Renewing::new(id, deadline);
        loop {
            match renewing.step(lessor, Instant::now()) {
                RenewalStep::Done(answer) => return answer,
                RenewalStep::Applied => self.wait_applied().await?,
                RenewalStep::Confirmed(term) => self.confirm_term(term).await?,
                RenewalStep::Gone => {
                    // At the timeout, the next step finds the deadline passed.
                    let _ = tokio::time::timeout_at(deadline.into(), lessor.gone(id)).await;
                }
                RenewalStep::Cleared(term, request) => {
                    if self.log_in_term(term, request).await.is_err() {
                        lessor.with(|expirer| expirer.not_cleared(term, id));
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        }
    }

    /// A lease's remaining time and keys, as the leader; otherwise [`LeaseError::NotPrimary`].
    pub async fn own_lease_status(&self, id: LeaseId, with_keys: bool) -> Result<LeaseStatus, LeaseError> {
        self.wait_applied().await?;
        let machine = &self.shared.machine;
        let granted_ttl = machine.lease(id).ok_or(LeaseError::NotFound)?.ttl;
        let keys = if with_keys { self.lease_keys(id).await? } else { Vec::new() };
        match self.lease_remaining(id) {
            Some(ttl) => Ok(LeaseStatus { ttl, granted_ttl, keys }),
            None if self.keeps_leases() => Err(LeaseError::NotFound),
            None => Err(LeaseError::NotPrimary),
        }
    }

    /// The keys attached to a lease; many are collected on a blocking thread while somebody waits for them.
    async fn lease_keys(&self, id: LeaseId) -> Result<Vec<Bytes>, LeaseError> {
        let machine = &self.shared.machine;
        let at_once = self.options().limits.lease_keys.max(1);
        let mut keys = machine.lease_keys(id, None, at_once).unwrap_or_default();
        if keys.len() < at_once {
            return Ok(keys);
        }
        let turn = self.shared.lessor.turn_at_gathering().await.ok_or(LeaseError::Stopped)?;
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

    /// Seconds left, rounded towards zero; negative while its revoke is pending; `None` without lease or leadership.
    pub fn lease_remaining(&self, id: LeaseId) -> Option<i64> {
        self.shared.lessor.with(|expirer| expirer.remaining(Instant::now(), id))
    }

    /// Whether this member keeps lease deadlines: it leads, and has applied the entries of earlier terms.
    pub fn keeps_leases(&self) -> bool {
        self.shared.lessor.with(|expirer| expirer.term().is_some())
    }

    /// The leases' deadlines by the leader's clock; `None` on other members.
    pub fn lease_deadlines(&self, ids: &[LeaseId]) -> Vec<Option<Instant>> {
        self.shared.lessor.with(|expirer| ids.iter().map(|id| expirer.deadline(*id)).collect())
    }

    /// Whether one of these members would misunderstand checkpoints; returns whether that changed. Ignored if these are
    /// no longer the cluster's members: a membership change makes it undecided.
    pub fn set_lease_checkpoints(&self, members: &BTreeSet<u64>, checkpoints: Checkpoints) -> bool {
        self.shared.lessor.with(|expirer| {
            // Under the lock: the consensus thread publishes a membership change before it takes the lock for it.
            let are_current = self.shared.machine.membership().members.keys().eq(members);
            are_current && expirer.set_checkpoints(checkpoints)
        })
    }

    /// Counters of granted, renewed and ended leases.
    pub fn lease_counts(&self) -> LeaseCounts {
        self.shared.lessor.counts()
    }

    /// Waits, but not for long, until this member has applied everything acknowledged anywhere before the call. Its
    /// own commit index does not suffice: a follower may have applied, and acknowledged, what the leader applies
    /// next.
    async fn wait_applied(&self) -> Result<(), LeaseError> {
        self.read_barrier(Some(Instant::now() + APPLY_MAX)).await.map_err(|_| LeaseError::Behind)
    }

    async fn confirm_term(&self, term: Term) -> Result<(), LeaseError> {
        let began = Instant::now();
        self.read_barrier(None).await.map_err(|_| LeaseError::Unconfirmed)?;
        self.shared.lessor.with(|expirer| expirer.confirm(term, began));
        Ok(())
    }

    /// Logs a checkpoint, if this member still leads the term.
    async fn log_in_term(&self, term: Term, request: pb::LeaseCheckpointRequest) -> Result<(), ProposeError> {
        let since = Instant::now();
        let deadline = since + self.shared.options.request_timeout;
        let proposal = self.shared.entry(&request.into(), deadline);
        let (reply, answer) = oneshot::channel();
        let (id, waiter) = (proposal.id, Waiter { reply: Reply::Request(reply), since, deadline });
        self.shared.ask(|pending| pending.propose_in_term(term, proposal, waiter))?;
        self.shared.answer(id, answer).await.map(drop)
    }
}
