//! # Snapshots: the replicated state as one file
//!
//! What `Maintenance.Snapshot` streams and `snapshot restore` reads: a database of etcd's, with the rows of the engine as
//! they are between two batches: history, leases, members, alarms, versions, and the applied index.
//!
//! ```text
//! Engine::snapshot ─ Rows ─▶ Measure, then Export, in steps ─▶ pieces of 32 KiB, then SHA-256 ─▶ a client's file
//!                       machine::buckets · bbolt::Writer
//! a file, etcd's or ours ─▶ verify (length, SHA-256) ─▶ load ─▶ an empty engine
//!                                          bbolt::Reader · machine::Import
//! ```
//!
//! Invariants:
//! * A file is a whole number of pages, then 32 bytes of SHA-256 over them, as `etcdctl snapshot save` asks. etcd's tools
//!   read it, and etcd starts on it.
//! * The same rows give the same bytes, in whatever steps; the length is known before the first.
//! * Neither side holds more than a step, a page of each level, an entry and a piece; an import also the index of keys.
//! * Every page and entry is checked when it is read. bbolt has no sums: only the SHA-256 finds a changed value.
//!
//! Not here: the meaning of rows and buckets (`machine`, `mvcc`), the file's format (`bbolt`), clients.

mod export;
mod file;
mod import;
mod offline;
mod pieces;

pub use bbolt::Measured;
pub use export::{Export, ExportError, Exported, Measure};
pub use file::{FileError, HASH_BYTES, Verified, verify};
pub use import::{ImportError, load, status};
pub use offline::{Offline, Progress, Restore, Status};
pub use pieces::PIECE_BYTES;
