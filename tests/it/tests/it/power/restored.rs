//! What `ctl snapshot restore` made is there after a power cut, and each of its syncs is needed for that.

use std::process::Command;

use anyhow::{Context as _, ensure};
use harness::{
    Addresses, Client, Cluster, Member,
    power::{Disk, Survives},
    server_binary,
};

use super::noticed;
use crate::support::{get, is_etcd, put, run};

/// Syncs that are left out, beginning with none.
const LIES: [&str; 5] = [
    "",
    "lie dir .",
    "lie dir data/member",
    "lie file data/member/wal.restoring/*.wal",
    "lie file data/member/kv/*.sst",
];

#[test]
fn a_restored_member_outlives_a_power_cut() {
    if is_etcd() {
        return;
    }
    run(async {
        let cluster = Cluster::start(1)?;
        let client = cluster.client();
        put(&client, 0, "key", "value").await?;
        let file = cluster.folder().join("snapshot").display().to_string();
        let endpoint = format!("--endpoints={}", cluster.members()[0].addresses.client_url());
        ctl(&[&endpoint, "snapshot", "save", &file], &[])?;
        for (n, lie) in LIES.iter().enumerate() {
            let ended = restored(&cluster, &file, &format!("r{n}"), lie).await;
            noticed(lie, ended)?;
        }
        Ok(())
    });
}

async fn restored(cluster: &Cluster, file: &str, name: &str, lie: &str) -> anyhow::Result<()> {
    let (disk, addresses) = (Disk::new(cluster.folder(), name)?, Addresses::free()?);
    let url = addresses.peer_url();
    let members = format!("--initial-cluster={name}={url}");
    let (name_flag, data) =
        (format!("--name={name}"), format!("--data-dir={}", disk.root().join("data").display()));
    let advertised = format!("--initial-advertise-peer-urls={url}");
    disk.command(&format!("{lie}\n"))?;
    ctl(&["snapshot", "restore", file, &name_flag, &members, &advertised, &data], &disk.variables()?)?;
    assert!(lie.is_empty() || !disk.struck().is_empty(), "{lie}: there is no such sync");
    disk.command("")?;
    disk.cut(Survives::Nothing)?;
    let mut member =
        Member::new(name, &server_binary()?, cluster.folder(), addresses, &[members]).on(&disk)?;
    member.start()?;
    member.wait_ready()?;
    let client = Client::new([member.addresses.client_url()]);
    ensure!(get(&client, 0, "key").await?.as_deref() == Some("value"), "LOST: a key of the snapshot");
    Ok(())
}

pub(super) fn ctl(arguments: &[&str], variables: &[(String, String)]) -> anyhow::Result<()> {
    let binary = server_binary()?;
    let done = Command::new(&binary).arg("ctl").args(arguments).envs(variables.iter().cloned()).output();
    let done = done.with_context(|| binary.display().to_string())?;
    ensure!(done.status.success(), "ctl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
