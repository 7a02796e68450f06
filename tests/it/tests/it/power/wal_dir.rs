//! Power cuts with the log in a directory of its own (`--wal-dir`): it is as durable as in its usual place.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use harness::{Options, power::Survives};

use super::{Rig, Shape, all};
use crate::support::run;

/// Syncs that are left out, beginning with none: of the log's files, of their names, of its directory's, and of the folder's
/// in which that lies.
const LIES: [&str; 5] = ["", "lie file apart/wal/*-*.wal", "lie dir apart/wal", "lie dir apart", "lie dir ."];

/// How often the power is cut with all its syncs done.
const CUTS: u64 = 4;

#[test]
fn a_log_in_a_directory_of_its_own_outlives_power_cuts() {
    run(async {
        for lie in LIES {
            match (lie.is_empty(), cut(lie).await) {
                (true, cut) => cut?,
                (false, Ok(())) => bail!("{lie}: nobody noticed"),
                (false, Err(error)) => {
                    println!("{lie}: {}", format!("{error:#}").lines().next().unwrap_or_default());
                }
            }
        }
        Ok(())
    });
}

async fn cut(lie: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // Where `Cluster` puts the first member's disk.
    let wal_dir = folder.path().join("m0.disk/apart/wal");
    let flags = vec![format!("--wal-dir={}", wal_dir.display())];
    let folder = Some(folder.path().to_path_buf());
    let mut rig = Rig::with(&Options { power: true, folder, flags, ..Options::new(1) }, 1, &[])?;
    rig.cluster.disk(0).command(&format!("{lie}\n"))?;
    for round in 0..if lie.is_empty() { CUTS } else { 1 } {
        rig.start(&all(1)).context("it does not start")?;
        let witness = Arc::clone(&rig.witness);
        let mut writers = witness.begin(&rig.client, Shape::Mixed, round, u64::MAX);
        rig.wait_acked(&witness).await?;
        rig.cluster.kill(0)?;
        witness.end(&mut writers).await?;
        let disk = rig.cluster.disk(0);
        assert!(lie.is_empty() || !disk.struck().is_empty(), "{lie}: there is no such sync");
        disk.command("")?;
        disk.cut(if round % 2 == 0 { Survives::Nothing } else { Survives::Some(round) })?;
        rig.start(&all(1)).context("it does not start again")?;
        rig.check(0).await?;
        rig.cluster.kill(0)?;
    }
    let names = std::fs::read_dir(&wal_dir)?.count();
    ensure!(names > 0 && !rig.cluster.members()[0].data.join("member/wal").exists(), "it lies elsewhere");
    Ok(())
}
