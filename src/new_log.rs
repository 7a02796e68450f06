//! The log of a member that goes on from a state which no log leads to: it appears whole, by a rename.

use crate::boot;
use anyhow::Context as _;
use std::fs::{self, File};
use std::path::Path;
use wal::{FsDisk, Wal};

/// The log while it is made.
const UNFINISHED: &str = "restoring";

/// Makes a log that begins with a record of the snapshot `start`; `fill` adds what follows, with a state that commits it.
pub(crate) fn write(
    wal_dir: &Path,
    metadata: &[u8],
    start: &proto::walpb::Snapshot,
    fill: impl FnOnce(&mut Wal<FsDisk>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let unfinished = wal_dir.with_extension(UNFINISHED);
    boot::make_dir(&unfinished)?;
    let disk = FsDisk::open(&unfinished).with_context(|| format!("cannot open {}", unfinished.display()))?;
    let mut wal = Wal::create(disk, metadata)?;
    wal.save_snapshot(start)?;
    fill(&mut wal)?;
    wal.close()?;
    fs::rename(&unfinished, wal_dir).with_context(|| format!("cannot name the log {}", wal_dir.display()))?;
    let parent = wal_dir.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("cannot sync {}", parent.display()))
}
