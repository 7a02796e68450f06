//! Every sync that matters, taken out one at a time: the disk says that it is done and does not do it, and then the power
//! is cut. What is not noticed here proves nothing about syncs. The table in docs/testing.md is made of this list.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use harness::power::Survives;

use super::{Rig, Shape, all};
use crate::support::run;

/// What is done before the power goes.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// The first start, until what it appended first is to be synced.
    Begun,
    /// Some writes after the first start.
    Written,
    /// The rows were flushed.
    Flushed,
    /// Another segment of the log was begun, until what was appended to it first is to be synced.
    CutBegun,
    /// Another segment of the log was begun, and written to.
    Cut,
    /// The beginning of the log was let go: the rows are needed.
    Released,
}

/// A sync: what is synced, and how it is noticed that it was not.
const SYNCS: [(&str, &str, Until); 12] = [
    // crates/wal: Wal::sync and what else syncs the last segment.
    ("file", "data/member/wal/*-*.wal", Until::Written),
    // A segment is durable before it has its name, the first and every later one.
    ("file", "data/member/wal/0.tmp", Until::Begun),
    ("file", "data/member/wal/0.tmp", Until::CutBegun),
    // Names of segments.
    ("dir", "data/member/wal", Until::Written),
    ("dir", "data/member/wal", Until::Cut),
    // wal::make_dir_all: the names of the data directory, of member/, and of what is in it.
    ("dir", ".", Until::Written),
    ("dir", "data", Until::Written),
    ("dir", "data/member", Until::Written),
    // RocksDB, at its creation and in Engine::flush.
    ("file", "data/member/kv/*.dbtmp", Until::Written),
    ("file", "data/member/kv/MANIFEST-*", Until::Flushed),
    ("file", "data/member/kv/*.sst", Until::Flushed),
    ("dir", "data/member/kv", Until::Released),
];

#[test]
fn every_sync_that_is_taken_out_is_noticed_at_a_power_cut() {
    run(async {
        for (kind, pattern, until) in SYNCS {
            let lie = format!("lie {kind} {pattern}");
            let noticed = noticed(&lie, until).await.with_context(|| lie.clone())?;
            println!("{lie} ({until:?}): {noticed}");
        }
        Ok(())
    });
}

#[test]
fn without_lies_the_same_steps_lose_nothing() {
    run(async {
        for until in
            [Until::Begun, Until::Written, Until::Flushed, Until::CutBegun, Until::Cut, Until::Released]
        {
            let mut rig = Rig::new(1, 1, &[("POWER_VERIFY", "1")])?;
            steps(&mut rig, until, "").await?;
            let escaped = rig.cluster.disk(0).escaped();
            ensure!(escaped.is_empty(), "written past the library: {escaped:?}");
            comes_back(&mut rig).await.with_context(|| format!("{until:?}"))?;
        }
        Ok(())
    });
}

/// How it was noticed that this sync is missing.
async fn noticed(lie: &str, until: Until) -> anyhow::Result<String> {
    let mut rig = Rig::new(1, 1, &[])?;
    steps(&mut rig, until, &format!("{lie}\n")).await?;
    let struck = rig.cluster.disk(0).struck();
    ensure!(!struck.is_empty(), "there is no such sync");
    match comes_back(&mut rig).await {
        Ok(()) => bail!("nobody noticed, of {} syncs", struck.len()),
        Err(error) => Ok(format!("{error:#}").lines().next().unwrap_or_default().to_owned()),
    }
}

/// Everything up to the loss of power; the lie is told from the moment on that it is about.
async fn steps(rig: &mut Rig, until: Until, lie: &str) -> anyhow::Result<()> {
    let at_once = !matches!(until, Until::Cut | Until::CutBegun);
    rig.cluster.disk(0).command(if at_once { lie } else { "" })?;
    if matches!(until, Until::Begun) {
        return until_hung(rig, lie, 0).await;
    }
    rig.start(&all(1))?;
    write(rig, Shape::Small, 30).await?;
    match until {
        Until::Begun | Until::Written => {}
        Until::Flushed => {
            // What the engine keeps in memory before it writes files is less.
            write(rig, Shape::Burst(8), 45).await?;
            wait(rig, "kv", |names| names.iter().any(|name| name.rsplit('.').next() == Some("sst"))).await?;
        }
        Until::CutBegun => return until_hung(rig, lie, 1).await,
        Until::Cut => {
            rig.cluster.disk(0).command(lie)?;
            write(rig, Shape::Burst(8), 60).await?;
            wait(rig, "wal", |names| names.iter().any(|name| name.starts_with("0000000000000001-"))).await?;
            write(rig, Shape::Small, 30).await?;
        }
        Until::Released => {
            write(rig, Shape::Burst(8), 60).await?;
            write(rig, Shape::Small, 6_000).await?;
            write(rig, Shape::Burst(8), 120).await?;
            let gone = |names: &[String]| !names.iter().any(|name| name.starts_with("0000000000000000-"));
            wait(rig, "wal", gone).await?;
        }
    }
    rig.cluster.kill(0)
}

/// Writes until the first sync of this segment, which hangs, and kills the member there.
async fn until_hung(rig: &mut Rig, lie: &str, segment: u64) -> anyhow::Result<()> {
    let hang = format!("{lie}hang file data/member/wal/{segment:016x}-*\n");
    rig.cluster.disk(0).command(&hang)?;
    if segment == 0 {
        rig.cluster.member(0).start()?;
    }
    let witness = Arc::clone(&rig.witness);
    let mut writers = witness.begin(&rig.client, Shape::Burst(8), 1, u64::MAX);
    let hangs = |rig: &Rig| rig.cluster.disk(0).struck().iter().any(|line| line.starts_with("hang"));
    for _ in 0..1_000 {
        if hangs(rig) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(hangs(rig), "segment {segment} was never synced");
    rig.cluster.kill(0)?;
    witness.end(&mut writers).await
}

async fn write(rig: &Rig, shape: Shape, count: u64) -> anyhow::Result<()> {
    let witness = Arc::clone(&rig.witness);
    let wanted = witness.acked() + count;
    let mut writers = witness.begin(&rig.client, shape, count, u64::MAX);
    while witness.acked() < wanted {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    witness.end(&mut writers).await
}

/// Waits until the names in a directory of the member are so.
async fn wait(rig: &Rig, folder: &str, so: impl Fn(&[String]) -> bool) -> anyhow::Result<()> {
    let folder = rig.cluster.members()[0].data.join("member").join(folder);
    for _ in 0..1_000 {
        let names =
            std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        if so(&names.collect::<anyhow::Result<Vec<String>>>()?) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("{} did not come to be so", folder.display())
}

/// Cuts the power, and asks for everything.
async fn comes_back(rig: &mut Rig) -> anyhow::Result<()> {
    rig.cluster.disk(0).command("")?;
    rig.cluster.disk(0).cut(Survives::Nothing)?;
    rig.start(&all(1))?;
    rig.check(0).await
}
