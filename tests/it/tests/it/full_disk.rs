//! A full disk: writes are refused or the process ends with one line, and nothing acknowledged is lost.
//!
//! Needs a file system of its own, so root and mount(8); `QUORATE_REQUIRE_ALL=1` where that is given.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::ensure;
use bytes::Bytes;
use harness::{Client, Cluster, Options};
use proto::etcdserverpb::{AlarmRequest, PutRequest, RangeRequest, alarm_request::AlarmAction};

use crate::support::{PATIENT, cannot, no_panic, put, run};

/// Two preallocated log segments of 64 MB and some data.
const SMALL: &str = "220m";

/// Values of this size fill it quickly.
const VALUE_BYTES: usize = 1 << 20;

/// More than [`SMALL`] holds: at least one of these is refused.
const PUTS_MAX: usize = 400;

/// A tmpfs, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .output()
            .is_ok_and(|output| output.status.success());
        done.then(|| Self(at.to_path_buf()))
    }

    fn grow(&self, size: &str) -> anyhow::Result<()> {
        let done =
            Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.0).status()?;
        ensure!(done.success(), "cannot grow {}", self.0.display());
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_loses_no_acknowledged_write() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path(), SMALL) else {
        return cannot("a full disk: mounting a small tmpfs needs root (CAP_SYS_ADMIN)");
    };
    run(fill(&disk, 1));
}

async fn fill(disk: &Disk, size: usize) -> anyhow::Result<()> {
    let options = Options { folder: Some(disk.0.clone()), ..Options::new(size) };
    let mut cluster = Cluster::start_with(&options)?;
    let client = cluster.client();
    let mut acked = Vec::new();
    let mut refusal = None;
    for number in 0..PUTS_MAX {
        let request = PutRequest { key: key(number), value: value(number), ..Default::default() };
        match client.put(0, request, Duration::from_secs(5)).await {
            Ok(answer) => acked.push((number, answer.header.map_or(0, |header| header.revision))),
            Err(status) => {
                refusal = Some(status);
                break;
            }
        }
    }
    let refusal = refusal.ok_or_else(|| anyhow::anyhow!("{PUTS_MAX} MiB fit into {SMALL}"))?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let process = cluster.member(0).process()?;
    let ended = process.ended()?;
    println!(
        "{} MiB acknowledged, then {:?} {:?}; process: {ended:?}",
        acked.len(),
        refusal.code(),
        refusal.message()
    );
    no_panic(&process.output());
    if let Some(status) = ended {
        let last = process.tail(1);
        ensure!(!status.success(), "a full disk ended it with {status}");
        ensure!(last.to_lowercase().contains("no space left"), "its last line: {last}");
    }
    cluster.kill(0)?;
    disk.grow("1g")?;
    cluster.restart(0)?;
    for (number, revision) in &acked {
        held(&client, *number, *revision).await?;
    }
    let disarm = AlarmRequest { action: AlarmAction::Deactivate.into(), ..Default::default() };
    if let Err(status) = client.maintenance(0).alarm(disarm).await {
        println!("disarming: {}", status.message());
    }
    put(&client, 0, "after", "1").await?;
    println!("with room again all {} are there and it takes writes", acked.len());
    Ok(())
}

async fn held(client: &Client, number: usize, revision: i64) -> anyhow::Result<()> {
    let range = RangeRequest { key: key(number), revision, ..Default::default() };
    let kv = client.range(0, range, PATIENT).await?.kvs.pop();
    ensure!(
        kv.is_some_and(|kv| kv.mod_revision == revision && kv.value == value(number)),
        "LOST: write {number} was acknowledged at {revision}"
    );
    Ok(())
}

fn key(number: usize) -> Bytes {
    format!("full/{number:04}").into()
}

fn value(number: usize) -> Bytes {
    let mut value = number.to_string().into_bytes();
    value.resize(VALUE_BYTES, b'.');
    value.into()
}
