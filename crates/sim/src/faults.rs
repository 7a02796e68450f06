//! What goes wrong, and how often.

use crate::Micros;
use crate::cluster::{Cluster, Event};
use crate::rng::Rng;
use crate::trace::trace;

/// The temper of a run.
#[derive(Debug)]
pub(crate) struct Faults {
    /// Between two faults, on average half of it.
    every: Micros,
    pub(crate) down_max: Micros,
    /// Between two flushes of a member, on average half of it.
    flush_every: Micros,
    start_fails_per_mille: u64,
    pub(crate) crashes: u64,
    /// How often it is the leader that sleeps.
    pub(crate) sleeps_per_mille: u64,
}

impl Faults {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        Self {
            every: *rng.pick(&[200_000, 1_000_000, 3_000_000]),
            down_max: *rng.pick(&[100_000, 3_000_000, 15_000_000]),
            flush_every: *rng.pick(&[300_000, 2_000_000, 20_000_000]),
            start_fails_per_mille: *rng.pick(&[0, 100, 300]),
            crashes: 0,
            sleeps_per_mille: 0,
        }
    }

    pub(crate) fn pause(&self, rng: &mut Rng) -> Micros {
        rng.between(self.every / 10, self.every * 2)
    }

    pub(crate) fn flush_pause(&self, rng: &mut Rng) -> Micros {
        rng.between(self.flush_every / 10, self.flush_every * 2)
    }

    pub(crate) fn disk_fails_at_start(&self, rng: &mut Rng) -> bool {
        rng.per_mille(self.start_fails_per_mille)
    }
}

/// One fault.
pub(crate) struct Fault;

impl Fault {
    /// Draws one and lets it happen.
    pub(crate) fn draw(cluster: &mut Cluster) {
        let ids: Vec<u64> = cluster.members.keys().copied().collect();
        let id = *cluster.rng.pick(&ids);
        let other = *cluster.rng.pick(&ids);
        let sleeps = cluster.faults.sleeps_per_mille;
        if sleeps > 0 && cluster.rng.per_mille(sleeps) {
            return leader_sleeps(cluster, &ids);
        }
        match cluster.rng.below(100) {
            0..10 => {
                if cluster.member(id).life.is_some() {
                    cluster.crash(id, "between two turns");
                }
            }
            10..30 => {
                let steps = cluster.rng.below(12);
                if let Some(life) = &mut cluster.member(id).life {
                    life.crash_in = Some(steps);
                }
            }
            30..44 => {
                let after = cluster.rng.between(1, 12);
                if let Some(life) = &mut cluster.member(id).life {
                    life.disk_fails = true;
                    cluster.member(id).disks.log.fail_after(after);
                }
            }
            44..60 => partition(cluster, &ids),
            60..64 => leader_sleeps(cluster, &ids),
            64..70 => {
                let until = cluster.now + pause(cluster);
                trace!(cluster.trace, "member {id} pauses until {until}");
                cluster.member(id).paused_until = until;
                cluster.schedule(until, Event::Resume(id));
            }
            70..78 => cluster.inbox(id, |inbox| inbox.transfer = Some(other)),
            78..82 => power_cut(cluster, &ids),
            _ => {
                let until = cluster.now + pause(cluster);
                let which = usize::from(cluster.rng.one_in(2));
                trace!(cluster.trace, "stream {which} {id}->{other} breaks until {until}");
                cluster.network.break_stream(id, other, which, until);
            }
        }
    }
}

/// Longer than an election, so that it wakes up and believes to lead.
fn leader_sleeps(cluster: &mut Cluster, ids: &[u64]) {
    let leads = |cluster: &mut Cluster, id: u64| {
        cluster.member(id).life.as_ref().is_some_and(|life| life.core.leadership().is_leader)
    };
    let Some(leader) = ids.iter().copied().find(|id| leads(cluster, *id)) else { return };
    let until = cluster.now + cluster.rng.between(2_000_000, 7_000_000);
    trace!(cluster.trace, "member {leader}, the leader, pauses until {until}");
    cluster.member(leader).paused_until = until;
    cluster.schedule(until, Event::Resume(leader));
}

/// Mostly short, now and then longer than an election.
fn pause(cluster: &mut Cluster) -> Micros {
    let longest = *cluster.rng.pick(&[100_000, 1_000_000, 6_000_000]);
    cluster.rng.between(10_000, longest)
}

/// Cuts some ways off: a member from the rest, or a single way, or a random set; one way or both.
fn partition(cluster: &mut Cluster, ids: &[u64]) {
    let lonely = *cluster.rng.pick(ids);
    let mut pairs = Vec::new();
    let kind = cluster.rng.below(4);
    for &from in ids {
        for &to in ids {
            let cut = match kind {
                0 => from == lonely || to == lonely,
                1 => from == lonely,
                2 => to == lonely,
                _ => cluster.rng.one_in(3),
            };
            if from != to && cut {
                pairs.push((from, to));
            }
        }
    }
    let until = cluster.now + pause(cluster);
    trace!(cluster.trace, "cut until {until}: {pairs:?}");
    cluster.network.cut(&pairs);
    cluster.schedule(until, Event::Mend(pairs));
}

/// All members at once, or most of them.
fn power_cut(cluster: &mut Cluster, ids: &[u64]) {
    for &id in ids {
        if cluster.member(id).life.is_some() && !cluster.rng.one_in(4) {
            cluster.crash(id, "with the others");
        }
    }
}
