//! What `ctl snapshot save` said it saved is there after a power cut on the client's machine, and each of its syncs is
//! needed for that.

use anyhow::Context as _;
use harness::{
    Cluster,
    power::{Disk, Survives},
};

use super::{noticed, restored::ctl};
use crate::support::{is_etcd, put, run};

/// Syncs that are left out, beginning with none. The file has its name from its sync on.
const LIES: [&str; 3] = ["", "lie file snapshot.part", "lie dir ."];

#[test]
fn a_saved_snapshot_outlives_a_power_cut() {
    if is_etcd() {
        return;
    }
    run(async {
        let cluster = Cluster::start(1)?;
        put(&cluster.client(), 0, "key", "value").await?;
        for (n, lie) in LIES.iter().enumerate() {
            let saved = saved(&cluster, &format!("s{n}"), lie);
            noticed(lie, saved)?;
        }
        Ok(())
    });
}

fn saved(cluster: &Cluster, name: &str, lie: &str) -> anyhow::Result<()> {
    let disk = Disk::new(cluster.folder(), name)?;
    let file = disk.root().join("snapshot").display().to_string();
    let endpoint = format!("--endpoints={}", cluster.members()[0].addresses.client_url());
    disk.command(&format!("{lie}\n"))?;
    ctl(&[&endpoint, "snapshot", "save", &file], &disk.variables()?)?;
    assert!(lie.is_empty() || !disk.struck().is_empty(), "{lie}: there is no such sync");
    disk.command("")?;
    disk.cut(Survives::Nothing)?;
    ctl(&["snapshot", "status", &file], &[]).context("LOST: the snapshot")
}
