//! # Snapshots: the replicated state as one file
//!
//! What `Maintenance.Snapshot` streams, `snapshot restore` reads, and a leader sends to a member that lags: a database of
//! etcd's, with the rows of the engine as they are between two batches: history, leases, members, alarms, versions, and
//! the applied index.
//!
//! ```text
//! Engine::snapshot ─ Rows ─▶ Measure, then Export, in steps ─▶ pieces of 32 KiB ─┬─▶ a peer, with machine::Point
//!                       machine::buckets · bbolt::Writer                         └─▶ and SHA-256: a client's file
//! a file, etcd's or ours ─▶ verify (length, SHA-256) ─▶ load ─▶ an empty engine: a new cluster's
//! a leader's database, and what its message says of it ─▶ load_member ─▶ an empty engine: this member's
//!                                          bbolt::Reader · machine::Import
//! ```
//!
//! Invariants:
//! * A file is a whole number of pages, then 32 bytes of SHA-256 over them, as `etcdctl snapshot save` asks. etcd's tools
//!   read it, and etcd starts on it. A peer's has no SHA-256, as in etcd.
//! * What [`load_member`] wrote equals the rows of a member that applied the same log, except for pointers to versions that
//!   were compacted. It refuses a database that is not of the announced index and term, or does not know this member,
//!   before it writes anything; after any error there is no applied index.
//! * The same rows give the same bytes, in whatever steps; the length is known before the first.
//! * Neither side holds more than a step, a page of each level, an entry and a piece; an import also the index of keys.
//! * Every page and entry is checked when it is read. bbolt has no sums: only the SHA-256 finds a changed value, and on a
//!   peer's way what carries it.
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
pub use import::{ImportError, check_member, load, load_member, point, status};
pub use offline::{Directory, Offline, Progress, Restore, Status};
pub use pieces::PIECE_BYTES;
