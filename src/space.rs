//! Free disk space: a member that runs out of it says so while it can still write.
//!
//! ```text
//! 4 times a second: statvfs of data and log ─┬─ below SPACE_MIN   ─▶ NOSPACE through the log: puts are refused everywhere
//!                                        ├─ below RELEASE_MIN ─▶ the ballast goes: room for deletes and compaction
//!                                        └─ plenty again      ─▶ the ballast comes back; the alarm is the operator's
//! ```
//!
//! Nothing in the log depends on it, as with a quota. A disk that fills faster than this ends the process at the first
//! failed write.

use crate::config::Config;
use anyhow::Context as _;
use machine::Shared;
use proto::etcdserverpb as pb;
use raft_node::Handle;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Free bytes below which the alarm is raised: what comes before the next look, and a compaction of the newest files.
const SPACE_MIN: u64 = 256 << 20;
/// Free bytes below which the ballast goes: less than a segment of the log and a flush of what is in memory take.
const RELEASE_MIN: u64 = 96 << 20;
/// The ballast, in bytes: the log's next segment, which is the most that is set aside at once.
const BALLAST_BYTES: u64 = 64 << 20;
/// Time between two looks, which are a system call each: at 300 MB/s the disk has 75 MB less.
const EVERY: Duration = Duration::from_millis(250);

pub(crate) struct Space {
    dirs: Vec<PathBuf>,
    ballast: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// On the fuller of the file systems, before anything was done about it.
    free_bytes: u64,
    /// What was done about it.
    ballast: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    Made,
    Released,
}

impl Space {
    pub(crate) fn of(config: &Config) -> Self {
        let member_dir = config.data_dir.join("member");
        let ballast = member_dir.join("ballast");
        Self { dirs: vec![member_dir, config.wal_dir.clone()], ballast }
    }

    fn look(&self) -> io::Result<Look> {
        let mut free_bytes = u64::MAX;
        for dir in &self.dirs {
            let found = statvfs(dir)?;
            free_bytes = free_bytes.min(found.f_bavail.saturating_mul(found.f_frsize));
        }
        // A power cut may leave its name and not its space.
        let is_there = self.ballast.metadata().is_ok_and(|found| found.len() >= BALLAST_BYTES);
        let ballast = wanted(free_bytes, is_there);
        match ballast {
            Change::None => {}
            Change::Made => make(&self.ballast)?,
            Change::Released => fs::remove_file(&self.ballast)?,
        }
        Ok(Look { free_bytes, ballast })
    }
}

/// Refuses work that writes so many bytes where it would end in the alarm.
pub(crate) fn check(dir: &Path, bytes: u64) -> anyhow::Result<()> {
    let found = statvfs(dir).with_context(|| format!("cannot look after free space in {}", dir.display()))?;
    let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
    anyhow::ensure!(
        free_bytes >= bytes.saturating_add(SPACE_MIN),
        "too little disk space is left: {free_bytes} bytes, of which {SPACE_MIN} are kept free, and {bytes} are needed"
    );
    Ok(())
}

/// With twice the least space left besides it, the ballast comes back: at the edge it must not come and go.
fn wanted(free_bytes: u64, is_there: bool) -> Change {
    match is_there {
        true if free_bytes < RELEASE_MIN => Change::Released,
        false if free_bytes >= 2 * SPACE_MIN + BALLAST_BYTES => Change::Made,
        _ => Change::None,
    }
}

fn make(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    let made = fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES);
    if made.is_err() {
        // A part of it is worth nothing.
        let _ = fs::remove_file(path);
    }
    Ok(made?)
}

pub(crate) async fn watch(space: Space, node: Handle, shared: Arc<Shared>, log: slog::Logger) {
    let space = Arc::new(space);
    let mut ended = node.watch_ended();
    let mut is_told = false;
    let mut raising = tokio::task::JoinSet::new();
    loop {
        let own = Arc::clone(&space);
        let looked = tokio::task::spawn_blocking(move || own.look()).await.context("the look was cut short");
        match looked.and_then(|look| Ok(look?)) {
            Ok(look) => {
                is_told = false;
                while raising.try_join_next().is_some() {}
                // Without a quorum the alarm waits, and the disk does not.
                if needs_alarm(&node, &shared, look, &log) && raising.is_empty() {
                    raising.spawn(raise(node.clone(), look, log.clone()));
                }
            }
            // Once, not every second.
            Err(error) if !std::mem::replace(&mut is_told, true) => {
                slog::warn!(log, "cannot look after free disk space"; "error" => format!("{error:#}"));
            }
            Err(_) => {}
        }
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Tells of a released ballast; whether the alarm is due.
fn needs_alarm(node: &Handle, shared: &Shared, look: Look, log: &slog::Logger) -> bool {
    if look.ballast == Change::Released {
        slog::warn!(log, "the disk is nearly full: the ballast was released"; "free-bytes" => look.free_bytes);
    }
    look.free_bytes < SPACE_MIN && !shared.alarms().has(pb::AlarmType::Nospace, node.options().member)
}

async fn raise(node: Handle, look: Look, log: slog::Logger) {
    slog::warn!(log, "little disk space is left: raising the NOSPACE alarm";
        "free-bytes" => look.free_bytes, "least-bytes" => SPACE_MIN);
    if let Err(error) = node.propose(machine::no_space(node.options().member), None).await {
        slog::warn!(log, "could not raise the NOSPACE alarm"; "error" => %error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_does_not_come_and_go_at_the_edge() {
        assert_eq!(wanted(RELEASE_MIN - 1, true), Change::Released);
        // What is free then, whatever else happens to the disk.
        assert_eq!(wanted(RELEASE_MIN - 1 + BALLAST_BYTES, false), Change::None);
        assert_eq!(wanted(2 * SPACE_MIN + BALLAST_BYTES, false), Change::Made);
        assert_eq!(wanted(2 * SPACE_MIN, true), Change::None);
        assert_eq!(wanted(0, false), Change::None);
    }
}
