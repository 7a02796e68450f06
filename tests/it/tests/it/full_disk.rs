//! A disk that fills: puts are refused while deletes and compaction go on; when it is full to the last byte the process ends
//! with one line, and nothing acknowledged is lost.
//!
//! Needs a file system of its own, so root and mount(8); `QUORATE_REQUIRE_ALL=1` where that is given.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use harness::{Client, Cluster, Options};
use proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest, RangeRequest,
    alarm_request::AlarmAction,
};
use rustix::fs::statvfs;
use tonic::Code;

use crate::support::{PATIENT, cannot, no_panic, put, run};

/// The least that a member wants to see free (256 MiB), and some data.
const SMALL: &str = "800m";

/// Below this a member gives up its ballast.
const RELEASE_MIN: u64 = 96 << 20;

/// Values of this size fill it quickly.
const VALUE_BYTES: usize = 1 << 20;

/// More than [`SMALL`] holds: at least one of these is refused.
const PUTS_MAX: usize = 800;

/// Of what was acknowledged, so much is deleted again.
const DELETES: usize = 10;

/// More than a segment of the log holds, a mebibyte each: deletes are not refused, but the disk has no room for them.
const LARGE_DELETES_MAX: usize = 200;

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

    /// What a process may still write.
    fn free(&self) -> anyhow::Result<u64> {
        let found = statvfs(&self.0)?;
        Ok(found.f_bavail * found.f_frsize)
    }

    /// Something else takes all but `left` bytes.
    fn fill(&self, left: u64) -> anyhow::Result<()> {
        let mut file: File = OpenOptions::new().create(true).append(true).open(self.0.join("foreign"))?;
        let chunk = vec![0; 1 << 20];
        loop {
            let more = self.free()?.saturating_sub(left).min(1 << 20);
            let more = usize::try_from(more)?;
            // The member writes beside us: the last byte may be gone already.
            if more == 0 || file.write_all(&chunk[..more]).is_err() {
                return Ok(());
            }
        }
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
    let (acked, refusal) = put_until_refused(&client).await?;
    println!("{} MiB acknowledged, then {:?} {:?}", acked.len(), refusal.code(), refusal.message());
    ensure!(refusal.code() == Code::ResourceExhausted, "{refusal}");
    ensure!(cluster.member(0).process()?.ended()?.is_none(), "it ended before the disk was full");
    let ballast = cluster.members()[0].data.join("member/ballast");
    ensure!(ballast.exists(), "the ballast is kept while there is room");

    let (gone, kept) = acked.split_at(DELETES);
    for (number, _) in gone {
        delete(&client, key(*number)).await.context("deletes are let through")?;
    }
    disk.fill(RELEASE_MIN - (8 << 20))?;
    let begun = Instant::now();
    while ballast.exists() {
        ensure!(begun.elapsed() < PATIENT, "the ballast was not released");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let revision = delete(&client, "nothing".into()).await?;
    let compaction = CompactionRequest { revision, physical: true };
    client.kv(0).compact(compaction).await.context("compaction is let through")?;
    client.maintenance(0).defragment(DefragmentRequest {}).await.context("defragmentation is let through")?;
    println!("with {} MiB free: deletes, compaction and defragmentation went through", disk.free()? >> 20);

    disk.fill(0)?;
    let ended = write_until_ended(&mut cluster, &client).await?;
    let process = cluster.member(0).process()?;
    no_panic(&process.output());
    let last = process.tail(1);
    ensure!(!ended.success(), "a full disk ended it with {ended}");
    ensure!(last.to_lowercase().contains("no space left"), "its last line: {last}");
    cluster.kill(0)?;
    fs::remove_file(disk.0.join("foreign"))?;
    disk.grow("1600m")?;
    cluster.restart(0)?;
    for (number, revision) in kept {
        held(&client, *number, *revision).await?;
    }
    let disarm = AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
    for raised in client.maintenance(0).alarm(disarm).await?.into_inner().alarms {
        let (member_id, alarm) = (raised.member_id, raised.alarm);
        let disarm = AlarmRequest { action: AlarmAction::Deactivate.into(), member_id, alarm };
        client.maintenance(0).alarm(disarm).await?;
    }
    put(&client, 0, "after", "1").await?;
    println!("with room again all {} are there and it takes writes", kept.len());
    Ok(())
}

/// The writes that were acknowledged, with their revisions, and what came instead of the next.
async fn put_until_refused(client: &Client) -> anyhow::Result<(Vec<(usize, i64)>, tonic::Status)> {
    let mut acked = Vec::new();
    for number in 0..PUTS_MAX {
        let request = PutRequest { key: key(number), value: value(number), ..Default::default() };
        match client.put(0, request, Duration::from_secs(5)).await {
            Ok(answer) => acked.push((number, answer.header.map_or(0, |header| header.revision))),
            Err(status) => return Ok((acked, status)),
        }
    }
    anyhow::bail!("{PUTS_MAX} MiB fit into {SMALL}")
}

async fn delete(client: &Client, key: Bytes) -> anyhow::Result<i64> {
    let request = DeleteRangeRequest { key, ..Default::default() };
    let answer = tokio::time::timeout(PATIENT, client.kv(0).delete_range(request)).await??.into_inner();
    Ok(answer.header.map_or(0, |header| header.revision))
}

/// Writes what is not refused until there is no room for it in the log.
async fn write_until_ended(
    cluster: &mut Cluster,
    client: &Client,
) -> anyhow::Result<std::process::ExitStatus> {
    for number in 0..LARGE_DELETES_MAX {
        if delete(client, value(number)).await.is_err() {
            break;
        }
    }
    cluster.member(0).process()?.wait_end(PATIENT)
}

async fn held(client: &Client, number: usize, revision: i64) -> anyhow::Result<()> {
    let range = RangeRequest { key: key(number), ..Default::default() };
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
