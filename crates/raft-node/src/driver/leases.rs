//! Leases, on the consensus thread: what the log did goes into the clockwork, what is over comes out as entries.
//!
//! ```text
//! the own term's first entry applied ─▶ promote      another leader, another term ─▶ demote
//! a tick ─▶ expired? ─▶ a round of reads confirms that this member still leads ─▶ revokes, checkpoints into the log
//! ```
//!
//! Entries made here are logged by this member as the leader of the deadlines' term, or not at all: what cannot be
//! logged now stays in the clockwork, and what raft refuses is tried again by it.

use super::Driver;
use crate::core::{Input, Proposal};
use crate::front::Command;
use crate::{Leadership, NodeFault, PeerProgress, ReadError};
use lease::{Change, Checkpoint, Deadlines};
use proto::etcdserverpb as pb;
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::{LeaseId, Term};

/// The token of this thread's own reads; those of the runtime count from 1.
pub(super) const ROUND: u64 = u64::MAX;

/// A confirmation that failed is not asked for again before this.
const ROUND_RETRY: Duration = Duration::from_millis(500);

/// What the consensus thread remembers of the leases.
#[derive(Debug)]
pub(super) struct Leases {
    /// The term of the deadlines; 0 = there are none.
    term: Term,
    /// When to look at the clockwork again.
    look_at: Option<Instant>,
    /// A confirmation is under way: of which term, since when.
    round: Option<(Term, Instant)>,
    /// A follower is far behind.
    lags: bool,
    /// Entries that can wait were logged since the last tick.
    logged: bool,
    /// While the deadlines are made on a thread of their own: what was applied since that began. Grants and revokes of
    /// about a second, for checkpoints come only from who has deadlines.
    building: Option<Vec<(Instant, Change)>>,
}

impl Leases {
    pub(super) fn new() -> Self {
        Self { term: 0, look_at: None, round: None, lags: false, logged: false, building: None }
    }

    /// A tick passed. The leader knows how far the others are.
    pub(super) fn tick(&mut self, now: Instant, last: u64, peers: &[PeerProgress], lag_max: u64) {
        if self.term != 0 {
            self.look_at = Some(now);
            let lags = |peer: &PeerProgress| peer.active && peer.matched.saturating_add(lag_max) < last;
            self.lags = peers.iter().any(|peer| !peer.is_learner && lags(peer));
            self.logged = false;
        }
    }

    /// Whether entries that can wait may be logged. While a follower is far behind that is a batch a tick, in etcd's own
    /// pace: the follower may stay behind for ever, and leases end all the same.
    fn may_log(&self) -> bool {
        !(self.lags && self.logged)
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.look_at
    }
}

impl Driver {
    /// A group was applied.
    pub(super) fn leases_applied(&mut self) {
        let Leadership { term, is_leader, .. } = self.core.leadership();
        let Some(machine) = self.applier.machine() else { return };
        let changes = machine.lease_changes();
        let is_new = is_leader && self.leases.term != term && machine.applied().1 == term;
        if changes.is_empty() && !is_new {
            return;
        }
        // The clock of now, not of the turn's begin: a sync may have taken long.
        let (now, lessor) = (Instant::now(), &self.shared.lessor);
        lessor.applied(now, changes);
        if let Some(since) = &mut self.leases.building {
            since.extend(changes.iter().map(|change| (now, *change)));
        }
        if is_new {
            self.leases = Leases { term, ..Leases::new() };
            self.build_leases(now, term);
        }
        if self.leases.term != 0 {
            self.leases.look_at = Some(now);
        }
    }

    /// Gives every lease a deadline. That takes long where there are many: a leader that is silent meanwhile would not lead
    /// for long.
    fn build_leases(&mut self, now: Instant, term: Term) {
        let leases = Arc::new(self.shared.machine.leases());
        slog::debug!(self.shared.log, "keeping the time of leases"; "term" => term, "leases" => leases.len());
        let pace = self.shared.lessor.with(|expirer| expirer.pace());
        if leases.len() > self.shared.options.limits.deadlines_inline {
            let (shared, leases) = (Arc::clone(&self.shared), Arc::clone(&leases));
            let build = move || {
                let deadlines = Deadlines::new(pace, now, term, leases.iter().copied());
                shared.command(Command::Deadlines(Box::new(deadlines)));
            };
            let name = "lease-deadlines".to_owned();
            if std::thread::Builder::new().name(name).spawn(build).is_ok() {
                self.leases.building = Some(Vec::new());
                return;
            }
        }
        // Few, or there is no thread to be had.
        self.shared.lessor.promote(Deadlines::new(pace, now, term, leases.iter().copied()));
    }

    /// The deadlines are made, as of when that began.
    pub(super) fn leases_built(&mut self, now: Instant, mut deadlines: Deadlines) {
        if deadlines.term() != self.leases.term {
            return;
        }
        for (at, change) in self.leases.building.take().into_iter().flatten() {
            deadlines.applied(at, &change);
        }
        self.shared.lessor.promote(deadlines);
        self.leases.look_at = Some(now);
    }

    /// Somebody else leads, or in another term.
    pub(super) fn leases_lead(&mut self, now: Leadership) {
        if self.leases.term != 0 && (!now.is_leader || now.term != self.leases.term) {
            self.leases = Leases::new();
            self.shared.lessor.demote();
        }
    }

    /// The round ended.
    pub(super) fn leases_confirmed(&mut self, result: Result<(), ReadError>) {
        let Some((term, began)) = self.leases.round.take().filter(|(term, _)| *term == self.leases.term)
        else {
            return;
        };
        match result {
            Ok(()) => {
                self.shared.lessor.with(|expirer| expirer.confirm(term, began));
                self.leases.look_at = Some(began);
            }
            Err(_) => self.leases.look_at = Some(began + ROUND_RETRY),
        }
    }

    /// Looks at the clockwork when that is due, and logs what comes out of it.
    pub(super) fn keep_leases(&mut self, now: Instant) -> Result<(), NodeFault> {
        if self.leases.look_at.is_none_or(|at| now < at) {
            return Ok(());
        }
        let term = self.leases.term;
        let can_log = self.core.takes_proposals() && self.leases.may_log();
        let wants_to_log = self.shared.lessor.with(|expirer| {
            expirer.tick(now);
            expirer.wants_to_log()
        });
        let going = if can_log && wants_to_log { Some(self.core.going_leases()?) } else { None };
        let (revokes, checkpoints, wants_round, wake_at) = self.shared.lessor.with(|expirer| {
            let (revokes, checkpoints) = match &going {
                Some(going) => (expirer.take_revokes(now, going), expirer.take_checkpoints(now, going)),
                None => (Vec::new(), Vec::new()),
            };
            (revokes, checkpoints, expirer.wants_confirmation(), expirer.wake_at())
        });
        // What cannot be logged now is looked at again with the next tick.
        self.leases.look_at = wake_at.filter(|_| can_log);
        if wants_round && self.leases.round.is_none() {
            self.leases.round = Some((term, now));
            self.core.step(now, Input::Read(ROUND));
        }
        let mut entries: Vec<Proposal> = revokes.into_iter().map(|id| self.revoke(now, id)).collect();
        if !checkpoints.is_empty() {
            entries.push(self.checkpoint(now, &checkpoints));
        }
        let Some(last) = entries.last().map(|entry| entry.id) else { return Ok(()) };
        self.leases.logged = true;
        self.core.step(now, Input::ProposeInTerm(term, entries));
        // Revokes that were refused are tried again by the clockwork.
        if self.core.has_refused(last) {
            self.shared.lessor.with(|expirer| expirer.not_logged(term, &checkpoints));
        }
        Ok(())
    }

    fn revoke(&self, now: Instant, id: LeaseId) -> Proposal {
        let request = pb::LeaseRevokeRequest { id };
        self.lease_entry(now, pb::InternalRaftRequest { lease_revoke: Some(request), ..Default::default() })
    }

    fn checkpoint(&self, now: Instant, checkpoints: &[Checkpoint]) -> Proposal {
        let wire = |c: &Checkpoint| pb::LeaseCheckpoint { id: c.id, remaining_ttl: c.remaining_ttl };
        let request = pb::LeaseCheckpointRequest { checkpoints: checkpoints.iter().map(wire).collect() };
        self.lease_entry(
            now,
            pb::InternalRaftRequest { lease_checkpoint: Some(request), ..Default::default() },
        )
    }

    fn lease_entry(&self, now: Instant, request: pb::InternalRaftRequest) -> Proposal {
        self.shared.entry(request, now + self.shared.options.request_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_that_stays_behind_slows_the_end_of_leases_and_does_not_stop_it() {
        let peer = |matched, is_learner| PeerProgress { member: 2, matched, active: true, is_learner };
        let lag_max = 10;
        let last = lag_max + 100;
        let check = |peers: &[PeerProgress], expected: [bool; 3]| {
            let mut leases = Leases { term: 1, ..Leases::new() };
            leases.tick(Instant::now(), last, peers, lag_max);
            let at_first = leases.may_log();
            leases.logged = true;
            let again = leases.may_log();
            leases.tick(Instant::now(), last, peers, lag_max);
            assert_eq!([at_first, again, leases.may_log()], expected, "{peers:?}");
        };
        check(&[peer(100, false), peer(last, false)], [true, true, true]);
        check(&[peer(99, false), peer(last, false)], [true, false, true]);
        check(&[peer(0, true)], [true, true, true]);
        check(&[PeerProgress { active: false, ..peer(0, false) }], [true, true, true]);
    }
}
