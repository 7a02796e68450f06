//! Work on files where no server runs: what a snapshot holds, and a new member's data directory made of it; what stands in
//! the way of taking over an etcd member's directory, and a directory given back to etcd.
//!
//! ```text
//! verify the file ─▶ kv/ filled from its buckets, members of the new cluster ─▶ the log as `wal.restoring` ─ renamed ─▶ a member
//! ```
//!
//! The log comes last and appears whole: without it no server starts on the directory.

use crate::boot::{self, Identity};
use crate::config::Cluster;
use crate::give_back::give_back;
use crate::{new_log, snapshots, takeover};
use anyhow::{Context as _, bail, ensure};
use raft_node::bootstrap;
use snapshot::{Directory, FileError, Progress, Restore, Status, verify};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub(crate) struct Offline;

impl snapshot::Offline for Offline {
    fn status(&self, file: &Path, progress: &mut Progress<'_>) -> Result<Status, String> {
        status(file, progress).map_err(|error| format!("{error:#}"))
    }

    fn restore(&self, wanted: &Restore, progress: &mut Progress<'_>) -> Result<(), String> {
        restore(wanted, progress).map_err(|error| format!("{error:#}"))
    }

    fn obstacles(&self, wanted: &Directory, progress: &mut Progress<'_>) -> Result<Vec<String>, String> {
        let member_dir = wanted.data_dir.join("member");
        if !takeover::is_etcds(&member_dir) {
            return Err(format!("there is no data of an etcd member in {}", member_dir.display()));
        }
        let mut found = takeover::look(&member_dir, &wanted.wal_dir());
        found.read_all(progress);
        Ok(found.obstacles)
    }

    fn give_back(&self, from: &Directory, to: &Path, progress: &mut Progress<'_>) -> Result<(), String> {
        if !is_empty(to) {
            return Err(format!("{:?} not empty or could not be read", to.display().to_string()));
        }
        give_back(&from.data_dir, &from.wal_dir(), to, progress).map_err(|error| format!("{error:#}"))
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
    let metadata = bootstrap::metadata(identity.member, identity.cluster);
    new_log::write(&wal_dir, &metadata, &start, |log| Ok(log.append(&[], Some(&hard_state))?))
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
