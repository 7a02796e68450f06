//! Work on a snapshot file or a data directory without a server: the command line asks for it, and the server's composer does it.

use std::path::{Path, PathBuf};

/// What a snapshot holds, as `snapshot status` shows it. The fields are etcdutl's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// CRC-32C over the name of each bucket, and the keys and values in it.
    pub hash: u32,
    /// The newest revision that has a row.
    pub revision: i64,
    /// The number of live keys.
    pub total_keys: u64,
    /// The snapshot's length without its checksum, in bytes.
    pub total_bytes: u64,
    /// The storage version, as `3.7.0`; empty while the members had agreed on none, and before etcd 3.6.
    pub version: String,
}

/// The options of `snapshot restore`. Names and defaults are etcdutl's flags'.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The path of the snapshot file.
    pub file: PathBuf,
    /// `--name`: the new member's name.
    pub name: String,
    /// `--data-dir`; `None` = `<name>.etcd`. Must not hold anything.
    pub data_dir: Option<PathBuf>,
    /// `--wal-dir`; `None` = inside the data directory. Must not exist.
    pub wal_dir: Option<PathBuf>,
    /// `--initial-cluster`: the members, as `name=url,name=url`.
    pub initial_cluster: String,
    /// `--initial-cluster-token`: sets the cluster's ID apart.
    pub initial_cluster_token: String,
    /// `--initial-advertise-peer-urls`: this member's own.
    pub initial_advertise_peer_urls: String,
    /// `--skip-hash-check`: takes a file without its checksum, or with a wrong one. Pages are checked all the same.
    pub skip_hash_check: bool,
    /// `--bump-revision`: how far to raise the newest revision, with everything before it compacted; 0 = not at all.
    pub bump_revision: u64,
}

/// The data directory of a member that does not run.
#[derive(Clone, Debug)]
pub struct Directory {
    /// `--data-dir`: the directory that has `member` in it.
    pub data_dir: PathBuf,
    /// `--wal-dir`; `None` = inside the data directory.
    pub wal_dir: Option<PathBuf>,
}

impl Directory {
    /// Where the log is.
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join("member").join("wal"))
    }
}

/// Called with the bytes done, and the total.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// The commands. Errors are lines for people, etcdutl's where it has them.
pub trait Offline {
    /// Reads a whole snapshot and reports its contents.
    fn status(&self, file: &Path, progress: &mut Progress<'_>) -> Result<Status, String>;

    /// Makes a new member's data directory from a snapshot; incomplete after an error, and no server starts on it.
    fn restore(&self, restore: &Restore, progress: &mut Progress<'_>) -> Result<(), String>;

    /// Names everything that keeps a server from going on from an etcd member's directory. Changes nothing.
    fn obstacles(&self, wanted: &Directory, progress: &mut Progress<'_>) -> Result<Vec<String>, String>;

    /// Makes `to`, a data directory on which etcd goes on as the same member; incomplete after an error.
    fn give_back(&self, from: &Directory, to: &Path, progress: &mut Progress<'_>) -> Result<(), String>;
}
