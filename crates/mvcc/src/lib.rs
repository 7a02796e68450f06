//! The key space: every version of every key since the last compaction, and the newest ones fast.
//!
//! ```text
//!             writer (one)                                       readers (any thread, no lock)
//! Store::begin ─▶ Group ─▶ Txn: put, delete, range               Published::view ─▶ Arc<View>: range, hash_kv, events
//!                   │ commit: one Batch                               │
//!                   ▼                                                 ▼
//!  Engine: Latest  key → newest version      (lists, in sequence)   index: key → newest revision, counts
//!          Revs    revision → version, prev, jump   (history)       (copy-on-write: a View keeps its own root)
//!          Meta    "mvcc/…": counters, deleted keys
//! ```
//!
//! A View pairs an index with the engine, which may be ahead of it. That is no harm: a row of Latest is used where its
//! mod revision is the one the View's index names, and else the version is read from Revs, whose rows never change. An
//! older version of a key is found by following `prev` and `jump` from the newest one: O(log versions) exact gets. A put
//! reads nothing: what it needs of the version before is in the index.
//!
//! Invariants ([`Store::check`] walks the store and names every one that is broken):
//! * The main revision grows by one with every transaction that writes, and never falls, also over a restart.
//! * Latest holds exactly the live keys; Meta's dead rows the deleted ones whose tombstone compaction has not passed.
//! * Revs holds, of every key, all versions after `finished`, the newest at or before it unless that is a tombstone
//!   older than it, and nothing else.
//! * No physical compaction removes what a View may still read: it waits until the Views from before the logical
//!   compaction are dropped ([`Store::expire_views`] ends the wait).
//! * All rows are a function of the calls that wrote them: not of when compaction ran, nor of the size of its steps.
//!
//! What it does not do: no wire requests, no leases beyond remembering a number, no compares, no watching (it gives
//! history, [`View::events`], and what is new, [`Tap`]), no clock. Nothing is refused but by revision.
//!
//! Departures from docs/design: a Latest row ends with the key's index record, so that opening reads keys and not
//! revisions; deleted keys have rows of their own for the same reason; `in_use_bytes` equals `total_bytes`, because what a
//! pending compaction will leave is not known before it has walked.

mod check;
mod compaction;
mod effort;
mod group;
mod hash;
mod hashing;
mod index;
mod keyvalue;
mod open;
mod options;
mod outline;
mod query;
mod read;
mod record;
mod restore;
mod row;
mod store;
mod tally;
mod tap;
mod top;
mod varint;
mod view;

pub use effort::{Cost, Effort, GET_ROWS, GivenUp};
pub use group::{CompactError, Group, KeyMeta, Txn};
pub use hash::HashKv;
pub use keyvalue::KeyValue;
pub use options::{Options, Shape};
pub use outline::{Outline, Rows};
pub use query::{Answer, Order, Query, ReadError, SortBy};
pub use restore::{BumpError, Extent, bump};
pub use row::META_PREFIX;
pub use store::{Published, Store};
pub use tally::Tally;
pub use tap::{Taken, Tap, Written};
pub use view::{Bounded, Event, EventKind, Sizes, Usage, View};
