//! Faults: which ones, and how often.

use super::{Cluster, Event};
use crate::Micros;
use crate::drawn::count_draw;
use crate::rng::Rng;
use crate::trace::trace;
use wal::Trouble;

#[derive(Debug)]
pub(crate) struct Faults {
    /// Upper bound of the time between two faults, microseconds; the average is half of it.
    every: Micros,
    pub(crate) down_max: Micros,
    start_fails_per_mille: u64,
    pub(crate) crashes: u64,
    pub(crate) sleeps_per_mille: u64,
    /// How often the leader transfers leadership without learning of its success.
    pub(crate) abdications_per_mille: u64,
    /// How often the leader is cut off together with one other member.
    pub(crate) lonely_pairs_per_mille: u64,
}

impl Faults {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        Self {
            every: *rng.pick(&[200_000, 1_000_000, 3_000_000]),
            down_max: *rng.pick(&[100_000, 3_000_000, 15_000_000]),
            start_fails_per_mille: *rng.pick(&[0, 100, 300]),
            crashes: 0,
            sleeps_per_mille: 0,
            abdications_per_mille: 0,
            lonely_pairs_per_mille: 0,
        }
    }

    pub(crate) fn pause(&self, rng: &mut Rng) -> Micros {
        rng.between(self.every / 10, self.every * 2)
    }

    pub(crate) fn disk_fails_at_start(&self, rng: &mut Rng) -> bool {
        rng.per_mille(self.start_fails_per_mille)
    }
}

pub(crate) struct Fault;

impl Fault {
    pub(crate) fn draw(cluster: &mut Cluster) {
        let ids: Vec<u64> = cluster.members.keys().copied().collect();
        let id = *cluster.rng.pick(&ids);
        let other = *cluster.rng.pick(&ids);
        let sleeps = cluster.faults.sleeps_per_mille;
        if sleeps > 0 && cluster.rng.per_mille(sleeps) {
            return leader_sleeps(cluster, &ids);
        }
        let abdications = cluster.faults.abdications_per_mille;
        if abdications > 0 && cluster.rng.per_mille(abdications) {
            return abdicates(cluster, &ids);
        }
        let pairs = cluster.faults.lonely_pairs_per_mille;
        if pairs > 0 && cluster.rng.per_mille(pairs) {
            return lonely_pair(cluster, &ids);
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
                    life.own.crash_in = Some(steps);
                }
            }
            30..44 => disk_fails(cluster, id),
            44..60 => partition(cluster, &ids),
            60..64 => leader_sleeps(cluster, &ids),
            64..70 => {
                let until = cluster.now + pause(cluster);
                count_draw("pause");
                trace!(cluster.trace, "member {id} pauses until {until}");
                cluster.member(id).paused_until = until;
                cluster.schedule(until, Event::Resume(id));
            }
            70..78 => {
                count_draw("transfer of leadership");
                cluster.inbox(id, |inbox| inbox.transfer = Some(other));
            }
            78..82 => power_cut(cluster, &ids),
            _ => {
                let until = cluster.now + pause(cluster);
                let which = usize::from(cluster.rng.one_in(2));
                count_draw("stream broken");
                trace!(cluster.trace, "stream {which} {id}->{other} breaks until {until}");
                cluster.network.break_stream(id, other, which, until);
            }
        }
    }
}

/// Makes a disk fail in some way; every way ends the process sooner or later.
fn disk_fails(cluster: &mut Cluster, id: u64) {
    let (kind, after) = (cluster.rng.below(6), cluster.rng.between(1, 12));
    let doomed = cluster.rng.one_in(3);
    let member = cluster.member(id);
    let Some(life) = &mut member.life else { return };
    life.own.disk_fails = true;
    member.doomed = doomed;
    let log = &member.disks.log;
    match kind {
        0 => {
            count_draw("log that cannot be read");
            log.trouble(Trouble::NoReads);
        }
        1 => {
            count_draw("disk that is full");
            log.trouble(Trouble::NoSpace);
        }
        2 => {
            count_draw("sync that fails once");
            log.trouble(Trouble::OneSyncFails);
        }
        _ => {
            count_draw("disk that fails for good");
            log.fail_after(after);
        }
    }
}

/// A member that believes it leads, if any.
fn leader(cluster: &mut Cluster, ids: &[u64]) -> Option<u64> {
    let leads =
        |id: &u64| cluster.member(*id).life.as_ref().is_some_and(|life| life.core().leadership().is_leader);
    ids.iter().copied().find(leads)
}

/// The leader transfers leadership, without an election timeout, and is isolated meanwhile, so that it still believes
/// it leads.
fn abdicates(cluster: &mut Cluster, ids: &[u64]) {
    let Some(leader) = leader(cluster, ids) else { return };
    let others: Vec<u64> = ids.iter().copied().filter(|id| *id != leader).collect();
    if others.is_empty() {
        return;
    }
    let next = *cluster.rng.pick(&others);
    let pairs: Vec<(u64, u64)> = others.iter().map(|from| (*from, leader)).collect();
    let until = cluster.now + cluster.rng.between(500_000, 4_000_000);
    trace!(cluster.trace, "member {leader} hands over to {next} and hears of nobody until {until}");
    cluster.inbox(leader, |inbox| inbox.transfer = Some(next));
    cluster.network.cut(&pairs);
    cluster.schedule(until, Event::Mend(pairs));
}

/// Isolates the leader with one member, which keeps asking it; streams break too, so that messages are repeated.
fn lonely_pair(cluster: &mut Cluster, ids: &[u64]) {
    let Some(leader) = leader(cluster, ids) else { return };
    let others: Vec<u64> = ids.iter().copied().filter(|id| *id != leader).collect();
    if others.is_empty() {
        return;
    }
    let friend = *cluster.rng.pick(&others);
    let inside = |id: u64| id == leader || id == friend;
    let pairs: Vec<(u64, u64)> = ids
        .iter()
        .flat_map(|from| ids.iter().map(|to| (*from, *to)))
        .filter(|(from, to)| inside(*from) != inside(*to))
        .collect();
    let until = cluster.now + cluster.rng.between(500_000, 5_000_000);
    trace!(cluster.trace, "cut until {until}: {pairs:?}");
    for (from, to) in [(leader, friend), (friend, leader)] {
        for which in 0..2 {
            cluster.network.break_stream(from, to, which, until);
        }
    }
    cluster.network.cut(&pairs);
    cluster.schedule(until, Event::Mend(pairs));
}

/// Longer than an election, so that the leader wakes up believing that it leads.
fn leader_sleeps(cluster: &mut Cluster, ids: &[u64]) {
    let Some(leader) = leader(cluster, ids) else { return };
    let until = cluster.now + cluster.rng.between(2_000_000, 7_000_000);
    count_draw("leader asleep");
    trace!(cluster.trace, "member {leader}, the leader, pauses until {until}");
    cluster.member(leader).paused_until = until;
    cluster.schedule(until, Event::Resume(leader));
}

/// Mostly short, sometimes longer than an election.
fn pause(cluster: &mut Cluster) -> Micros {
    let longest = *cluster.rng.pick(&[100_000, 1_000_000, 6_000_000]);
    cluster.rng.between(10_000, longest)
}

/// Cuts links, one way or both: those of one member, a single one, or a random set.
fn partition(cluster: &mut Cluster, ids: &[u64]) {
    count_draw("partition");
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

/// Crashes all members at once, or most of them.
fn power_cut(cluster: &mut Cluster, ids: &[u64]) {
    count_draw("power lost by all or most");
    for &id in ids {
        if cluster.member(id).life.is_some() && !cluster.rng.one_in(4) {
            cluster.lose_power(id, "with the others");
        }
    }
}
