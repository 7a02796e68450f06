//! Members that lag behind the log, and get a snapshot of the leader's: whole, or not at all.
//!
//! `IT_SNAPSHOTS`: snapshots in the test of kills, 10 unless said otherwise.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use harness::{Client, Cluster, Options};
use proto::etcdserverpb::{CompactionRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use crate::kill::{PROGRESS_LIMIT, begin, finish, progress};
use crate::support::{PATIENT, get, number, put, run, seed};

/// The log goes back so far that a member which was away needs a snapshot.
pub(crate) const SHORT_LOG: [&str; 2] = ["--snapshot-count=50", "--snapshot-catchup-entries=5"];

/// What a member of ours says when it has read a snapshot, and when it goes on from it.
pub(crate) const READ: &str = "read a snapshot";
pub(crate) const INSTALLING: &str = "installing a snapshot";

fn short_log(size: usize) -> Options {
    Options { flags: SHORT_LOG.map(str::to_owned).into(), ..Options::new(size) }
}

/// Puts so many keys that the log is cut behind a member which is away.
pub(crate) async fn leave_behind(client: &Client, at: usize, keys: usize) -> anyhow::Result<()> {
    for key in 0..keys {
        put(client, at, &format!("behind/{key}"), &format!("value {key}")).await?;
    }
    Ok(())
}

/// The leader, and a member that is not.
pub(crate) async fn follower(client: &Client) -> anyhow::Result<(usize, usize)> {
    let leader = client.wait_leader(PROGRESS_LIMIT).await?;
    Ok((leader, (leader + 1) % client.size()))
}

#[test]
fn a_member_that_lags_behind_the_log_gets_a_snapshot_and_serves_what_is_in_it() {
    run(async {
        let mut cluster = Cluster::start_with(&short_log(3))?;
        let client = cluster.client();
        let (leader, away) = follower(&client).await?;
        put(&client, leader, "gone", "v").await?;
        cluster.stop(away)?;
        let lease = client.lease(leader).lease_grant(LeaseGrantRequest { ttl: 600, id: 77 }).await?;
        let leased = PutRequest { key: "leased".into(), value: "v".into(), lease: 77, ..Default::default() };
        client.put(leader, leased, PATIENT).await?;
        leave_behind(&client, leader, 400).await?;
        let delete = proto::etcdserverpb::DeleteRangeRequest { key: "gone".into(), ..Default::default() };
        client.kv(leader).delete_range(delete).await?;
        client.kv(leader).compact(CompactionRequest { revision: 200, physical: true }).await?;
        leave_behind(&client, leader, 300).await?;
        cluster.member(away).start()?;
        cluster.member(away).process()?.wait_for(INSTALLING, PROGRESS_LIMIT)?;
        cluster.member(away).wait_ready()?;
        let revision = client.revision(PROGRESS_LIMIT).await?;
        let hash = client.same_hash(revision, PROGRESS_LIMIT).await?;
        ensure!(
            get(&client, away, "behind/399").await?.as_deref() == Some("value 399"),
            "not the last value"
        );
        ensure!(get(&client, away, "gone").await?.is_none(), "it is deleted");
        let asked = LeaseTimeToLiveRequest { id: lease.into_inner().id, keys: true };
        let left = client.lease(away).lease_time_to_live(asked).await?.into_inner();
        ensure!(left.keys == [Bytes::from_static(b"leased")] && left.ttl > 500, "{left:?}");
        // It leads as well as any other, and restarts on what it got.
        client.make_leader(away, PROGRESS_LIMIT).await?;
        leave_behind(&client, away, 100).await?;
        cluster.kill(away)?;
        cluster.restart(away)?;
        let revision = client.revision(PROGRESS_LIMIT).await?;
        let after = client.same_hash(revision, PROGRESS_LIMIT).await?;
        let kept = states(&cluster, away)?;
        ensure!(kept.len() == 1 && kept[0].starts_with("kv-"), "it keeps {kept:?}");
        println!("HashKV {hash:08x}, then {after:08x}; it keeps {kept:?}");
        Ok(())
    });
}

/// The states on a member's disk.
fn states(cluster: &Cluster, at: usize) -> anyhow::Result<Vec<String>> {
    let dir = cluster.members()[at].data.join("member");
    let names = std::fs::read_dir(&dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<std::io::Result<_>>()?;
    Ok(names.into_iter().filter(|name| name.starts_with("kv") || name.starts_with("incoming")).collect())
}

/// Whatever it was about to do with the snapshot.
#[test]
fn a_member_killed_again_and_again_while_it_gets_snapshots_keeps_every_acknowledged_write() {
    run(async {
        let (seed, wanted) = (seed(), number("IT_SNAPSHOTS", 10));
        println!("{wanted} snapshots, IT_SEED={seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let mut cluster = Cluster::start_with(&short_log(3))?;
        let client = cluster.client();
        let load = begin(&client, seed).await?;
        let (mut read, mut installed, mut kills) = (0, 0, 0);
        let begun = Instant::now();
        while installed < wanted {
            ensure!(
                begun.elapsed() < Duration::from_mins(4),
                "only {installed} were installed in {kills} kills"
            );
            let (_, away) = follower(&client).await?;
            cluster.kill(away)?;
            kills += 1;
            // So many entries that the log is cut behind it.
            for _ in 0..3 {
                progress(&load, "it comes back").await?;
            }
            cluster.member(away).start()?;
            if random.random_bool(0.7) {
                // Somewhere between its start and a moment after the snapshot.
                tokio::time::sleep(Duration::from_millis(random.random_range(20..600))).await;
                let lines = |cluster: &mut Cluster, text| {
                    anyhow::Ok(cluster.member(away).process()?.lines_with(&[text]).len())
                };
                read += lines(&mut cluster, READ)?;
                installed += u64::try_from(lines(&mut cluster, INSTALLING)?)?;
                cluster.kill(away)?;
                cluster.member(away).start()?;
            }
            cluster.member(away).wait_ready()?;
            installed += u64::from(cluster.member(away).process()?.output().contains(INSTALLING));
        }
        println!(
            "{kills} times away, {installed} snapshots installed, {read} of them read before another kill"
        );
        finish(&client, load).await?;
        for at in 0..client.size() {
            cluster.kill(at)?;
            cluster.restart(at)?;
            let kept = states(&cluster, at)?;
            ensure!(kept.len() == 1, "member {at} keeps {kept:?}");
        }
        Ok(())
    });
}

/// The leader is killed while it sends: another one sends its own.
#[test]
fn a_leader_killed_while_it_sends_a_snapshot_is_replaced() {
    run(async {
        let mut cluster = Cluster::start_with(&short_log(3))?;
        let client = cluster.client();
        let (leader, away) = follower(&client).await?;
        cluster.stop(away)?;
        // A snapshot of 64 MiB takes long enough to be cut.
        for n in 0..64 {
            let value = Bytes::from(vec![b'v'; 1 << 20]);
            let request = PutRequest { key: format!("large/{n}").into(), value, ..Default::default() };
            client.put(leader, request, PATIENT).await?;
        }
        leave_behind(&client, leader, 100).await?;
        cluster.member(away).start()?;
        let mut random = SmallRng::seed_from_u64(seed());
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_500))).await;
        cluster.kill(leader)?;
        cluster.member(away).wait_ready()?;
        let next = client.wait_leader(PROGRESS_LIMIT).await?;
        put(&client, next, "after", "v").await?;
        cluster.restart(leader)?;
        let revision = client.revision(PROGRESS_LIMIT).await?;
        let hash = client.same_hash(revision, PROGRESS_LIMIT).await?;
        println!("HashKV {hash:08x}");
        Ok(())
    });
}

/// Keys of the large store, of 256 bytes: `IT_SNAPSHOT_KEYS`, 50,000 unless said otherwise.
fn keys() -> u64 {
    number("IT_SNAPSHOT_KEYS", 50_000)
}

/// Keys in one transaction.
const KEYS_A_TXN: u64 = 100;

/// The leader's memory may grow by this while it sends, in bytes.
const GROWTH_MAX: u64 = 64 << 20;

/// How long a steady writer waits for each put, at 200 puts a second, until it is told to stop.
async fn steady(client: Client, at: usize, stop: tokio::sync::watch::Receiver<bool>) -> Vec<Duration> {
    let mut waits = Vec::new();
    let mut due = tokio::time::interval(Duration::from_millis(5));
    while !*stop.borrow() {
        due.tick().await;
        let begun = Instant::now();
        if put(&client, at, "steady", "v").await.is_ok() {
            waits.push(begun.elapsed());
        }
    }
    waits
}

fn p99(mut waits: Vec<Duration>) -> Duration {
    waits.sort_unstable();
    waits.get(waits.len() * 99 / 100).copied().unwrap_or_default()
}

/// A new member gets a large store, and those who write feel little of it.
#[test]
fn a_leader_that_sends_a_large_snapshot_goes_on_serving() {
    run(async {
        let mut cluster = Cluster::start_with(&short_log(3))?;
        let client = cluster.client();
        let (leader, away) = follower(&client).await?;
        cluster.stop(away)?;
        for first in (0..keys()).step_by(usize::try_from(KEYS_A_TXN)?) {
            let key = |n| Bytes::from(format!("large/{n:012}"));
            let value = Bytes::from(vec![b'v'; 256]);
            let puts = (first..first + KEYS_A_TXN).map(|n| PutRequest {
                key: key(n),
                value: value.clone(),
                ..Default::default()
            });
            client.txn(leader, harness::txn_of_puts(puts), PATIENT).await?;
        }
        let urls: Vec<String> =
            cluster.members().iter().map(|member| member.addresses.client_url()).collect();
        let writer = |stop| tokio::spawn(steady(Client::new(urls.clone()), leader, stop));
        let (stop, told) = tokio::sync::watch::channel(false);
        let quiet = writer(told);
        tokio::time::sleep(Duration::from_secs(5)).await;
        stop.send(true)?;
        let quiet = p99(quiet.await?);

        let pid = cluster.member(leader).pid().context("the leader runs")?;
        let before = harness::usage::Usage::of(pid)?.resident_bytes;
        harness::usage::forget_peak(pid)?;
        let (stop, told) = tokio::sync::watch::channel(false);
        let during = writer(told);
        let begun = Instant::now();
        cluster.member(away).start()?;
        cluster.member(away).process()?.wait_for(INSTALLING, Duration::from_mins(10))?;
        let took = begun.elapsed();
        stop.send(true)?;
        let during = p99(during.await?);
        let peak = harness::usage::Usage::of(pid)?.peak_bytes;
        cluster.member(away).wait_ready()?;
        let revision = client.revision(PROGRESS_LIMIT).await?;
        client.same_hash(revision, Duration::from_mins(2)).await?;
        println!(
            "{} keys in {took:.1?}: put p99 {quiet:.1?}, then {during:.1?}; the leader's memory {} MiB, then {} MiB at most",
            keys(),
            before >> 20,
            peak >> 20
        );
        ensure!(peak <= before + GROWTH_MAX, "its memory grew by {} MiB", (peak - before) >> 20);
        Ok(())
    });
}
