//! What can go wrong with the log. None of it is retried: the caller stops the member with the message.

use std::io;
use types::Index;

/// A failure of the log.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk refused. After a failed write or sync the log answers [`WalError::Failed`] to everything.
    #[error("wal: cannot {action} {file}: {source}")]
    Io {
        /// What was being done: "read", "write", "sync", …
        action: &'static str,
        /// The file, or "the directory".
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The log is damaged in a way that a crash does not explain. Nothing was changed on disk.
    #[error("wal: {file} is corrupt at offset {offset}: {what}")]
    Corrupt {
        /// The segment.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// Another process has the log open.
    #[error("wal: {file} is in use by another process")]
    InUse {
        /// The locked file.
        file: String,
    },
    /// There is no log in the directory.
    #[error("wal: no log in the directory")]
    NotFound,
    /// There is a log in the directory, and a new one was to be made.
    #[error("wal: there is a log in the directory already")]
    Exists,
    /// Entries do not follow what the log holds, or are asked for where it holds none.
    #[error("wal: entries [{low}, {high}) asked of a log that holds [{first}, {end})")]
    OutOfRange {
        /// First index.
        low: Index,
        /// End index, not included.
        high: Index,
        /// The first index of the log.
        first: Index,
        /// The index after its last.
        end: Index,
    },
    /// An entry or snapshot record that the format cannot hold or etcd would not accept.
    #[error("wal: cannot write the record: {what}")]
    Unwritable {
        /// Why.
        what: &'static str,
    },
    /// An earlier write or sync failed: what is on disk is not known any more.
    #[error("wal: stopped after an earlier write or sync failed")]
    Failed,
}

impl WalError {
    pub(crate) fn io(action: &'static str, file: &str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::WouldBlock {
            return Self::InUse { file: file.to_owned() };
        }
        Self::Io { action, file: file.to_owned(), source }
    }

    pub(crate) fn corrupt(file: &str, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_owned(), offset, what: what.into() }
    }
}
