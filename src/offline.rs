//! Snapshots where no server runs: what one holds, and a new member's data directory made of it.
//!
//! ```text
//! verify the file ─▶ kv/ filled from its buckets, members of the new cluster ─▶ the log as `wal.restoring` ─ renamed ─▶ a member
//! ```
//!
//! The log comes last and appears whole: without it no server starts on the directory.

use crate::boot::{self, Identity};
use crate::config::Cluster;
use crate::snapshots;
use anyhow::{Context as _, bail, ensure};
use raft_node::bootstrap;
use snapshot::{FileError, Progress, Restore, Status, verify};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use wal::{FsDisk, Wal};

/// The log while it is made.
const UNFINISHED: &str = "restoring";

pub(crate) struct Offline;

impl snapshot::Offline for Offline {
    fn status(&self, file: &Path, progress: &mut Progress<'_>) -> Result<Status, String> {
        status(file, progress).map_err(|error| format!("{error:#}"))
    }

    fn restore(&self, wanted: &Restore, progress: &mut Progress<'_>) -> Result<(), String> {
        restore(wanted, progress).map_err(|error| format!("{error:#}"))
    }
}

fn status(path: &Path, progress: &mut Progress<'_>) -> anyhow::Result<Status> {
    // A checksum is checked where there is one: etcd's own database has none.
    let verified = match verify(open(path)?, false) {
        Err(FileError::NoHash) => verify(open(path)?, true)?,
        verified => verified?,
    };
    Ok(snapshot::status(verified, progress)?)
}

fn restore(wanted: &Restore, progress: &mut Progress<'_>) -> anyhow::Result<()> {
    let urls = &wanted.initial_advertise_peer_urls;
    let cluster = Cluster::parse(urls, &wanted.initial_cluster, &wanted.initial_cluster_token)?;
    boot::check_own_entry(&wanted.name, &cluster)?;
    let identity = Identity::derive(&wanted.name, &cluster).context("the cluster lists this member")?;
    let data_dir = wanted.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("{}.etcd", wanted.name)));
    ensure!(
        is_empty(&data_dir),
        "data-dir {:?} not empty or could not be read",
        data_dir.display().to_string()
    );
    if let Some(wal_dir) = wanted.wal_dir.as_ref().filter(|dir| dir.exists()) {
        bail!("wal-dir {:?} exists", wal_dir.display().to_string());
    }
    let verified = verify(open(&wanted.file)?, wanted.skip_hash_check)?;
    let member_dir = data_dir.join("member");
    boot::make_dir(&member_dir)?;
    let engine = snapshots::open_first(&member_dir)?;
    snapshot::load(verified, &engine, progress)?;
    let (start, hard_state) = bootstrap::restored_log(&identity.members);
    let bump = (wanted.bump_revision > 0).then_some(wanted.bump_revision);
    machine::start_new_cluster(&engine, &identity.members, (start.index(), start.term()), bump)?;
    drop(engine);
    let wal_dir = wanted.wal_dir.clone().unwrap_or_else(|| member_dir.join("wal"));
    write_log(&wal_dir, &identity, &start, &hard_state)
}

fn write_log(
    wal_dir: &Path,
    identity: &Identity,
    start: &proto::walpb::Snapshot,
    hard_state: &types::HardState,
) -> anyhow::Result<()> {
    let unfinished = wal_dir.with_extension(UNFINISHED);
    boot::make_dir(&unfinished)?;
    let disk = FsDisk::open(&unfinished).with_context(|| format!("cannot open {}", unfinished.display()))?;
    let mut wal = Wal::create(disk, &bootstrap::metadata(identity.member, identity.cluster))?;
    wal.save_snapshot(start)?;
    wal.append(&[], Some(hard_state))?;
    wal.close()?;
    fs::rename(&unfinished, wal_dir).with_context(|| format!("cannot name the log {}", wal_dir.display()))?;
    let parent = wal_dir.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("cannot sync {}", parent.display()))
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("open {}", path.display()))
}

fn is_empty(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}
