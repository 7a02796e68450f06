//! A member whose wall clock jumps, under a library of ours (`preload/clock.c`).
//!
//! Only the wall clock: the monotonic one cannot jump. What a stopped process sees of it, a leap ahead, is the business
//! of [`super::kills`]'s pauses.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use harness::{Client, Cluster, Options, preload};

use super::{ELECTION, ETCD, ONE_ETCD, OURS, unharmed};
use crate::{
    kill::{begin, finish, progress},
    leases::{SLACK, count, gone, grant, hang},
    support::{run, seed},
};

/// How long the clock stays where it jumped to: longer than a probe takes to come round.
const STAY: Duration = Duration::from_secs(5);

/// A lease that begins before an hour's jump ahead and ends after the clock is right again.
const LEASE: Duration = Duration::from_secs(4);

#[test]
fn a_member_whose_clock_jumps_harms_nobody() {
    run(async {
        let library = preload::build("clock")?;
        let mut cluster = Cluster::prepare(&Options::mixed(ONE_ETCD))?;
        let clock = cluster.folder().join("clock");
        set(&clock, "+0")?;
        let member = cluster.member(OURS);
        member.set_variable("LD_PRELOAD", &library.display().to_string());
        member.set_variable("CLOCK_FILE", &clock.display().to_string());
        for at in 0..cluster.size() {
            cluster.member(at).start()?;
        }
        for at in 0..cluster.size() {
            cluster.member(at).wait_ready()?;
        }
        let client = cluster.client();
        let load = begin(&client, seed()).await?;
        for leader in [OURS, ETCD] {
            client.make_leader(leader, ELECTION).await?;
            let term = client.status(leader).await?.raft_term;
            for jump in ["+3600", "-7200", "+0"] {
                set(&clock, jump)?;
                progress(&load, &format!("the end of a jump to {jump} s")).await?;
                tokio::time::sleep(if jump == "+3600" { STAY } else { Duration::from_millis(500) }).await;
                progress(&load, &format!("the jump after {jump} s")).await?;
            }
            let after = client.status(leader).await?.raft_term;
            ensure!(
                after == term,
                "a jump of m{OURS}'s clock led to an election: term {term} became {after}"
            );
        }
        finish(&client, load).await?;
        for leader in [OURS, ETCD] {
            client.make_leader(leader, ELECTION).await?;
            leases_last(&client, &clock).await?;
        }
        drift_is_told_once(&mut cluster)?;
        unharmed(&mut cluster, &client).await
    });
}

/// Jumps move the end of no lease.
async fn leases_last(client: &Client, clock: &Path) -> anyhow::Result<()> {
    let long = grant(client, OURS, 600).await?;
    hang(client, OURS, "clock/long", long).await?;
    let begun = Instant::now();
    let short = grant(client, OURS, LEASE.as_secs().cast_signed()).await?;
    hang(client, OURS, "clock/short", short).await?;
    for jump in ["+3600", "-7200", "+0"] {
        set(clock, jump)?;
        tokio::time::sleep(LEASE / 6).await;
    }
    let took = gone(client, "clock/short", LEASE + SLACK).await? - begun;
    println!("a lease of {LEASE:?} ended after {took:?}");
    ensure!(took >= LEASE, "early: {took:?}");
    ensure!(count(client, OURS, "clock/long").await? == 1, "a jump ended a lease of ten minutes");
    Ok(())
}

/// The member whose clock is right says what it sees of the other's; so does etcd.
fn drift_is_told_once(cluster: &mut Cluster) -> anyhow::Result<()> {
    let ours = cluster.member(1).process()?.lines_with(&["prober found high clock drift"]);
    println!("m1: {ours:#?}");
    ensure!((1..=4).contains(&ours.len()), "two jumps of an hour, {} lines: {ours:#?}", ours.len());
    Ok(())
}

fn set(clock: &Path, offset: &str) -> anyhow::Result<()> {
    fs::write(clock, offset).with_context(|| format!("cannot write {}", clock.display()))
}
