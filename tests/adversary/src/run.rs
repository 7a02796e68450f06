//! One row on one server, from an empty directory to the verdict's figures.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use harness::usage::Usage;
use tokio::runtime::{Builder, Runtime};

use crate::{
    data,
    judge::{Memory, Reading},
    options::Options,
    rows::Row,
    servers::{Look, Server, Servers},
    target::{Outcome, Target},
    watchman::{ABORT_BYTES, Watchman},
    writer::{Latency, Writer},
};

/// The writer alone, before the attack: what filling left to do is done, and memory is what it is in daily use.
const QUIET: Duration = Duration::from_secs(3);
/// Memory has this long to come back.
const AFTER: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// An attack that waits for answers has this long beyond its time.
const LATE: Duration = Duration::from_mins(1);

/// Starts the servers, lets the attack happen and looks at what became of them.
pub(crate) fn run(
    row: &'static Row,
    server: Server,
    members: usize,
    options: &Options,
) -> anyhow::Result<Reading> {
    let mut servers = Servers::start(server, members, row.files)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(async { servers.cluster.client() });
    let leader = runtime.block_on(client.wait_leader(Duration::from_secs(20)))?;
    let filled = runtime.block_on(row.data.fill(&client, leader, options.scale)).context("filling")?;
    let in_use = Watchman::start(servers.pids())?;
    runtime.block_on(data::write_much(&client, leader, options.scale)).context("writing")?;
    runtime.block_on(data::daily_use(&client, options.scale)).context("daily use")?;
    let urls = servers.cluster.members().iter().map(|m| m.addresses.client_url()).collect();
    let writer = Writer::start(urls)?;
    thread::sleep(QUIET.mul_f64(options.scale.min(1.0)));

    let mut before = runtime.block_on(servers.look());
    let in_use = in_use.stop();
    for (pid, look) in servers.pids().iter().zip(&mut before) {
        // What comes and goes while it is used belongs to it: rows gather until they are written to a file.
        look.resident = look.resident.max(in_use.peaks.get(pid).copied().unwrap_or(0));
    }
    let leader = runtime.block_on(client.wait_leader(Duration::from_secs(20)))?;
    let watchman = Watchman::start(servers.pids())?;
    let begun = Instant::now();
    let target = Target {
        members: servers.addresses(|addresses| &addresses.client),
        peers: servers.addresses(|addresses| &addresses.peer),
        pids: servers.pids(),
        leader,
        older_revision: filled.older_revision,
        scale: options.scale,
        end: (begun + options.attack).into(),
    };
    let outcome = attack(row, target)?;
    let ended = Instant::now();
    // Only ours is judged by it; a run that is not strong need not wait for etcd's.
    let patience = if server == Server::Quorate { AFTER } else { AFTER.mul_f64(options.scale.min(1.0)) };
    let resident = wait_until_back(&servers, &before, patience);
    let after = runtime.block_on(servers.look());
    let seen = watchman.stop();
    let puts = Latency::of(&writer.stop()?, begun, ended);

    let memory = servers.pids().into_iter().zip(&before).zip(resident).map(|((pid, before), after)| Memory {
        before: before.resident,
        peak: seen.peaks.get(&pid).copied().unwrap_or(0),
        after,
    });
    let logged = after.iter().zip(&before).map(|(after, before)| after.logged - before.logged).sum();
    Ok(Reading {
        dead: why_dead(&mut servers, &after, seen.aborted),
        terms: after.iter().zip(&before).map(|(a, b)| a.term.saturating_sub(b.term)).max().unwrap_or(0),
        puts,
        live_bytes: filled.live_bytes,
        memory: memory.collect(),
        logged,
        outcome,
    })
}

/// The attack, in a runtime of its own: when that ends, all its connections are closed.
fn attack(row: &Row, target: Target) -> anyhow::Result<Outcome> {
    let runtime: Runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let limit = target.end + LATE;
    let done = runtime.block_on(async { tokio::time::timeout_at(limit, (row.attack)(target)).await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(match done {
        Ok(Ok(outcome)) => outcome,
        // The attackers see a server that dies, or that refuses them: the verdict has both.
        Ok(Err(error)) => Outcome::fault(format!("{error:#}")),
        Err(_) => Outcome::fault(format!("its clients still wait {LATE:?} after its time")),
    })
}

/// Waits until all members' memory is nearly what it was, or no longer: what it is then.
fn wait_until_back(servers: &Servers, before: &[Look], patience: Duration) -> Vec<u64> {
    let deadline = Instant::now() + patience;
    loop {
        let now: Vec<u64> =
            servers.pids().iter().map(|pid| Usage::of(*pid).map_or(0, |used| used.resident_bytes)).collect();
        let back = |(after, before): (&u64, &Look)| {
            Memory { before: before.resident, after: *after, ..Memory::default() }.is_back()
        };
        if now.iter().zip(before).all(back) || Instant::now() > deadline {
            return now;
        }
        thread::sleep(POLL);
    }
}

fn why_dead(servers: &mut Servers, after: &[Look], aborted: bool) -> Option<String> {
    if aborted {
        return Some(format!("ended by us at {} GiB", ABORT_BYTES >> 30));
    }
    let silent = after.iter().position(|look| !look.lives)?;
    Some(servers.last_words().unwrap_or_else(|| format!("member {silent} does not answer")))
}
