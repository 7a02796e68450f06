//! The leader's leases, as `raft_node`'s driver and handle keep them: their clockwork is the real one.
//!
//! Keepalives are answered before the messages that wait are looked at, as a task of the runtime may do: a leader that
//! has slept, or does not know yet that another one came, must not give what it cannot keep.

use super::{Answer, Around, End, Life, REQUEST_TIMEOUT, Waiter};
use crate::mutation::Mutation;
use crate::trace::trace;
use bytes::Bytes;
use lease::{Checkpoints, Deadlines, Expirer, Pace, Renewal};
use prost::Message as _;
use proto::etcdserverpb as pb;
use raft_node::core::{Input, Proposal};
use raft_node::{Leadership, ReadError};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use types::{EntryKind, LeaseId, Term};

/// The token of reads that confirm leadership for leases; those of clients count from 1.
pub(super) const ROUND: u64 = u64::MAX;

/// What a member knows of the leases' time.
pub(super) struct Leases {
    expirer: Expirer,
    term: Term,
    round: Option<(Term, Instant)>,
    /// Keepalives that wait for a confirmation, or for a remainder to be cleared; with the time of that.
    waiting: Vec<(LeaseId, Waiter, Instant)>,
}

impl Leases {
    pub(super) fn new(election_timeout: Duration, checkpoints: bool) -> Self {
        let mut expirer = Expirer::new(Pace::of(election_timeout));
        expirer.set_checkpoints(if checkpoints { Checkpoints::Allowed } else { Checkpoints::Forbidden });
        Self { expirer, term: 0, round: None, waiting: Vec::new() }
    }
}

impl Life {
    /// A client wants a lease to go on.
    pub(super) fn keep_alive(&mut self, now: Instant, id: LeaseId, waiter: Waiter, around: &mut Around<'_>) {
        if around.rules.mutation == Some(Mutation::RenewWithoutQuorum) {
            self.leases.expirer.confirm(self.leases.term, now);
        }
        match self.leases.expirer.renew(now, id) {
            Renewal::Renewed(ttl) => {
                trace!(around.trace, "member {} renews lease {id} for {ttl} s", self.id);
                let applied = self.machine.applied().0;
                around.oracle.promises.renewed(id, ttl, self.clock, applied);
                self.kept(&waiter, true, around);
            }
            Renewal::Unconfirmed(_) => {
                self.leases.waiting.push((id, waiter, now));
                self.confirm(now);
            }
            Renewal::Checkpointed(term) => {
                let request = checkpoint(&[lease::Checkpoint { id, remaining_ttl: 0 }]);
                let entry = self.lease_entry(now, request);
                self.core.step(now, Input::ProposeInTerm(term, vec![entry]));
                self.leases.waiting.push((id, waiter, now));
            }
            Renewal::NotPrimary | Renewal::Unknown | Renewal::Expired => self.kept(&waiter, false, around),
        }
    }

    fn kept(&self, waiter: &Waiter, ok: bool, around: &mut Around<'_>) {
        let (client, number) = (waiter.client, waiter.number);
        let revision = ok.then_some(0);
        around.answers.push((self.clock, Answer { client, number, request_id: 0, revision }));
    }

    fn confirm(&mut self, now: Instant) {
        if self.leases.round.is_none() && self.leases.term != 0 {
            self.leases.round = Some((self.leases.term, now));
            self.core.step(now, Input::Read(ROUND));
        }
    }

    /// A group was applied.
    pub(super) fn leases_applied(&mut self, around: &mut Around<'_>) {
        let now = around.rules.instant(self.clock);
        let mut cleared = false;
        for change in self.machine.lease_changes() {
            self.leases.expirer.applied(now, change);
            cleared |= matches!(change, lease::Change::Checkpointed { .. });
        }
        let Leadership { term, is_leader, .. } = self.core.leadership();
        if is_leader && self.leases.term != term && self.machine.applied().1 == term {
            let leases = self.machine.shared().leases();
            trace!(around.trace, "member {} keeps the time of {} leases", self.id, leases.len());
            let deadlines = Deadlines::new(self.leases.expirer.pace(), now, term, leases);
            drop(self.leases.expirer.promote(deadlines));
            (self.leases.term, self.leases.round) = (term, None);
        }
        if cleared {
            self.ask_again(now, around);
        }
    }

    fn ask_again(&mut self, now: Instant, around: &mut Around<'_>) {
        for (id, waiter, _) in std::mem::take(&mut self.leases.waiting) {
            self.keep_alive(now, id, waiter, around);
        }
    }

    /// Somebody else leads, or in another term.
    pub(super) fn leases_lead(&mut self, now: Leadership, around: &mut Around<'_>) {
        let leases = &mut self.leases;
        if leases.term != 0 && (!now.is_leader || now.term != leases.term) {
            drop(leases.expirer.demote());
            (leases.term, leases.round) = (0, None);
            for (_, waiter, _) in std::mem::take(&mut leases.waiting) {
                self.kept(&waiter, false, around);
            }
        }
    }

    /// The round that confirms leadership ended.
    pub(super) fn leases_confirmed(&mut self, result: Result<(), ReadError>, around: &mut Around<'_>) {
        let Some((term, began)) = self.leases.round.take() else { return };
        if result.is_ok() {
            self.leases.expirer.confirm(term, began);
        }
        self.ask_again(around.rules.instant(self.clock), around);
    }

    /// Some do not wait any longer; what they have logged may be applied all the same.
    fn give_up(&mut self, now: Instant, around: &mut Around<'_>) {
        let limit = Duration::from_micros(around.rng.below(REQUEST_TIMEOUT));
        let is_over = |(_, _, since): &mut (LeaseId, Waiter, Instant)| *since + limit < now;
        for (id, waiter, _) in self.leases.waiting.extract_if(.., is_over).collect::<Vec<_>>() {
            self.leases.expirer.not_cleared(self.leases.term, id);
            self.kept(&waiter, false, around);
        }
    }

    /// Looks at the clockwork, and logs what comes out of it.
    pub(super) fn keep_leases(&mut self, now: Instant, around: &mut Around<'_>) -> Result<(), End> {
        self.give_up(now, around);
        let expirer = &mut self.leases.expirer;
        expirer.tick(now);
        let carelessly = around.rules.mutation == Some(Mutation::ExpireOnFormerLeader);
        if carelessly {
            expirer.confirm(self.leases.term, now);
        }
        if !self.core.takes_proposals() && !carelessly {
            return Ok(());
        }
        let going = match around.rules.mutation {
            Some(Mutation::EndLeaseTwice) => HashSet::new(),
            _ => self.core.going_leases().map_err(|fault| self.fault(&fault))?,
        };
        let expirer = &mut self.leases.expirer;
        let (revokes, checkpoints) =
            (expirer.take_revokes(now, &going), expirer.take_checkpoints(now, &going));
        if expirer.wants_confirmation() {
            self.confirm(now);
        }
        let mut entries = Vec::new();
        for id in revokes {
            let revoke = pb::LeaseRevokeRequest { id };
            let request = pb::InternalRaftRequest { lease_revoke: Some(revoke), ..Default::default() };
            let entry = self.lease_entry(now, request);
            trace!(around.trace, "member {}: lease {id} is over: {:x}", self.id, entry.id);
            around.oracle.promises.expires(entry.id);
            entries.push(entry);
        }
        if !checkpoints.is_empty() {
            trace!(around.trace, "member {}: {checkpoints:?}", self.id);
            entries.push(self.lease_entry(now, checkpoint(&checkpoints)));
        }
        let Some(last) = entries.last().map(|entry| entry.id) else { return Ok(()) };
        if carelessly {
            self.proposals.extend(entries);
            return Ok(());
        }
        let term = self.leases.term;
        self.core.step(now, Input::ProposeInTerm(term, entries));
        if self.core.has_refused(last) {
            self.leases.expirer.not_logged(term, &checkpoints);
        }
        Ok(())
    }

    fn lease_entry(&self, now: Instant, mut request: pb::InternalRaftRequest) -> Proposal {
        let id = self.ids.next_id();
        request.header = Some(pb::RequestHeader { id, ..Default::default() });
        let data: Bytes = request.encode_to_vec().into();
        let deadline = now + Duration::from_micros(REQUEST_TIMEOUT);
        Proposal { id, kind: EntryKind::Normal, data, deadline, hops: 0 }
    }
}

fn checkpoint(checkpoints: &[lease::Checkpoint]) -> pb::InternalRaftRequest {
    let wire = |c: &lease::Checkpoint| pb::LeaseCheckpoint { id: c.id, remaining_ttl: c.remaining_ttl };
    let request = pb::LeaseCheckpointRequest { checkpoints: checkpoints.iter().map(wire).collect() };
    pb::InternalRaftRequest { lease_checkpoint: Some(request), ..Default::default() }
}
