//! # The write-ahead log
//!
//! A member's raft log on disk, in etcd's format: etcd's own readers read it, and it reads etcd's. It is the only
//! thing that is synced on the way of a write, and the storage that raft reads entries back from.
//!
//! ```text
//! append ─▶ encode the batch ─▶ one write ─┐         segment 0          segment 1 (written to)
//! sync ──────────────────────▶ fdatasync ──┤   ┌────────────────┐   ┌─────────────────────────┐
//!                                          └─▶ │crc meta e e s e│──▶│crc meta s e e s 0000000 │
//! entries ◀─ check crc ◀─ read ◀─ index ─────  └────────────────┘   └─────────────────────────┘
//!            (index: term, segment, offset of every live entry, in memory)   superblock: durable so far
//! ```
//!
//! The order of calls, for whoever drives it:
//!
//! 1. [`Wal::create`] once, or [`Wal::open`]; what was read is durable when it returns.
//! 2. For each batch [`Wal::append`], then [`Wal::sync`], and only then tell anybody of what it holds.
//! 3. A snapshot is durable before [`Wal::save_snapshot`] names it, and the hard state that commits it comes after.
//! 4. [`Wal::release`] what the state on disk already covers.
//! 5. After any error but [`WalError::OutOfRange`] and [`WalError::Unwritable`] the log is dead: stop the process.
//!
//! Invariants:
//!
//! * What [`Wal::sync`] made durable is there after a crash, or the log is refused with an error that names file and
//!   offset. Of what was not synced, a prefix is there.
//! * A log that is refused is not changed.
//! * No entry is handed out whose checksum does not match.
//! * Every byte in `*.wal` is what etcd 3.7.3 would have written for the same calls, except that a batch is one write.
//!
//! What is on disk, byte by byte: docs/wal-format.md.
//!
//! What it does not do: no thread, no clock; it does not retry; it caches no entries; it does not know what entries
//! mean, nor whether they are committed.

mod disk;
mod error;
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
pub use options::{Options, SEGMENT_BYTES};
pub use wal::{Repair, Replayed, Wal};
