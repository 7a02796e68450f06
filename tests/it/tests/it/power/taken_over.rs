//! What was read of an etcd member's database is there after a power cut, and so is a forced cluster; each sync on the way is
//! needed for that.

use std::process::Command;

use anyhow::{Context as _, ensure};
use harness::{Client, Cluster, Options, power::Survives};

use super::noticed;
use crate::foreign::etcds;
use crate::support::{get, is_etcd, put, run};

/// Syncs that are left out, beginning with none. Not among them: the manifest and the names of the files, which the same start
/// writes and syncs once more when it opens them, and the new name, without which the next start reads the database again.
const OF_A_TAKEOVER: [&str; 2] = ["", "lie file data/member/kv.unfinished/*.sst"];

const OF_A_FORCED_CLUSTER: [&str; 3] =
    ["", "lie file data/member/kv/*.sst", "lie file data/member/wal/*.wal"];

/// Copies a directory onto a disk that keeps only what is synced: `cp` may copy without a write that can be seen.
const COPY: &str = r#"cd "$FROM" && find . -type d -exec mkdir -p "$TO/{}" \; &&
    find . -type f -exec dd if="{}" of="$TO/{}" bs=1M conv=fsync status=none \; &&
    find "$TO" -depth -type d -exec sync "{}" \; && sync "$TO/.."
"#;

#[test]
fn a_directory_that_was_taken_over_outlives_a_power_cut() {
    if is_etcd() {
        return;
    }
    run(async {
        let (etcd, _) = etcds(&["--snapshot-count=10"]).await?;
        let from = &etcd.members()[0];
        for lie in OF_A_TAKEOVER {
            let mut cluster = Cluster::prepare(&Options { power: true, ..Options::new(1) })?;
            let copy = Command::new("sh")
                .args(["-c", COPY])
                .env("FROM", &from.data)
                .env("TO", &cluster.members()[0].data)
                .envs(cluster.disk(0).variables()?)
                .output()?;
            ensure!(copy.status.success(), "{}", String::from_utf8_lossy(&copy.stderr));
            cluster.disk(0).command(&format!("{lie}\n"))?;
            let ended = cut_and_read(&mut cluster, 0, lie, &["key/1"]).await;
            noticed(lie, ended)?;
        }
        Ok(())
    });
}

#[test]
fn a_forced_cluster_outlives_a_power_cut() {
    if is_etcd() {
        return;
    }
    run(async {
        for lie in OF_A_FORCED_CLUSTER {
            let mut cluster = Cluster::start_with(&Options { power: true, ..Options::new(3) })?;
            let client = cluster.client();
            client.wait_leader(crate::support::PATIENT).await?;
            put(&client, 0, "key/1", "v").await?;
            let revision = client.revision(crate::support::PATIENT).await?;
            client.same_hash(revision, crate::support::PATIENT).await?;
            for member in 0..3 {
                cluster.kill(member)?;
            }
            cluster.disk(2).command(&format!("{lie}\n"))?;
            cluster.member(2).set_flag("--force-new-cluster", true);
            let ended = cut_and_read(&mut cluster, 2, lie, &["key/1"]).await;
            noticed(lie, ended)?;
        }
        Ok(())
    });
}

/// Starts it, has a write acknowledged, and cuts the power; then everything must be there.
async fn cut_and_read(cluster: &mut Cluster, at: usize, lie: &str, keys: &[&str]) -> anyhow::Result<()> {
    cluster.restart(at)?;
    let client = Client::new([cluster.members()[at].addresses.client_url()]);
    put(&client, 0, "after", "v").await?;
    cluster.kill(at)?;
    assert!(lie.is_empty() || !cluster.disk(at).struck().is_empty(), "{lie}: there is no such sync");
    cluster.disk(at).command("")?;
    cluster.disk(at).cut(Survives::Nothing)?;
    cluster.member(at).set_flag("--force-new-cluster", false);
    cluster.restart(at).context("LOST: it does not start")?;
    for key in keys.iter().chain(&["after"]) {
        ensure!(get(&client, 0, key).await?.is_some(), "LOST: {key}");
    }
    Ok(())
}
