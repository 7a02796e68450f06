//! Syncs and writes that fail: the member ends and says why, and what it acknowledged is there once the disk is sound.
//!
//! A sync that failed is not tried again: what it was to make durable is gone, as in Linux. So nothing after it may be
//! acknowledged.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use harness::power::Survives;
use tokio::time::Instant;

use super::{Rig, SERVE_LIMIT, Shape, all};
use crate::support::{is_etcd, no_panic, run};

/// What the system calls a disk that cannot.
const BROKEN: &str = "Input/output error";
/// What the system calls a disk that is full.
const FULL: &str = "No space left on device";

/// What fails, what is written until it is needed, and the reason that the member gives.
const FAULTS: [(&str, Shape, &str); 8] = [
    // The log: a batch.
    ("fail file data/member/wal/*-*.wal", Shape::Small, BROKEN),
    ("fail write data/member/wal/*-*.wal", Shape::Mixed, BROKEN),
    ("full write data/member/wal/*-*.wal", Shape::Mixed, FULL),
    // Its next segment, and that one's name.
    ("fail file data/member/wal/0.tmp", Shape::Burst(8), BROKEN),
    ("fail dir data/member/wal", Shape::Burst(8), BROKEN),
    // Rows, when they are flushed.
    ("fail file data/member/kv/*.sst", Shape::Burst(8), BROKEN),
    ("full write data/member/kv/*.sst", Shape::Burst(8), FULL),
    ("fail file data/member/kv/MANIFEST-*", Shape::Burst(8), BROKEN),
];

#[test]
fn a_member_whose_disk_fails_ends_with_the_reason_and_loses_nothing() {
    if is_etcd() {
        return;
    }
    run(async {
        for (fault, shape, reason) in FAULTS {
            fails(fault, shape, reason).await.with_context(|| fault.to_owned())?;
        }
        Ok(())
    });
}

async fn fails(fault: &str, shape: Shape, reason: &str) -> anyhow::Result<()> {
    let mut rig = Rig::new(1, 1, &[])?;
    rig.start(&all(1))?;
    let witness = Arc::clone(&rig.witness);
    let mut writers = witness.begin(&rig.client, shape, 1, u64::MAX);
    let deadline = Instant::now() + SERVE_LIMIT;
    while witness.acked() < 5 {
        ensure!(Instant::now() < deadline, "nothing is acknowledged");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    rig.cluster.disk(0).command(&format!("{fault}\n"))?;
    let process = rig.cluster.member(0).process()?;
    let status = loop {
        if let Some(status) = process.ended()? {
            break status;
        }
        ensure!(Instant::now() < deadline, "it goes on, with {:?}", rig.cluster.disk(0).struck());
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let (last, output) = (process.tail(1), process.output());
    ensure!(!status.success(), "it ended with {status}");
    ensure!(last.contains(reason), "its last line: {last}");
    no_panic(&output);
    rig.cluster.kill(0)?;
    witness.end(&mut writers).await?;
    let disk = rig.cluster.disk(0);
    ensure!(!disk.struck().is_empty(), "it ended of something else");
    disk.command("")?;
    disk.cut(Survives::Nothing)?;
    rig.start(&all(1))?;
    rig.check(0).await?;
    println!("{fault}: {status}, {} acknowledged writes all there; {last}", witness.acked());
    Ok(())
}
