//! # bbolt's database files
//!
//! Reads and writes the file format of bbolt, the B+tree in which etcd keeps its data. A snapshot of etcd's is such a
//! file, and so is `member/snap/db`.
//!
//! ```text
//! page 0   1      2         3      4      5        6 …
//! ┌──────┬──────┬──────────┬──────┬──────┬────────┬──────┐      Measuring ─ lengths ─▶ Measured: pages, bytes
//! │ meta │ meta │ freelist │ leaf │ leaf │ branch │ root │                                  │
//! └──┬───┴──────┴──────────┴──▲───┴──▲───┴─┬────▲─┴─┬────┘      Writer ◀─ the same entries ─┘
//!    │                        └──────┴─────┘    └───┤              └─▶ pages in order, to any io::Write
//!    └──────────────────────────────────────────────┘
//! Reader::open ─ the meta with the higher transaction ─▶ Bucket ─▶ Cursor (a page of each level) ─▶ entries
//!            └─▶ Reader::walk: everything once, and every page is used once, free once, or refused
//! ```
//!
//! How to drive it:
//! 1. [`Reader::open`] over anything that implements [`ReadAt`]; [`Reader::walk`] for all of it, or [`Reader::bucket`] and
//!    [`Bucket::cursor`] for a part.
//! 2. [`Measuring`] over the entries, then [`Writer`] over the same entries once more; or [`measure`] and [`write`], which
//!    take iterators. [`Measured::bytes`] tells the length before the first byte is written.
//!
//! Invariants:
//! * Any bytes give entries or an error that names the page; no bytes cause a panic, endless work or memory beyond
//!   [`Limits`].
//! * What the format shows to be wrong is refused: a page that is not what its parent says, elements that overlap or leave
//!   a gap, keys out of order or outside of their parent's range, a page that is used twice (`walk`), a cycle.
//! * The writer holds a page of each level, however many entries there are. Its file has exactly the measured length, or it
//!   returns an error.
//! * bbolt and etcd open the writer's files, check them without a complaint, and go on writing in them.
//!
//! bbolt has no checksum over its data pages, only over the two metas. So a changed bit in a value, or in a key whose order
//! it does not change, is not seen here; nor is a changed length of a page's last value, if it still ends in that page.
//! Whoever needs more must sum the file, as the last 32 bytes of a client's snapshot do.
//!
//! A file in which the newer meta is damaged gives what the older one refers to, as in bbolt: this is how it survives a
//! crash. [`Reader::damaged_meta`] tells.
//!
//! Not here: changes to existing files, locks, nested buckets in what is written, and the meaning of buckets and keys.

mod cursor;
mod error;
mod format;
mod input;
mod limits;
mod page;
mod reader;
mod source;
mod tree;
mod walk;
mod writer;

pub use cursor::{Cursor, Entry, Value};
pub use error::{ReadError, WriteError};
pub use format::{KEY_BYTES_MAX, PAGE_BYTES_MAX, PAGE_BYTES_MIN, VALUE_BYTES_MAX};
pub use input::ReadAt;
pub use limits::Limits;
pub use reader::{Bucket, Reader};
pub use walk::{Item, Summary, Visit};
pub use writer::{Measured, Measuring, Options, Writer, measure, write};
