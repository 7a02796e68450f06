//! SIGKILL under load, again and again: what was acknowledged stays.

use std::time::{Duration, Instant};

use anyhow::ensure;
use harness::{Client, Cluster, Load, Options, Shape, history};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use crate::support::{number, run, seed};

/// Which member is killed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Victim {
    Leader,
    /// Any member; every fifth time all of them.
    Any,
    /// Each member in turn, made the leader first.
    EachAsLeader,
}

/// Writes that must be acknowledged between two kills: a cluster that only restarts proves nothing.
const ACKED_MIN: u64 = 50;

/// How long a cluster may take to acknowledge them: an election, and a slow machine.
pub(crate) const PROGRESS_LIMIT: Duration = Duration::from_secs(30);

#[test]
fn one_member_killed_under_load_keeps_every_acknowledged_write() {
    run(kills(&Options::new(1), Victim::Any, number("IT_KILLS", 20)));
}

#[test]
fn three_members_killed_at_random_under_load_keep_every_acknowledged_write() {
    run(kills(&Options::new(3), Victim::Any, number("IT_KILLS", 20)));
}

#[test]
fn three_members_whose_leader_is_killed_under_load_keep_every_acknowledged_write() {
    run(kills(&Options::new(3), Victim::Leader, number("IT_KILLS", 20)));
}

#[test]
fn a_leader_that_sleeps_through_an_election_serves_nothing_stale() {
    run(pauses(&Options::new(3), number("IT_KILLS", 20).div_ceil(5)));
}

#[test]
fn members_that_are_terminated_and_restarted_keep_everything() {
    run(terminations(3));
    run(terminations(1));
}

pub(crate) async fn kills(options: &Options, victim: Victim, kills: u64) -> anyhow::Result<()> {
    let (size, seed) = (options.size, seed());
    println!("{size} member(s), etcd: {:?}, {kills} kills of {victim:?}, IT_SEED={seed}", options.etcd);
    let mut random = SmallRng::seed_from_u64(seed);
    let mut cluster = Cluster::start_with(options)?;
    let client = cluster.client();
    let load = begin(&client, seed).await?;
    let (mut checked, mut seen, mut restarts) = (0, 0, Duration::ZERO);
    for round in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        progress(&load, &format!("kill {round}")).await?;
        let victims: Vec<usize> = match victim {
            Victim::Leader => vec![client.wait_leader(PROGRESS_LIMIT).await?],
            Victim::EachAsLeader => {
                let next = usize::try_from(round)? % size;
                client.make_leader(next, PROGRESS_LIMIT).await?;
                vec![next]
            }
            Victim::Any if round % 5 == 4 => (0..size).collect(),
            Victim::Any => vec![random.random_range(0..size)],
        };
        for index in &victims {
            cluster.kill(*index)?;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        let begun = Instant::now();
        for index in &victims {
            cluster.member(*index).start()?;
        }
        for index in &victims {
            cluster.member(*index).wait_ready()?;
        }
        restarts += begun.elapsed();
        let writes = load.writes_after(seen);
        seen += writes.len();
        checked += history::check_acked(&client, random.random_range(0..size), &writes).await?;
    }
    println!(
        "{checked} writes read back at their revisions between kills; mean restart {:.2?}",
        restarts / u32::try_from(kills.max(1))?
    );
    progress(&load, "the last kill").await?;
    finish(&client, load).await
}

pub(crate) async fn pauses(options: &Options, rounds: u64) -> anyhow::Result<()> {
    let seed = seed();
    println!(
        "{} members, etcd: {:?}, {rounds} pauses of the leader, IT_SEED={seed}",
        options.size, options.etcd
    );
    let mut cluster = Cluster::start_with(options)?;
    let client = cluster.client();
    let load = begin(&client, seed).await?;
    for round in 0..rounds {
        progress(&load, &format!("pause {round}")).await?;
        let leader = client.wait_leader(PROGRESS_LIMIT).await?;
        cluster.member(leader).pause()?;
        // Longer than the election timeout: the others elect one of themselves meanwhile.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        cluster.member(leader).resume()?;
    }
    progress(&load, "the last pause").await?;
    finish(&client, load).await
}

async fn terminations(size: usize) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(size)?;
    let client = cluster.client();
    let load = begin(&client, seed()).await?;
    for index in 0..size {
        progress(&load, "SIGTERM").await?;
        let begun = Instant::now();
        let status = cluster.stop(index)?;
        // etcd raises the signal again once it has closed down, unless it is process 1.
        let orderly = status.success() || std::os::unix::process::ExitStatusExt::signal(&status) == Some(15);
        ensure!(orderly, "after SIGTERM member {index} ended with {status}");
        let stopped = begun.elapsed();
        let ready = cluster.restart(index)?;
        println!("{size} member(s): SIGTERM to end {stopped:.2?}, start to ready {ready:.2?}");
    }
    progress(&load, "the last SIGTERM").await?;
    finish(&client, load).await
}

pub(crate) async fn begin(client: &Client, seed: u64) -> anyhow::Result<Load> {
    let base = client.revision(PROGRESS_LIMIT).await?;
    Ok(Load::start(client, Shape { seed, ..Shape::default() }, base))
}

/// Waits until the load has been acknowledged some more writes.
pub(crate) async fn progress(load: &Load, before: &str) -> anyhow::Result<()> {
    let (acked, begun) = (load.figures().acked, Instant::now());
    while load.figures().acked < acked + ACKED_MIN {
        ensure!(
            begun.elapsed() < PROGRESS_LIMIT,
            "before {before}: only {} writes acknowledged within {PROGRESS_LIMIT:?}",
            load.figures().acked - acked
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Stops the load, waits for all members to agree, and holds each to the record.
pub(crate) async fn finish(client: &Client, load: Load) -> anyhow::Result<()> {
    let record = load.stop().await;
    let revision = client.revision(PROGRESS_LIMIT).await?;
    let hash = client.same_hash(revision, PROGRESS_LIMIT).await?;
    let mut histories = Vec::new();
    for at in 0..client.size() {
        histories.push(history::read(client, at, &Shape::default().prefix, revision).await?);
    }
    let report = history::check(&histories[0], &record, true)?;
    for (at, other) in histories.iter().enumerate() {
        ensure!(*other == histories[0], "members 0 and {at} hold different histories");
    }
    println!("{report}; HashKV {hash:08x} on {} member(s)", client.size());
    Ok(())
}
