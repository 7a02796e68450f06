//! # The write-ahead log
//!
//! A member's raft log on disk in etcd's format: each reads what the other wrote. It is the only thing synced on the
//! path of a write, and the storage from which raft reads entries. Byte by byte: docs/wal-format.md.
//!
//! ```text
//! append ─▶ encode the batch ─▶ one write ─┐         segment 0          segment 1 (written to)
//! sync ──────────────────────▶ fdatasync ──┤   ┌────────────────┐   ┌─────────────────────────┐
//!                                          └─▶ │crc meta e e s e│──▶│crc meta s e e s 0000000 │
//! entries ◀─ check crc ◀─ read ◀─ index ─────  └────────────────┘   └─────────────────────────┘
//!            (index: term, segment, offset of every live entry, in memory)   superblock: durable so far
//! ```
//!
//! How to drive it:
//! 1. [`Wal::create`] once, or [`Wal::open`]; everything read is durable on return.
//! 2. For each batch [`Wal::append`], then [`Wal::sync`], and only then acknowledge it.
//! 3. Make a snapshot durable, record it with [`Wal::save_snapshot`], then append the hard state that commits it.
//! 4. [`Wal::release`] entries that the state on disk covers.
//! 5. After an error other than [`WalError::OutOfRange`] or [`WalError::Unwritable`] it is unusable: stop the process.
//!
//! Invariants:
//! * After a crash, everything that [`Wal::sync`] covered is there, or the log is refused with an error naming file and
//!   offset. Of unsynced records, a prefix is there.
//! * A refused log is not changed.
//! * Entries are returned only if their checksum matches.
//! * Every byte in `*.wal` is what etcd 3.7.3 would write for the same calls, except that a batch is one write.
//!
//! Not here: threads, clocks, retries, a cache of entries, the meaning of entries or whether they are committed.

mod disk;
mod error;
mod files;
mod frame;
mod index;
mod open;
mod options;
mod replay;
mod segment;
mod superblock;
mod wal;

pub use disk::{Disk, DiskFile, FsDisk, FsFile, MemDisk, MemFile, Trouble, make_dir_all};
pub use error::WalError;
pub use index::LogIndex;
pub use open::Inspected;
pub use options::{Options, SEGMENT_BYTES};
pub use replay::{Repair, Replayed};
pub use wal::Wal;
