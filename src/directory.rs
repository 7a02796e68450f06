//! A data directory as it is found: what belongs to nobody we know is refused by name, before anything in it is
//! changed.
//!
//! | there | missing | what it is | then |
//! | --- | --- | --- | --- |
//! | nothing, or empty directories | | a first start, or one that a crash cut short | goes on |
//! | the log, from its first entry on | rows | a first start that a crash cut short | goes on: the log holds it all |
//! | the log, from a snapshot on | rows | `etcdutl snapshot restore`, or rows that were lost | refused |
//! | etcd's `snap/` | rows | an etcd member's directory | refused |
//! | rows | the log | a log that was lost, or another `--wal-dir` | refused |
//! | rows | | of another log than the one beside them | refused, once both are read |

use crate::snapshots::is_any;
use anyhow::{Context as _, bail, ensure};
use machine::Membership;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use types::{Index, Term};
use wal::{Disk, FsDisk, Wal, WalError};

/// What etcd keeps its directories at (its `PrivateDirMode`).
const PRIVATE: u32 = 0o700;

/// Refuses what this version would start empty on although there is something. Changes nothing.
pub(crate) fn refuse_foreign(member_dir: &Path, wal_dir: &Path) -> anyhow::Result<()> {
    let disk = if wal_dir.is_dir() {
        let disk = FsDisk::open(wal_dir).with_context(|| cannot_open(wal_dir))?;
        Wal::exists(&disk)?.then_some(disk)
    } else {
        None
    };
    ensure!(
        disk.is_some() || !is_any(member_dir),
        "{} holds data but no log: a log was lost, or --wal-dir is not what it was",
        member_dir.display()
    );
    if is_any(member_dir) {
        return Ok(());
    }
    if let Some(found) = etcds_state(&member_dir.join("snap")) {
        bail!(
            "{} is the data of an etcd member, which this version cannot take over; nothing was changed",
            found.display()
        );
    }
    let Some(disk) = disk else { return Ok(()) };
    let (replayed, first) = match Wal::inspect(&disk) {
        Ok(found) => found,
        // By a member in its first start: the lock on the directory says so in better words.
        Err(WalError::InUse { .. }) => return Ok(()),
        Err(error) => return Err(error).with_context(|| cannot_open(wal_dir)),
    };
    // Also where all entries are there: `etcdutl snapshot restore` writes some, and what they do not hold beside them.
    let snapshot = replayed.snapshot.map(|snapshot| snapshot.index());
    if let Some(index) = snapshot.or((first > 1).then_some(first - 1)) {
        bail!(
            "the log in {} goes on from a state at index {index} that is not in {}: the rows were lost, or etcd or \
             etcdutl made this directory, which this version cannot take over; nothing was changed",
            wal_dir.display(),
            member_dir.display()
        );
    }
    Ok(())
}

fn cannot_open(wal_dir: &Path) -> String {
    format!("cannot open the log in {}", wal_dir.display())
}

/// What etcd keeps beside its log, if it is there.
fn etcds_state(snap: &Path) -> Option<PathBuf> {
    let db = snap.join("db");
    if db.exists() {
        return Some(db);
    }
    let is_snapshot = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "snap");
    std::fs::read_dir(snap).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find(is_snapshot)
}

/// Refuses rows that are not of this log: of another cluster, or ones that lack what the log goes on from.
pub(crate) fn check_rows<D: Disk>(
    wal: &Wal<D>,
    member: u64,
    (applied, term): (Index, Term),
    membership: &Membership,
) -> anyhow::Result<()> {
    let before = wal.first_index() - 1;
    ensure!(
        before <= applied,
        "the log goes on from a state at index {before}, but the rows have only come to {applied}"
    );
    if applied == 0 {
        return Ok(());
    }
    if let Some(written) = wal.term(applied).filter(|written| *written != term) {
        bail!(
            "the rows are not of this log: they are of term {term} at index {applied}, the log of term {written}"
        );
    }
    ensure!(
        membership.members.contains_key(&member) || membership.removed.contains(&member),
        "the rows are of another cluster: member {member:x}, whose log this is, was never one of its members"
    );
    Ok(())
}

/// Warns of a directory that others may read or write, in etcd's words (its `CheckDirPermission`).
pub(crate) fn warn_if_open(dir: &Path, log: &slog::Logger) {
    let Ok(found) = dir.metadata() else { return };
    let mode = found.permissions().mode() & 0o777;
    if mode != PRIVATE {
        slog::warn!(log, "check file permission"; "error" => format!(
            "directory {:?} exist, but the permission is {:?}. The recommended permission is {:?} to prevent possible \
             unprivileged access to the data",
            dir.display().to_string(), in_letters(mode), in_letters(PRIVATE)));
    }
}

/// As `ls` shows a directory's mode, and Go.
fn in_letters(mode: u32) -> String {
    let letters = "rwxrwxrwx".chars().zip((0..9).rev());
    std::iter::once('d')
        .chain(letters.map(|(letter, bit)| if mode >> bit & 1 == 1 { letter } else { '-' }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_shown_in_letters() {
        assert_eq!(in_letters(0o700), "drwx------");
        assert_eq!(in_letters(0o757), "drwxr-xrwx");
    }
}
