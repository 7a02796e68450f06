//! Thousands of requests of every kind: all members hold the same, at the newest revision and before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use harness::{Client, Cluster, end_of_prefix, txn_of_puts};
use proto::etcdserverpb::{LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::{
    ELECTION, ETCD, ONE_ETCD, OURS, SETTLE, TWO_ETCD, all_run, checking,
    generator::{Ask, COMPACTED, Generator, PREFIX},
    no_alarm, same_hashes_of_compaction,
};
use crate::support::{PATIENT, number, run, seed};

/// Closed loops that send.
const WORKERS: u32 = 8;

/// Revisions, besides the newest, at which everything is compared.
const OLD_REVISIONS: usize = 6;

/// A lease of two seconds must have ended by then: the least time to live is two, and a new leader adds a second.
const EXPIRY: Duration = Duration::from_secs(20);

#[test]
fn two_etcd_and_one_of_ours_hold_the_same_with_ours_leading() {
    run(same_after_requests(TWO_ETCD, OURS));
}

#[test]
fn two_etcd_and_one_of_ours_hold_the_same_with_etcd_leading() {
    run(same_after_requests(TWO_ETCD, ETCD));
}

#[test]
fn two_of_ours_and_one_etcd_hold_the_same_with_ours_leading() {
    run(same_after_requests(ONE_ETCD, OURS));
}

#[test]
fn two_of_ours_and_one_etcd_hold_the_same_with_etcd_leading() {
    run(same_after_requests(ONE_ETCD, ETCD));
}

#[test]
fn two_etcd_and_one_of_ours_hold_the_same_while_leadership_moves() {
    run(same_while_leadership_moves(TWO_ETCD));
}

#[test]
fn two_of_ours_and_one_etcd_hold_the_same_while_leadership_moves() {
    run(same_while_leadership_moves(ONE_ETCD));
}

async fn same_after_requests(etcd: &[usize], leader: usize) -> anyhow::Result<()> {
    let (requests, seed) = (number("IT_MIXED_REQUESTS", 2_000), seed());
    println!("etcd members {etcd:?}, m{leader} leads, {requests} requests, IT_SEED={seed}");
    let mut cluster = Cluster::start_with(&checking(etcd))?;
    let client = cluster.client();
    client.make_leader(leader, ELECTION).await?;
    let term = client.status(leader).await?.raft_term;
    let tally = send_all(&client, requests, seed).await?;
    ensure!(tally.unanswered == 0, "with one leader all are answered: {tally:?}");
    let after = client.status(leader).await?;
    let led = client.leader().await == Some(leader) && after.raft_term == term;
    println!("{tally:?}; m{leader} led {}", if led { "throughout" } else { "not throughout" });
    expire(&client).await?;
    let newest = compare(&client, seed).await?;
    no_alarm(&client).await?;
    // Each starts again on what it wrote; etcd asks the others for their hashes first.
    cluster.restart_all()?;
    client.same_hash(newest, SETTLE).await?;
    no_alarm(&client).await?;
    all_run(&mut cluster)?;
    ensure!(
        led,
        "the leader changed in between (term {term} to {}): the machine is too slow",
        after.raft_term
    );
    Ok(())
}

/// What became of the requests.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    refused: u64,
    unanswered: u64,
}

/// Requests that meet a hand-over may go unanswered, and a lease may end or not: all members agree all the same.
async fn same_while_leadership_moves(etcd: &[usize]) -> anyhow::Result<()> {
    let (requests, seed) = (number("IT_MIXED_REQUESTS", 2_000), seed());
    println!("etcd members {etcd:?}, leadership moves, {requests} requests, IT_SEED={seed}");
    let mut cluster = Cluster::start_with(&checking(etcd))?;
    let client = cluster.client();
    client.wait_leader(ELECTION).await?;
    let mover = tokio::spawn(move_leadership(client.clone(), seed));
    let tally = send_all(&client, requests, seed).await?;
    mover.abort();
    println!("{tally:?}; term {}", client.status(OURS).await?.raft_term);
    client.wait_leader(ELECTION).await?;
    compare(&client, seed).await?;
    no_alarm(&client).await?;
    all_run(&mut cluster)
}

/// To one member after the other, for ever.
async fn move_leadership(client: Client, seed: u64) {
    let mut random = SmallRng::seed_from_u64(!seed);
    loop {
        let next = random.random_range(0..client.size());
        // Somebody else may have been elected meanwhile: that is as good.
        let _ = client.make_leader(next, ELECTION).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(50..500))).await;
    }
}

async fn send_all(client: &Client, requests: u64, seed: u64) -> anyhow::Result<Tally> {
    let newest = Arc::new(AtomicI64::new(1));
    let left = Arc::new(AtomicU64::new(requests));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let sender = Sender { client: client.clone(), newest: Arc::clone(&newest) };
        let (left, mut generator) = (Arc::clone(&left), Generator::new(seed, worker));
        workers.spawn(async move {
            let mut tally = Tally::default();
            while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                let ask = generator.next(sender.newest.load(Relaxed));
                let at = generator.member(sender.client.size());
                match sender.send(at, ask).await {
                    Ok(()) => tally.done += 1,
                    Err(status) if is_refusal(&status) => tally.refused += 1,
                    Err(status) => {
                        println!("m{at}: {:?} {}", status.code(), status.message());
                        tally.unanswered += 1;
                    }
                }
            }
            tally
        });
    }
    let mut all = Tally::default();
    while let Some(tally) = workers.join_next().await {
        let tally = tally.context("a worker panicked")?;
        all.done += tally.done;
        all.refused += tally.refused;
        all.unanswered += tally.unanswered;
    }
    ensure!(all.done > requests / 2 && all.refused > 0, "most are to be served, some refused: {all:?}");
    Ok(all)
}

/// Said of the request, not of the cluster.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::OutOfRange
            | Code::FailedPrecondition
            | Code::AlreadyExists
    )
}

struct Sender {
    client: Client,
    newest: Arc<AtomicI64>,
}

impl Sender {
    async fn send(&self, at: usize, ask: Ask) -> Result<(), Status> {
        let (mut kv, mut lease) = (self.client.kv(at), self.client.lease(at));
        let header = match ask {
            Ask::Put(request) => kv.put(request).await.map(|answer| answer.into_inner().header),
            Ask::Delete(request) => kv.delete_range(request).await.map(|answer| answer.into_inner().header),
            Ask::Txn(request) => kv.txn(request).await.map(|answer| answer.into_inner().header),
            Ask::Range(request) => kv.range(request).await.map(|answer| answer.into_inner().header),
            Ask::Compact(request) => kv.compact(request).await.map(|answer| answer.into_inner().header),
            Ask::Grant(request) => lease.lease_grant(request).await.map(|answer| answer.into_inner().header),
            Ask::Revoke(request) => {
                lease.lease_revoke(request).await.map(|answer| answer.into_inner().header)
            }
        };
        match header {
            Ok(header) => {
                self.newest.fetch_max(header.unwrap_or_default().revision, Relaxed);
                Ok(())
            }
            Err(status) => Err(status),
        }
    }
}

/// What a lease held goes when it ends, in one revision, on every member.
async fn expire(client: &Client) -> anyhow::Result<()> {
    let id = 0x0123_4567;
    client.lease(OURS).lease_grant(LeaseGrantRequest { ttl: 2, id }).await?;
    let put = |number: u32| PutRequest {
        key: format!("expire/{}", 9 - number).into(),
        value: Bytes::from_static(b"v"),
        lease: id,
        ..Default::default()
    };
    client.txn(OURS, txn_of_puts((0..5).map(put)), PATIENT).await?;
    let begun = Instant::now();
    for at in 0..client.size() {
        while all(client, at, "expire/", 0).await?.count > 0 {
            ensure!(begun.elapsed() < EXPIRY, "m{at} still holds the keys of a lease that ended");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    println!("a lease of 2 s ended after {:.1?} on all members", begun.elapsed());
    Ok(())
}

async fn all(client: &Client, at: usize, prefix: &str, revision: i64) -> Result<RangeResponse, Status> {
    let range = RangeRequest {
        key: Bytes::copy_from_slice(prefix.as_bytes()),
        range_end: end_of_prefix(prefix.as_bytes()),
        revision,
        ..Default::default()
    };
    client.range(at, range, PATIENT).await
}

/// Hashes and rows at the newest revision and at some before, and refusals of what is compacted.
async fn compare(client: &Client, seed: u64) -> anyhow::Result<i64> {
    let mut random = SmallRng::seed_from_u64(seed);
    // Nothing writes any more but leases that end: at a given revision nothing changes.
    let newest = client.revision(ELECTION).await?;
    let oldest = oldest(client, newest).await?;
    let mut revisions: Vec<i64> = (0..OLD_REVISIONS).map(|_| random.random_range(oldest..=newest)).collect();
    revisions.extend([oldest, newest]);
    let mut words = Vec::new();
    for revision in revisions {
        let hash = if revision == oldest {
            same_hashes_of_compaction(client, revision).await?
        } else {
            format!("{:08x}", client.same_hash(revision, SETTLE).await?)
        };
        let first = all(client, 0, PREFIX, revision).await?;
        for at in 1..client.size() {
            let other = all(client, at, PREFIX, revision).await?;
            ensure!(
                other.kvs == first.kvs && other.count == first.count,
                "m0 and m{at} differ at {revision}"
            );
        }
        words.push(format!("{revision}: {} keys, {hash}", first.count));
    }
    println!("the same on all members at {}", words.join("; "));
    let mut refusals = Vec::new();
    for at in 0..client.size() {
        let refusal = client.hash_kv(at, COMPACTED).await.err().context("a compacted revision is hashed")?;
        refusals.push((refusal.code(), refusal.message().to_owned()));
    }
    ensure!(refusals.windows(2).all(|pair| pair[0] == pair[1]), "{refusals:?}");
    Ok(newest)
}

/// The oldest revision that can be read, that of the last compaction, found by asking.
async fn oldest(client: &Client, newest: i64) -> anyhow::Result<i64> {
    let (mut compacted, mut there) = (0, newest);
    while compacted + 1 < there {
        let middle = i64::midpoint(compacted, there);
        match all(client, OURS, PREFIX, middle).await {
            Ok(_) => there = middle,
            Err(status) if status.code() == Code::OutOfRange => compacted = middle,
            Err(status) => bail!("{status:?}"),
        }
    }
    ensure!(compacted > 1, "nothing was compacted");
    Ok(there)
}
