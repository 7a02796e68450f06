//! # Snapshots: the replicated state as one file
//!
//! What `Maintenance.Snapshot` streams and `snapshot restore` reads: all rows of the engine as they are between two
//! batches: history, leases, members, alarms, versions, and the applied index.
//!
//! ```text
//! Engine::snapshot ─ Rows ─▶ Writing::step ─ bytes ─▶ Pieces ─ 32 KiB each, then SHA-256 ─▶ a client's file
//!                                  │ Native here,
//!                                  └ bbolt to come
//! a file ─▶ verify (length, SHA-256) ─▶ Reader (sums of every block) ─ rows ─▶ load ─▶ an empty engine
//! ```
//!
//! Invariants:
//! * A file is a whole number of 512-byte sectors, then 32 bytes of SHA-256 over them, as `etcdctl snapshot save` asks.
//! * The same rows give the same bytes, in whatever steps; so a [`Counter`] knows a snapshot's length beforehand.
//! * Neither side holds more than a step, a block ([`BLOCK_BYTES`], or one longer row) and a piece.
//! * Nothing is read from a file before its SHA-256 was verified, nor from a block before its own sum was. A damaged
//!   file is refused with the offset of the damage.
//!
//! Not here: the meaning of rows (`machine`), clients, and bbolt yet: a snapshot of etcd's is refused by name.

mod export;
mod file;
mod format;
mod native;
mod offline;
mod pieces;
mod reader;

pub use bbolt::Measured;
pub use export::{Export, ExportError, Exported, Measure};
pub use file::{FileError, HASH_BYTES, Verified, verify};
pub use format::{Counter, Format, Pieces, SECTOR_BYTES, Sink, Writing};
pub use native::{BLOCK_BYTES, Native};
pub use offline::{Offline, Progress, Restore, Status};
pub use pieces::PIECE_BYTES;
pub use reader::{LoadError, ReadError, Reader, Visit, load};

#[cfg(test)]
mod tests;
