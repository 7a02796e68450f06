//! What a storm of clients leaves behind: no threads, and no memory.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::ensure;
use harness::{Cluster, end_of_prefix, txn_of_puts, usage::Usage};
use proto::etcdserverpb::{PutRequest, RangeRequest};

use crate::support::{PATIENT, is_etcd, run};

/// Keys in the list, more than are read on the runtime's thread, and what each holds; lists at one time; and how often.
const KEYS: u32 = 2_000;
const VALUE_BYTES: usize = 400;
const LISTS: usize = 50;
const ROUNDS: usize = 40;

/// Threads for long work that may still be there: who looks after the disk's space wakes one of them four times a second,
/// each in its turn.
const LEFT: usize = 6;

/// Time for the others to end: a second after their last work, and as much again on a machine that is busy.
const ENDED_WITHIN: Duration = Duration::from_secs(5);

/// Memory may be so many percent of what it was.
const KEPT_PERCENT: u64 = 130;

/// Threads of tokio's pool, and the runtime's own.
fn workers(pid: u32) -> anyhow::Result<usize> {
    let mut count = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that ended meanwhile has no name.
        let name = fs::read_to_string(task?.path().join("comm")).unwrap_or_default();
        count += usize::from(name.starts_with("tokio-rt-worker"));
    }
    Ok(count)
}

#[test]
fn a_storm_of_lists_leaves_no_threads_and_no_memory() {
    if is_etcd() {
        return;
    }
    run(async {
        let mut cluster = Cluster::start(1)?;
        let client = cluster.client();
        let keys: Vec<u32> = (0..KEYS).collect();
        for some in keys.chunks(100) {
            let puts = some.iter().map(|number| PutRequest {
                key: format!("list/{number:06}").into(),
                value: vec![b'v'; VALUE_BYTES].into(),
                ..Default::default()
            });
            client.txn(0, txn_of_puts(puts), PATIENT).await?;
        }
        let list =
            &RangeRequest { key: "list/".into(), range_end: end_of_prefix(b"list/"), ..Default::default() };
        let pid = cluster.member(0).pid().expect("it runs");
        let before = Usage::of(pid)?.resident_bytes;
        let (mut most, mut peak) = (0, 0);
        for _ in 0..ROUNDS {
            let mut asking = tokio::task::JoinSet::new();
            for _ in 0..LISTS {
                let (client, list) = (client.clone(), list.clone());
                asking.spawn(async move { client.range(0, list, PATIENT).await });
            }
            while let Some(answered) = asking.join_next().await {
                answered??;
            }
            most = most.max(workers(pid)?);
            peak = peak.max(Usage::of(pid)?.resident_bytes);
        }
        let over = Instant::now();
        let (threads, bytes, is_back) = loop {
            let (threads, bytes) = (workers(pid)?, Usage::of(pid)?.resident_bytes);
            let is_back = threads <= LEFT && bytes * 100 <= before * KEPT_PERCENT;
            if is_back || over.elapsed() > ENDED_WITHIN {
                break (threads, bytes, is_back);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let [before, peak, after] = [before, peak, bytes].map(|bytes| bytes >> 20);
        println!(
            "{most} threads in the storm, {threads} after {:?}; {before} MiB before, {peak}, {after} after",
            over.elapsed()
        );
        ensure!(threads <= LEFT, "{threads} threads wait for work");
        ensure!(peak * 100 > before * KEPT_PERCENT, "{peak} MiB in the storm: nothing to give back");
        ensure!(is_back, "{after} MiB of {peak} are kept, {before} before");
        Ok(())
    });
}
