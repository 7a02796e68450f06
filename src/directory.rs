//! A data directory as it is found: what belongs to nobody we know is refused by name, before anything in it is
//! changed.
//!
//! | there | missing | what it is | then |
//! | --- | --- | --- | --- |
//! | nothing, or empty directories | | a first start, or one that a crash cut short | goes on |
//! | the log, from its first entry on | rows | a first start that a crash cut short | goes on: the log holds it all |
//! | etcd's `snap/` | rows | an etcd member's directory | taken over: see [`takeover`] |
//! | the log, from a snapshot on | both | rows that were lost | refused |
//! | rows | the log | a log that was lost, or another `--wal-dir` | refused |
//! | rows | | of another log than the one beside them | refused, once both are read |

use crate::snapshots::is_any;
use crate::takeover;
use anyhow::{Context as _, bail, ensure};
use machine::Membership;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use types::{Index, Term};
use wal::{Disk, FsDisk, Wal, WalError};

/// What etcd keeps its directories at (its `PrivateDirMode`).
const PRIVATE: u32 = 0o700;

/// Whose a data directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nobody's yet, or that of a member of ours.
    Ours,
    /// That of an etcd member, which no member of ours has taken over yet.
    Etcds,
}

/// Refuses what would be started empty although there is something. Changes nothing.
pub(crate) fn examine(member_dir: &Path, wal_dir: &Path) -> anyhow::Result<Found> {
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
        return Ok(Found::Ours);
    }
    if takeover::is_etcds(member_dir) {
        return Ok(Found::Etcds);
    }
    let Some(disk) = disk else { return Ok(Found::Ours) };
    let found = match Wal::inspect(&disk) {
        Ok(found) => found,
        // By a member in its first start: the lock on the directory says so in better words.
        Err(WalError::InUse { .. }) => return Ok(Found::Ours),
        Err(error) => return Err(error).with_context(|| cannot_open(wal_dir)),
    };
    let first = found.index.first();
    // Also where all entries are there: `etcdutl snapshot restore` writes some, and what they do not hold beside them.
    let snapshot = found.replayed.snapshot.map(|snapshot| snapshot.index());
    if let Some(index) = snapshot.or((first > 1).then_some(first - 1)) {
        bail!(
            "the log in {} goes on from a state at index {index} that is not in {}: the rows, or etcd's database, were \
             lost; nothing was changed",
            wal_dir.display(),
            member_dir.display()
        );
    }
    Ok(Found::Ours)
}

fn cannot_open(wal_dir: &Path) -> String {
    format!("cannot open the log in {}", wal_dir.display())
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
