//! Feeds applied changes of leases to the expirer, and proposes its revokes and checkpoints.
//!
//! ```text
//! own term's first entry applied ─▶ promote      another leader or term ─▶ demote
//! tick ─▶ expired? ─▶ a read round confirms that this member still leads ─▶ revokes, checkpoints into the log
//! ```
//!
//! These entries are logged by the leader of the deadlines' term, or not at all. What cannot be logged yet stays in the
//! expirer, which also retries what raft refuses.

use super::{DeadlinesJob, Job, Member, World};
use crate::core::{Input, Proposal};
use crate::{Leadership, NodeFault, PeerProgress, ReadError};
use lease::{Change, Checkpoint, Deadlines};
use machine::Command;
use proto::etcdserverpb as pb;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use types::mutant::{Mutant, is};
use types::{LeaseId, Term};

/// The token of a member's own reads; other tokens count from 1.
pub(super) const ROUND: u64 = u64::MAX;

const ROUND_RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct LeaseState {
    /// The term of the deadlines; 0 = there are none.
    term: Term,
    look_at: Option<Instant>,
    /// The round in progress: its term and its start.
    round: Option<(Term, Instant)>,
    lags: bool,
    /// Whether deferrable entries were logged since the last tick.
    logged: bool,
    /// Changes applied while another thread builds the deadlines: grants and revokes of about a second.
    building: Option<Vec<(Instant, Change)>>,
}

impl LeaseState {
    /// Updates the bookkeeping at a tick. The leader knows how far the others are.
    pub(super) fn tick(&mut self, now: Instant, last: u64, peers: &[PeerProgress], lag_max: u64) {
        if self.term != 0 {
            self.look_at = Some(now);
            let lags = |peer: &PeerProgress| peer.active && peer.matched.saturating_add(lag_max) < last;
            self.lags = peers.iter().any(|peer| !peer.is_learner && lags(peer));
            self.logged = false;
        }
    }

    /// Whether deferrable entries may be logged. While a follower is far behind, one batch a tick, which is etcd's
    /// rate: it may stay behind for ever, and leases must end all the same.
    fn may_log(&self) -> bool {
        !(self.lags && self.logged)
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.look_at
    }
}

impl Member {
    pub(super) fn leases_applied<W: World>(&mut self, world: &mut W) {
        let Leadership { term, is_leader, .. } = self.core.leadership();
        let Some(machine) = self.applier.machine() else { return };
        let changes = machine.lease_changes();
        let is_new = is_leader && self.leases.term != term && machine.applied().1 == term;
        if changes.is_empty() && !is_new {
            return;
        }
        // Read the clock again: this turn's fsync may have been slow.
        let now = world.now();
        self.lessor.applied(now, changes);
        if let Some(since) = &mut self.leases.building {
            since.extend(changes.iter().map(|change| (now, *change)));
        }
        if is_new {
            self.leases = LeaseState { term, ..LeaseState::default() };
            self.build_leases(now, term, world);
        }
        if self.leases.term != 0 {
            self.leases.look_at = Some(now);
        }
    }

    /// Gives every lease a deadline; many on another thread, because a leader silent for that long is replaced.
    fn build_leases<W: World>(&mut self, now: Instant, term: Term, world: &mut W) {
        let leases = self.machine.leases();
        slog::debug!(self.log, "keeping the time of leases"; "term" => term, "leases" => leases.len());
        let is_long = leases.len() > self.options.limits.deadlines_inline;
        let pace = self.lessor.with(|expirer| expirer.pace());
        let building = Box::new(DeadlinesJob { pace, now, term, leases });
        let here = if is_long {
            world.start(Job::Deadlines(building)).err()
        } else {
            Some(Job::Deadlines(building))
        };
        match here {
            // Few leases, or no thread available.
            Some(Job::Deadlines(building)) => self.lessor.promote(building.build()),
            _ => self.leases.building = Some(Vec::new()),
        }
    }

    /// Takes the deadlines, built as of when the job started.
    pub(super) fn leases_built(&mut self, now: Instant, mut deadlines: Deadlines) {
        if deadlines.term() != self.leases.term {
            return;
        }
        for (at, change) in self.leases.building.take().into_iter().flatten() {
            deadlines.applied(at, &change);
        }
        self.lessor.promote(deadlines);
        self.leases.look_at = Some(now);
    }

    /// Ends the deadlines if the leader or the term changed.
    pub(super) fn leases_lead(&mut self, now: Leadership) {
        if self.leases.term != 0 && (!now.is_leader || now.term != self.leases.term) {
            self.leases = LeaseState::default();
            self.lessor.demote();
        }
    }

    pub(super) fn leases_confirmed(&mut self, result: Result<(), ReadError>) {
        let Some((term, began)) = self.leases.round.take().filter(|(term, _)| *term == self.leases.term)
        else {
            return;
        };
        match result {
            Ok(()) => {
                self.lessor.with(|expirer| expirer.confirm(term, began));
                self.leases.look_at = Some(began);
            }
            Err(_) => self.leases.look_at = Some(began + ROUND_RETRY),
        }
    }

    /// Calls the expirer when it is due, and proposes its revokes and checkpoints.
    pub(super) fn keep_leases(&mut self, now: Instant) -> Result<(), NodeFault> {
        if self.leases.look_at.is_none_or(|at| now < at) {
            return Ok(());
        }
        let term = self.leases.term;
        let is_careless = is(Mutant::ExpireOnFormerLeader);
        let can_log = (self.core.takes_proposals() || is_careless) && self.leases.may_log();
        let wants_to_log = self.lessor.with(|expirer| {
            expirer.tick(now);
            if is_careless {
                expirer.confirm(term, now);
            }
            expirer.wants_to_log()
        });
        let revoking = if can_log && wants_to_log { Some(self.core.pending_revokes()?) } else { None };
        let revoking = if is(Mutant::EndLeaseTwice) { revoking.map(|_| HashSet::new()) } else { revoking };
        let (revokes, checkpoints, wants_round, wake_at) = self.lessor.with(|expirer| {
            let (revokes, checkpoints) = match &revoking {
                Some(revoking) => {
                    (expirer.take_revokes(now, revoking), expirer.take_checkpoints(now, revoking))
                }
                None => (Vec::new(), Vec::new()),
            };
            (revokes, checkpoints, expirer.wants_confirmation(), expirer.wake_at())
        });
        // Until entries can be logged, the next tick retries.
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
        if is_careless {
            for entry in entries {
                self.queue.push(entry);
            }
            return Ok(());
        }
        self.core.step(now, Input::ProposeInTerm(term, entries));
        // The expirer retries refused revokes.
        if self.core.has_refused(last) {
            self.lessor.with(|expirer| expirer.not_logged(term, &checkpoints));
        }
        Ok(())
    }

    fn revoke(&self, now: Instant, id: LeaseId) -> Proposal {
        self.lease_entry(now, &pb::LeaseRevokeRequest { id }.into())
    }

    fn checkpoint(&self, now: Instant, checkpoints: &[Checkpoint]) -> Proposal {
        let wire = |c: &Checkpoint| pb::LeaseCheckpoint { id: c.id, remaining_ttl: c.remaining_ttl };
        let request = pb::LeaseCheckpointRequest { checkpoints: checkpoints.iter().map(wire).collect() };
        self.lease_entry(now, &request.into())
    }

    fn lease_entry(&self, now: Instant, command: &Command) -> Proposal {
        Proposal::of_command(command, self.ids.next_id(), now + self.options.request_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_that_stays_behind_slows_the_end_of_leases_and_does_not_stop_it() {
        let peer =
            |matched, is_learner| PeerProgress { member: 2, matched, active: true, is_learner, snapshot: 0 };
        let lag_max = 10;
        let last = lag_max + 100;
        let check = |peers: &[PeerProgress], expected: [bool; 3]| {
            let mut leases = LeaseState { term: 1, ..LeaseState::default() };
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
