//! How long a write waits while its member gives space back or is copied: figures, beside stock etcd's in the same run.
//!
//! `IT_STALL_KEYS` (20,000): keys of 64 bytes with values of 100, twice as many when half of them are overwritten.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use harness::{Client, Cluster, Options, txn_of_puts};
use proto::etcdserverpb::{CompactionRequest, DefragmentRequest, PutRequest, SnapshotRequest};

use super::judge;
use crate::support::{PATIENT, number, run};

/// Puts a transaction, etcd's most.
const TXN_PUTS: u64 = 128;

/// A member on a machine that does other things must not stop writes for longer; the budget, 50 ms, is for a quiet one.
const STALL_LIMIT: Duration = Duration::from_secs(1);

fn put(number: u64) -> PutRequest {
    PutRequest {
        key: format!("/stall/{number:057}").into(),
        value: vec![b'v'; 100].into(),
        ..Default::default()
    }
}

async fn fill(client: &Client, from: u64, to: u64) -> anyhow::Result<()> {
    let mut at = from;
    while at < to {
        let next = (at + TXN_PUTS).min(to);
        client.txn(0, txn_of_puts((at..next).map(put)), PATIENT).await?;
        at = next;
    }
    Ok(())
}

/// Writes one key after the other until told to stop; the longest wait.
fn writer(
    client: &Client,
    keys: u64,
) -> (Arc<AtomicBool>, tokio::task::JoinHandle<anyhow::Result<(u64, Duration)>>) {
    let (stop, client) = (Arc::new(AtomicBool::new(false)), client.clone());
    let told = Arc::clone(&stop);
    let writing = tokio::spawn(async move {
        let (mut count, mut longest) = (0, Duration::ZERO);
        while !told.load(Relaxed) {
            let begun = Instant::now();
            client.put(0, put(count * 7919 % keys), Duration::from_secs(30)).await?;
            longest = longest.max(begun.elapsed());
            count += 1;
        }
        Ok((count, longest))
    });
    (stop, writing)
}

/// The longest wait of a write while `work` goes on, and how long that took.
async fn beside(
    client: &Client,
    keys: u64,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<(Duration, Duration, u64)> {
    let (stop, writing) = writer(client, keys);
    let begun = Instant::now();
    work.await?;
    let took = begun.elapsed();
    stop.store(true, Relaxed);
    let (count, longest) = writing.await??;
    Ok((longest, took, count))
}

async fn measure(name: &str, binary: Option<PathBuf>, keys: u64) -> anyhow::Result<Duration> {
    let flags = vec!["--quota-backend-bytes=8589934592".to_owned()];
    let cluster = Cluster::start_with(&Options { binary, flags, ..Options::new(1) })?;
    let client = cluster.client();
    client.wait_leader(PATIENT).await?;
    fill(&client, 0, keys).await?;
    fill(&client, 0, keys / 2).await?;
    let mut worst = Duration::ZERO;
    let mut show = |what: &str, (longest, took, count): (Duration, Duration, u64)| {
        if what != "nothing" {
            worst = worst.max(longest);
        }
        println!("{name}, {keys} keys, {what}: longest put {longest:.1?} of {count} in {took:.1?}");
    };
    let idle = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    };
    show("nothing", beside(&client, keys, idle).await?);
    let snapshot = async {
        let mut pieces = client.maintenance(0).snapshot(SnapshotRequest {}).await?.into_inner();
        let mut bytes = 0;
        while let Some(piece) = pieces.message().await? {
            bytes += piece.blob.len();
        }
        ensure!(bytes as u64 > keys * 100, "{bytes} bytes are not all of it");
        Ok(())
    };
    show("snapshot", beside(&client, keys, snapshot).await?);
    let revision = client.revision(PATIENT).await?;
    client.kv(0).compact(CompactionRequest { revision, physical: true }).await?;
    let defragment = async {
        client.maintenance(0).defragment(DefragmentRequest {}).await?;
        Ok(())
    };
    show("defragment", beside(&client, keys, defragment).await?);
    Ok(worst)
}

#[test]
fn writes_go_on_while_a_member_is_defragmented_or_copied() {
    run(async {
        let keys = number("IT_STALL_KEYS", 20_000);
        let ours = measure("quorate", None, keys).await?;
        measure("etcd", Some(judge("etcd")?), keys).await?;
        ensure!(ours <= STALL_LIMIT, "a write waited for {ours:?}");
        Ok(())
    });
}
