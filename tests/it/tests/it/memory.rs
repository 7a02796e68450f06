//! What a storm of clients leaves behind: no threads, and no arenas of the C library.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::ensure;
use harness::{Cluster, end_of_prefix, txn_of_puts};
use proto::etcdserverpb::{PutRequest, RangeRequest};

use crate::support::{PATIENT, is_etcd, run};

/// Keys in the list, more than are read on the runtime's thread; lists at one time; and how often.
const KEYS: u32 = 2_000;
const LISTS: usize = 50;
const ROUNDS: usize = 40;

/// Threads for long work that may still be there: who looks after the disk's space wakes one of them four times a second,
/// each in its turn.
const LEFT: usize = 6;

/// Time for the others to end: a second after their last work, and as much again on a machine that is busy.
const ENDED_WITHIN: Duration = Duration::from_secs(5);

/// Arenas of the C library.
const ARENAS: usize = 4;

/// What glibc sets aside for the memory of an arena, and where it begins: at a multiple of that.
const ARENA_BYTES: u64 = 64 << 20;

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

/// Places where an arena has memory. The first arena grows elsewhere and is not among them.
fn arenas(pid: u32) -> anyhow::Result<usize> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut begins = BTreeSet::new();
    let mut previous_end = 0;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, mode) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let Some((begin, end)) = range.split_once('-') else { continue };
        let (begin, end) = (u64::from_str_radix(begin, 16)?, u64::from_str_radix(end, 16)?);
        let is_anonymous = fields.nth(3).is_none();
        // Its used part, and behind it the rest that nobody may touch yet, up to a multiple.
        if is_anonymous && mode.starts_with("---") && begin == previous_end && end % ARENA_BYTES == 0 {
            begins.insert(end - ARENA_BYTES);
        }
        previous_end = end;
    }
    Ok(begins.len())
}

#[test]
fn a_storm_of_lists_leaves_no_threads_and_few_arenas() {
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
                value: vec![b'v'; 100].into(),
                ..Default::default()
            });
            client.txn(0, txn_of_puts(puts), PATIENT).await?;
        }
        let list =
            &RangeRequest { key: "list/".into(), range_end: end_of_prefix(b"list/"), ..Default::default() };
        let pid = cluster.member(0).pid().expect("it runs");
        let mut most = 0;
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
        }
        let arenas = arenas(pid)?;
        let storm = Instant::now();
        let mut left = workers(pid)?;
        while left > LEFT && storm.elapsed() < ENDED_WITHIN {
            tokio::time::sleep(Duration::from_millis(100)).await;
            left = workers(pid)?;
        }
        println!("threads: {most} in the storm, {left} after {:?}; {arenas} arenas", storm.elapsed());
        ensure!(left <= LEFT, "{left} threads wait for work");
        ensure!(arenas < ARENAS, "{arenas} arenas beside the first");
        Ok(())
    });
}
