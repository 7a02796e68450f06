//! Leases under trouble: none ends early, and none stays.
//!
//! "Early" is counted from the moment before the request that was last acknowledged, "late" from the moment after it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use harness::{Client, Cluster, Options, end_of_prefix};
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseTimeToLiveRequest, MoveLeaderRequest, PutRequest,
    RangeRequest,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{PATIENT, number, run};

/// A tick late, an election, and a machine that is busy.
pub(crate) const SLACK: Duration = Duration::from_secs(4);

pub(crate) async fn grant(client: &Client, at: usize, ttl: i64) -> anyhow::Result<i64> {
    let answer = timeout(PATIENT, client.lease(at).lease_grant(LeaseGrantRequest { id: 0, ttl })).await??;
    ensure!(answer.get_ref().ttl == ttl, "granted for {} s", answer.get_ref().ttl);
    Ok(answer.into_inner().id)
}

pub(crate) async fn hang(client: &Client, at: usize, key: &str, lease: i64) -> anyhow::Result<()> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    client.put(at, PutRequest { key, lease, ..Default::default() }, PATIENT).await?;
    Ok(())
}

/// One keepalive; the TTL, 0 = it is gone.
pub(crate) async fn keep_alive(client: &Client, at: usize, id: i64) -> anyhow::Result<i64> {
    let once = tokio_stream::once(LeaseKeepAliveRequest { id });
    let limit = Duration::from_secs(2);
    let mut lease = client.lease(at);
    let mut answers = timeout(limit, lease.lease_keep_alive(once)).await??.into_inner();
    let answer = timeout(limit, answers.message()).await??.context("no answer to a keepalive")?;
    Ok(answer.ttl)
}

pub(crate) async fn count(client: &Client, at: usize, prefix: &str) -> anyhow::Result<i64> {
    let range = RangeRequest {
        key: Bytes::copy_from_slice(prefix.as_bytes()),
        range_end: end_of_prefix(prefix.as_bytes()),
        count_only: true,
        ..Default::default()
    };
    Ok(client.range(at, range, Duration::from_secs(2)).await?.count)
}

/// Waits until the key is gone, asking members that answer; when that was seen.
pub(crate) async fn gone(client: &Client, key: &str, limit: Duration) -> anyhow::Result<Instant> {
    let deadline = Instant::now() + limit;
    for at in (0..client.size()).cycle() {
        if let Ok(0) = count(client, at, key).await {
            return Ok(Instant::now());
        }
        ensure!(Instant::now() < deadline, "{key} is still there after {limit:?}");
        sleep(Duration::from_millis(20)).await;
    }
    unreachable!("the members are asked round and round")
}

async fn move_leader(client: &Client, from: usize, to: usize) -> anyhow::Result<()> {
    let target_id = client.status(to).await?.header.context("no header")?.member_id;
    client.maintenance(from).move_leader(MoveLeaderRequest { target_id }).await?;
    Ok(())
}

/// A leader that slept while its lease was kept alive elsewhere must not end it when it wakes up.
#[test]
fn a_leader_that_sleeps_past_a_lease_does_not_end_it() {
    run(async {
        const TTL: i64 = 3;
        let mut cluster = Cluster::start(3)?;
        let client = cluster.client();
        for round in 0..2 {
            let leader = client.wait_leader(PATIENT).await?;
            let other = (leader + 1) % 3;
            let id = grant(&client, leader, TTL).await?;
            let key = format!("sleep/{round}");
            hang(&client, leader, &key, id).await?;
            cluster.member(leader).pause()?;
            let asleep = Instant::now();
            let mut kept = 0;
            while asleep.elapsed() < Duration::from_secs(5) {
                // While the others elect there is nobody to ask.
                match keep_alive(&client, other, id).await {
                    Ok(ttl) => {
                        ensure!(ttl == TTL, "gone after {:?}", asleep.elapsed());
                        kept += 1;
                    }
                    Err(_) => ensure!(asleep.elapsed() < Duration::from_secs(3), "nobody keeps leases alive"),
                }
                sleep(Duration::from_millis(50)).await;
            }
            cluster.member(leader).resume()?;
            let awake = Instant::now();
            while awake.elapsed() < Duration::from_millis(2_500) {
                let ttl = keep_alive(&client, other, id).await?;
                ensure!(
                    ttl == TTL && count(&client, other, &key).await? == 1,
                    "gone after its leader woke up"
                );
                sleep(Duration::from_millis(100)).await;
            }
            let last = Instant::now();
            let took = gone(&client, &key, Duration::from_secs(3) + SLACK).await? - last;
            println!("round {round}: {kept} keepalives while the leader slept; gone {took:?} after the last");
            ensure!(took > Duration::from_millis(2_700), "gone {took:?} after the last keepalive");
        }
        Ok(())
    });
}

/// What is left of a lease goes from leader to leader, so that it ends although none of them sees it begin and end.
#[test]
fn what_is_left_of_a_lease_survives_changes_of_leaders() {
    run(async {
        const TTL: i64 = 9;
        let cluster = Cluster::start(3)?;
        let client = cluster.client();
        let first = client.wait_leader(PATIENT).await?;
        // The new leader gives the lease its whole time; unless it is renewed, it logs what is left after two fifths.
        let id = grant(&client, first, TTL).await?;
        hang(&client, first, "left", id).await?;
        let before = Instant::now();
        move_leader(&client, first, (first + 1) % 3).await?;
        let promoted = Instant::now();
        sleep(Duration::from_secs(6)).await;
        ensure!(count(&client, first, "left").await? == 1, "gone after {:?}", before.elapsed());
        let leader = client.wait_leader(PATIENT).await?;
        move_leader(&client, leader, (leader + 1) % 3).await?;
        let ended = gone(&client, "left", Duration::from_secs(20)).await?;
        let (at_most, at_least) = (ended - before, ended - promoted);
        println!(
            "a lease of {TTL} s ended {at_least:?} after the first change of leaders, 6 s before the second"
        );
        ensure!(at_most >= Duration::from_secs(9), "early: {at_most:?}");
        // Without what was logged it would have begun again: 6 s and 10 s more.
        ensure!(at_least < Duration::from_secs(14), "late: {at_least:?}");
        Ok(())
    });
}

/// The leader dies just as a lease is over: whoever comes next ends it, once and not early.
#[test]
fn a_lease_ends_although_its_leader_dies_with_it() {
    run(async {
        const TTL: i64 = 3;
        let mut cluster = Cluster::start(3)?;
        let client = cluster.client();
        for round in 0..2u64 {
            let leader = client.wait_leader(PATIENT).await?;
            let key = format!("dies/{round}");
            let before = Instant::now();
            let id = grant(&client, leader, TTL).await?;
            hang(&client, leader, &key, id).await?;
            sleep(Duration::from_millis(2_900 + 150 * round)).await;
            cluster.kill(leader)?;
            let took = gone(&client, &key, Duration::from_secs(8) + SLACK).await? - before;
            println!("round {round}: its leader killed, the lease ended after {took:?}");
            ensure!(took >= Duration::from_secs(3), "early: {took:?}");
            cluster.restart(leader)?;
            let revision = client.revision(PATIENT).await?;
            client.same_hash(revision, PATIENT).await?;
        }
        Ok(())
    });
}

/// Any member answers for the leader, and says the same.
#[test]
fn every_member_answers_for_leases() {
    run(async {
        let cluster = Cluster::start(3)?;
        let client = cluster.client();
        client.wait_leader(PATIENT).await?;
        let id = grant(&client, 0, 60).await?;
        hang(&client, 1, "answers", id).await?;
        for at in 0..3 {
            ensure!(keep_alive(&client, at, id).await? == 60, "member {at}");
            ensure!(keep_alive(&client, at, 12_345).await? == 0, "member {at}");
            let ask = |id| LeaseTimeToLiveRequest { id, keys: true };
            let answer = client.lease(at).lease_time_to_live(ask(id)).await?.into_inner();
            ensure!((58..=61).contains(&answer.ttl) && answer.granted_ttl == 60, "member {at}: {answer:?}");
            ensure!(answer.keys == ["answers"], "member {at}: {answer:?}");
            let answer = client.lease(at).lease_time_to_live(ask(12_345)).await?.into_inner();
            ensure!(answer.ttl == -1, "member {at}: {answer:?}");
        }
        Ok(())
    });
}

/// Leases that end together are gone within seconds, none early, while writes go on.
#[test]
fn many_leases_that_end_together_do_not_stop_writes() {
    run(async {
        let count_of_leases = i64::try_from(number("IT_LEASES", 5_000))?;
        let size = usize::try_from(number("IT_LEASE_MEMBERS", 3))?;
        let cluster = Cluster::start_with(&Options::new(size))?;
        let client = cluster.client();
        let leader = client.wait_leader(PATIENT).await?;
        // Long enough that all are granted before the first is over.
        let ttl = 8 + count_of_leases / 2_000;
        let begun = Instant::now();
        grant_many(&client, leader, count_of_leases, ttl).await?;
        let granted = begun.elapsed();
        ensure!(granted.as_secs() < u64::try_from(ttl)?, "granting took {granted:?}");
        let quiet = puts(&client, leader, Duration::from_secs(3)).await?;
        let (first, last, busy) = watch_them_go(&client, leader, begun, ttl, granted).await?;
        println!(
            "{count_of_leases} leases of {ttl} s granted in {granted:?}: the first gone after {first:?}, the last after \
             {last:?}; puts before: {quiet}; while they went: {busy}"
        );
        let most = Duration::from_secs(u64::try_from(ttl + count_of_leases / 5_000)?) + granted + SLACK;
        ensure!(last < most, "the last lease went after {last:?}");
        let revision = client.revision(PATIENT).await?;
        client.same_hash(revision, PATIENT).await?;
        Ok(())
    });
}

async fn grant_many(client: &Client, leader: usize, leases: i64, ttl: i64) -> anyhow::Result<()> {
    const WORKERS: i64 = 64;
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let client = client.clone();
        workers.spawn(async move {
            for number in (worker..leases).step_by(usize::try_from(WORKERS)?) {
                let id = number + 1;
                client.lease(leader).lease_grant(LeaseGrantRequest { id, ttl }).await?;
                hang(&client, leader, &format!("many/{id:08}"), id).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    Ok(())
}

/// How long puts took.
struct Latencies(Vec<Duration>);

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |per_mille: usize| self.0[(self.0.len() - 1) * per_mille / 1_000];
        write!(f, "{} in all, p50 {:?}, p99 {:?}, longest {:?}", self.0.len(), at(500), at(990), at(1_000))
    }
}

/// Puts of a few clients, one after the other each, for so long.
async fn puts(client: &Client, at: usize, time: Duration) -> anyhow::Result<Latencies> {
    const CLIENTS: usize = 8;
    let (until, mut clients, mut all) = (Instant::now() + time, JoinSet::new(), Vec::new());
    for number in 0..CLIENTS {
        let client = client.clone();
        clients.spawn(async move {
            let mut took = Vec::new();
            while Instant::now() < until {
                let put = PutRequest {
                    key: format!("put/{number}").into(),
                    value: vec![b'v'; 256].into(),
                    ..Default::default()
                };
                let begun = Instant::now();
                client.put(at, put, PATIENT).await?;
                took.push(begun.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    while let Some(client) = clients.join_next().await {
        all.append(&mut client??);
    }
    all.sort_unstable();
    Ok(Latencies(all))
}

/// When the first and the last of them were seen to be gone, and how puts fared in between.
async fn watch_them_go(
    client: &Client,
    leader: usize,
    begun: Instant,
    ttl: i64,
    granted: Duration,
) -> anyhow::Result<(Duration, Duration, Latencies)> {
    let all = count(client, leader, "many/").await?;
    let over = begun + Duration::from_secs(u64::try_from(ttl)?);
    let mut early = Instant::now();
    while count(client, leader, "many/").await? == all {
        early = Instant::now();
        sleep(Duration::from_millis(5)).await;
    }
    let first = begun.elapsed();
    ensure!(Instant::now() >= over, "a lease ended {:?} early", over - early);
    let looking = async {
        while count(client, leader, "many/").await? > 0 {
            ensure!(begun.elapsed() < first + granted + Duration::from_mins(1), "leases stay");
            sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(begun.elapsed())
    };
    // As many puts as before, at least while most of them go.
    let writing = puts(client, leader, Duration::from_secs(3));
    let (last, busy) = tokio::join!(looking, writing);
    Ok((first, last?, busy?))
}
