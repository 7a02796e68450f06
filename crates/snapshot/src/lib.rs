//! # Snapshots: everything that is replicated, as one file
//!
//! What `Maintenance.Snapshot` streams and `snapshot restore` reads: all rows of the engine as they are between two
//! batches, which hold history, leases, members, alarms, versions, and the applied index that all of it belongs to.
//!
//! ```text
//! Engine::moment ─ Rows ─▶ Writing::step ─ bytes ─▶ Pieces ─ 32 KiB each, then SHA-256 ─▶ a client's file
//!                                  │ Native here,
//!                                  └ bbolt to come
//! a file ─▶ verify (length, SHA-256) ─▶ Reader (sums of every block) ─ rows ─▶ load ─▶ an empty engine
//! ```
//!
//! Invariants:
//! * A file is a whole number of 512-byte sectors, then 32 bytes of SHA-256 over them: what `etcdctl snapshot save` asks
//!   of a file it has received.
//! * The same rows give the same bytes, in steps of whatever length; so a [`Counter`] knows how long a snapshot is before
//!   it is written.
//! * Neither side holds more than a step, a block ([`BLOCK_BYTES`], or one longer row) and a piece.
//! * Nothing is taken from a file before its SHA-256 was seen to be right, nor from a block before its own sum was. A file
//!   that was cut, or in which a bit has changed, is refused with the offset at which that shows.
//!
//! What it does not do: it knows nothing of what rows mean (`machine` does: whose snapshot it is, how a new cluster is made
//! of it), nothing of clients, and no bbolt yet: a file of etcd's is recognised and refused by name.

mod file;
mod format;
mod native;
mod offline;
mod reader;

pub use file::{FileError, HASH_BYTES, Verified, verify};
pub use format::{Counter, Format, PIECE_BYTES, Pieces, SECTOR_BYTES, Sink, Writing};
pub use native::{BLOCK_BYTES, Native};
pub use offline::{Offline, Progress, Restore, Status};
pub use reader::{LoadError, ReadError, Reader, Visit, load};

#[cfg(test)]
mod tests;
