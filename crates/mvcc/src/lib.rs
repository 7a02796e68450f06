//! The key space: every version of every key since the last compaction, and the newest ones fast.
//!
//! ```text
//!             writer (one)                                       readers (any thread, no lock)
//! Store::begin ─▶ Group ─▶ Txn: put, delete, range               ViewHandle::view ─▶ Arc<View>: range, events, …
//!                   │ commit: one Batch                               │
//!                   ▼                                                 ▼
//!  Engine: Latest  key → newest version      (lists, in sequence)   index: key → newest revision, counts
//!          Revs    revision → version, prev, jump   (history)       (copy-on-write: a View keeps its own root)
//!          Meta    "mvcc/…": counters, deleted keys
//! ```
//!
//! A view pairs an index with the engine, which may be ahead of it: a row of Latest is used if its mod revision is the
//! one in the view's index; otherwise the version is read from Revs, whose rows never change. Older versions are found
//! by following `prev` and `jump` from the newest: O(log versions) exact gets. A put reads nothing but the index.
//!
//! Invariants, all verified by [`Store::check`]:
//! * The main revision grows by one with every transaction that writes, and never falls, even across restarts.
//! * Latest holds exactly the live keys; Meta's dead rows are the deleted keys whose tombstone compaction has not
//!   passed.
//! * Of every key, Revs holds all versions after `finished`, the newest at or before it unless that is an older
//!   tombstone, and nothing else.
//! * Physical compaction removes nothing that a view may read: it waits until the views from before the logical
//!   compaction are dropped ([`Store::expire_views`] ends the wait).
//! * All rows are a function of the calls that wrote them, whenever compaction ran and in whatever steps. Those of an
//!   import differ in pointers to, and among, versions before the compacted revision, where nobody looks.
//!
//! [`Store::replace`] puts a store over another engine in this one's place, under the readers:
//! * Handle and feed stay: the new view is shown first, then the feed tells of a gap, whose events are history.
//! * A view is of one engine for ever. Views of the former one keep it, and delay no compaction of the new one.
//!
//! Not here: requests of the wire, leases beyond a number, compares, watching (it provides [`View::events`] and the
//! [`ChangeFeed`]), clocks. Only revisions are refused.
//!
//! Opening reads keys and not revisions. `in_use_bytes` equals `total_bytes`: what a pending compaction will leave is
//! not known until it has walked.

mod backend;
mod check;
mod compaction;
mod compactions;
mod effort;
mod epoch;
mod feed;
mod group;
mod hash;
mod hashing;
mod import;
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
mod scan;
mod slice;
mod store;
mod tally;
mod top;
mod view;
mod walk;

pub use backend::{BackendRow, Compacted, backend_row};
pub use effort::{Cost, Effort, GET_ROWS, GivenUp};
pub use feed::{ChangeFeed, Changes, GroupChanges};
pub use group::{CompactError, Group, Txn};
pub use import::{Import, ImportError};
pub use keyvalue::KeyValue;
pub use options::{Options, Shape};
pub use outline::{Outline, Rows};
pub use query::{Answer, HashKv, Order, Query, ReadError, SortBy};
pub use record::KeyMeta;
pub use restore::{BumpError, bump};
pub use row::META_PREFIX;
pub use slice::SliceHash;
pub use store::{Store, ViewHandle};
pub use tally::Tally;
pub use view::{Bounded, Event, EventKind, Sizes, Usage, View};
