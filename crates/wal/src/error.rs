//! Errors of the log. None is retried: the caller stops the member with the message.

use std::io;
use types::Index;

/// A failure of the log.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk failed. After a failed write or sync, every call returns [`WalError::Failed`].
    #[error("wal: cannot {action} {file}: {source}")]
    Io {
        /// The action: "read", "write", "sync", …
        action: &'static str,
        /// The file, or "the directory".
        file: String,
        /// The operating system's own error.
        #[source]
        source: io::Error,
    },
    /// The log is damaged in a way that a crash cannot explain. Nothing was changed on disk.
    #[error("wal: {file} is corrupt at offset {offset}: {what}")]
    Corrupt {
        /// The name of the segment.
        file: String,
        /// The offset of the damage, bytes.
        offset: u64,
        /// A description of the damage.
        what: String,
    },
    /// Another process has the log open.
    #[error("wal: {file} is in use by another process")]
    InUse {
        /// The name of the locked file.
        file: String,
    },
    /// The directory holds no log.
    #[error("wal: no log in the directory")]
    NotFound,
    /// The directory already holds a log, so none can be created.
    #[error("wal: there is a log in the directory already")]
    Exists,
    /// Entries do not follow the log, or lie outside of it.
    #[error("wal: entries [{low}, {high}) asked of a log that holds [{first}, {end})")]
    OutOfRange {
        /// The first index asked for.
        low: Index,
        /// The end of the range asked for, exclusive.
        high: Index,
        /// The first index of the log.
        first: Index,
        /// The index after the log's last entry.
        end: Index,
    },
    /// An entry or snapshot record that the format cannot hold or etcd would refuse.
    #[error("wal: cannot write the record: {what}")]
    Unwritable {
        /// What makes it unwritable.
        what: &'static str,
    },
    /// An earlier write or sync failed: the state on disk is unknown.
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
