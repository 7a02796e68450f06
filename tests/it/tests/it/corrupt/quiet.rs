//! No false alarm: writes, compactions, restarts, kills, and a follower that catches up by a snapshot, with every check
//! there is once a second.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use harness::{Client, Cluster, Options, txn_of_puts};
use proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest};

use super::{ELECTION, TWO_ETCD, alarms};
use crate::support::{PATIENT, number, run};

/// Small numbers, so that a follower that was away for seconds needs a snapshot.
const FLAGS: &[&str] = &[
    "--corrupt-check-time=1s",
    "--compact-hash-check-time=1s",
    "--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true",
    "--snapshot-count=200",
    "--snapshot-catchup-entries=50",
];

/// Writes after which the others' logs do not hold what a member lacks that was away for them.
const MISSED: u64 = 600;

/// Writers at a time, each with keys of its own, which all overlap in time.
const WRITERS: usize = 8;

#[test]
fn sound_members_of_ours_raise_no_alarm() {
    run(quiet(&[]));
}

#[test]
fn sound_members_of_two_kinds_raise_no_alarm() {
    run(quiet(&[2]));
    run(quiet(TWO_ETCD));
}

async fn quiet(etcd: &[usize]) -> anyhow::Result<()> {
    let mut options = Options::mixed(etcd);
    options.flags.extend(FLAGS.iter().map(|flag| (*flag).to_owned()));
    let mut cluster = Cluster::prepare(&options)?;
    for at in 0..cluster.size() {
        if !etcd.contains(&at) {
            cluster.member(at).set_variable("ETCD_DIVERGENCE_CHECK_TIME", "1s");
        }
        cluster.member(at).start()?;
    }
    for at in 0..cluster.size() {
        cluster.member(at).wait_ready()?;
    }
    let client = cluster.client();
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(client.clone(), writer, Arc::clone(&stop), Arc::clone(&written))))
        .collect();
    let compactor = tokio::spawn(compact(client.clone(), Arc::clone(&stop)));
    let (begun, limit) = (Instant::now(), Duration::from_secs(number("IT_QUIET_SECONDS", 20)));
    let mut rounds = 0;
    while begun.elapsed() < limit / 2 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let at = rounds % cluster.size();
        if rounds % 2 == 0 {
            cluster.stop(at)?;
        } else {
            cluster.kill(at)?;
        }
        // Away long enough for the log to go on without it, however slow the machine is.
        let (before, gone) = (written.load(Relaxed), Instant::now());
        while written.load(Relaxed) < before + MISSED && gone.elapsed() < PATIENT {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.restart(at)?;
        rounds += 1;
    }
    // And at last without any trouble, so that checks meet nothing but writes and compactions.
    tokio::time::sleep(limit.saturating_sub(begun.elapsed())).await;
    stop.store(true, Relaxed);
    for writer in writers {
        writer.await?;
    }
    let compactions = compactor.await?;
    // A few more checks of what is at rest.
    tokio::time::sleep(Duration::from_secs(4)).await;
    client.same_hash(client.revision(ELECTION).await?, ELECTION).await?;
    for at in 0..client.size() {
        let raised = alarms(&client, at).await?;
        ensure!(raised.is_empty(), "m{at}: {raised:?}");
        let process = cluster.member(at).process()?;
        let mut suspicious = process.lines_with(&["differ"]);
        // What etcd says of a database whose version it has yet to write: no data differs.
        suspicious.retain(|line| !line.contains("cluster version differs from storage version"));
        ensure!(suspicious.iter().all(|line| line.contains("compact revision")), "m{at}: {suspicious:#?}");
    }
    let taken = |at: usize| cluster.members()[at].log().to_owned();
    let installed: usize = (0..3).map(|at| count(&taken(at), "installing a snapshot")).sum();
    println!("{installed} snapshots were installed by members of ours");
    ensure!(installed > 0 || etcd.len() > 1, "no follower caught up by a snapshot");
    println!("etcd {etcd:?}: {} writes, {compactions} compactions, {rounds} restarts", written.load(Relaxed));
    ensure!(written.load(Relaxed) > 1_000 && compactions > 3, "too little was done to prove anything");
    compared(&cluster, etcd).await
}

/// Lines of a whole log that have these words.
fn count(log: &Path, words: &str) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter(|line| line.contains(words)).count()
}

/// Rounds of the checks, one a second, in which at rest all is compared: the walk takes its time between two passes.
const ROUNDS_AT_REST: usize = 30;

/// The checks did run. Under load they may have had nothing to compare: all that was a second old was compacted.
async fn compared(cluster: &Cluster, etcd: &[usize]) -> anyhow::Result<()> {
    if 3 - etcd.len() < 2 {
        return Ok(());
    }
    let port = cluster.members()[0].addresses.client.to_string().parse()?;
    let mut same = Ok(0.0);
    for _ in 0..ROUNDS_AT_REST {
        same = crate::support::metric(port, "quorate_slices_compared_total{result=\"same\"}");
        if same.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("{} slices were compared by m0 in its last run", same?);
    Ok(())
}

async fn write(client: Client, writer: usize, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) {
    let mut number = 0;
    while !stop.load(Relaxed) {
        number += 1;
        let at = (writer + number) % client.size();
        let put = |key: usize| PutRequest {
            key: format!("quiet/{writer}/{key:03}").into(),
            value: format!("value {number}").into(),
            ..Default::default()
        };
        let done = match number % 5 {
            0 => {
                let gone = DeleteRangeRequest { key: put(number % 50).key, ..Default::default() };
                let mut kv = client.kv(at);
                tokio::time::timeout(PATIENT, kv.delete_range(gone)).await.is_ok_and(|done| done.is_ok())
            }
            1 => client.txn(at, txn_of_puts((0..3).map(|n| put((number + n) % 50))), PATIENT).await.is_ok(),
            _ => client.put(at, put(number % 50), PATIENT).await.is_ok(),
        };
        written.fetch_add(u64::from(done), Relaxed);
        // Without pauses the load alone would take both cores.
        tokio::time::sleep(Duration::from_millis(if done { 2 } else { 100 })).await;
    }
}

async fn compact(client: Client, stop: Arc<AtomicBool>) -> u64 {
    let mut compactions = 0;
    while !stop.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let Ok(revision) = client.revision(PATIENT).await else { continue };
        // Each third one to the very revision of now.
        let revision = if compactions % 3 == 0 { revision } else { revision - 100 };
        for at in 0..client.size() {
            let request = CompactionRequest { revision, physical: false };
            let mut kv = client.kv(at);
            let done = tokio::time::timeout(PATIENT, kv.compact(request)).await;
            if done.is_ok_and(|done| done.is_ok()) {
                compactions += 1;
                break;
            }
        }
    }
    compactions
}
