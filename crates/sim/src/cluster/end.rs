//! The course of a run: faults, then healing, then the final checks.

use super::{Cluster, Event, Member};
use crate::Micros;
use crate::Violation;
use crate::member::Life;
use crate::oracle::history_hash;
use crate::trace::trace;
use machine::Membership;
use std::sync::Arc;

/// How long faults go on, microseconds of virtual time.
const CHAOS: Micros = 40_000_000;
/// How long a healed cluster may take to agree, microseconds: several elections, each with a few rounds.
const CONVERGE: Micros = 60_000_000;
/// How long the longest lease may last without renewals, microseconds: its TTL, an election timeout, a few rounds.
const LAST_LEASE: Micros = 40_000_000;

impl Cluster {
    /// Runs faults, then heals the cluster, then checks the final state.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        while self.now < CHAOS {
            self.step()?;
        }
        self.heal();
        self.converge()?;
        // No lease is renewed any more, and one member stays away: all leases must end.
        let absent = self.stop_one_member();
        let until = self.now + LAST_LEASE;
        while self.holds_leases() {
            if self.now > until {
                return Err(format!(
                    "leases are left {} s after the last was renewed",
                    LAST_LEASE / 1_000_000
                ));
            }
            self.step()?;
        }
        if let Some(id) = absent {
            self.start(id)?;
        }
        self.converge()?;
        self.final_checks()
    }

    fn converge(&mut self) -> Result<(), Violation> {
        let until = self.now + CONVERGE;
        while !self.has_converged() {
            if self.now > until {
                return Err(self.how_far());
            }
            self.step()?;
        }
        Ok(())
    }

    /// Stops one member that the others can do without, if there is one.
    fn stop_one_member(&mut self) -> Option<u64> {
        let membership = self.membership()?;
        let voters = membership.members.len() - membership.learners();
        let ids: Vec<u64> = membership.members.keys().copied().collect();
        if voters < 3 {
            return None;
        }
        let id = *self.rng.pick(&ids);
        self.crash(id, "and stays away");
        self.events.retain(|_, event| !matches!(event, Event::Start(member) if *member == id));
        Some(id)
    }

    fn heal(&mut self) {
        trace!(self.trace, "everything is healed");
        self.chaos = false;
        self.rules.hangs_per_mille = 0;
        self.rules.install_crashes_per_mille = 0;
        self.network.mend_all();
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in ids {
            let member = self.member(id);
            member.paused_until = 0;
            member.disks.log.heal();
            if let Some(life) = &mut member.life {
                life.own.crash_in = None;
                life.own.disk_fails = false;
                self.plan_turn(id);
            } else {
                self.schedule(self.now + 1, Event::Start(id));
            }
        }
    }

    /// The members that belong to the cluster, running or not.
    fn current<'a>(&'a self, membership: &'a Membership) -> impl Iterator<Item = &'a Member> {
        membership.members.keys().filter_map(|id| self.members.get(id))
    }

    fn has_converged(&self) -> bool {
        let Some(membership) = self.membership() else { return false };
        let lives: Option<Vec<&Life>> =
            self.current(&membership).map(|member| member.life.as_ref()).collect();
        let applied = self.oracle.last_index();
        lives.is_some_and(|lives| {
            lives.iter().filter(|life| life.core().leadership().is_leader).count() == 1
                && lives.iter().all(|life| life.is_idle() && life.shared().applied_index() == applied)
        }) && !self.events.values().any(|event| matches!(event, Event::Answer(_)))
    }

    fn holds_leases(&self) -> bool {
        let Some(membership) = self.membership() else { return false };
        let mut lives = self.current(&membership).filter_map(|member| member.life.as_ref());
        lives.any(|life| !life.shared().leases().is_empty())
    }

    fn how_far(&self) -> Violation {
        let seconds = CONVERGE / 1_000_000;
        let members = self.members.iter().map(|(id, member)| {
            let Some(life) = &member.life else { return format!("member {id} is down") };
            let (first, indexes) = (life.core().log().first_index(), life.core().indexes());
            let leads = life.core().leadership();
            format!("member {id}: {leads:?}, (commit, applied, last) {indexes:?}, log from {first}")
        });
        let members: Vec<String> = members.collect();
        format!("no agreement {seconds} s after everything was healed: {}", members.join("; "))
    }

    fn final_checks(&mut self) -> Result<(), Violation> {
        self.drain_watchers()?;
        let mut hashes = Vec::new();
        let membership = self.membership().ok_or("nobody is there at the end")?;
        for (id, member) in self.members.iter_mut().filter(|(id, _)| membership.members.contains_key(id)) {
            let life = member.life.as_mut().expect("every member has converged");
            let shared = Arc::clone(life.shared());
            self.oracle.check_acknowledged(*id, &shared)?;
            let before = history_hash(&shared)?;
            life.finish_background_work()?;
            let view = shared.view();
            let after = history_hash(&shared)?;
            let rows = view.hash().map_err(|error| format!("member {id}: {error}"))?;
            hashes.push((before, after, rows, view.sizes().total_bytes, view.sizes().keys));
        }
        trace!(self.trace, "at the end: {hashes:x?}");
        if hashes.iter().any(|(before, after, ..)| before != after) {
            return Err(format!("HashKV moves while compaction is under way: {hashes:x?}"));
        }
        if hashes.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(format!("members differ after their compactions: {hashes:x?}"));
        }
        Ok(())
    }
}
