//! The storage engine's boundary: ordered rows in a few families, written in atomic batches.
//!
//! ```text
//! machine ─▶ Batch ─▶ Engine::write ─▶ memory (tests, simulator) | RocksDB (crate engine-rocks)
//! readers ─▶ Engine::get / multi_get / scan, from any thread
//! ```
//!
//! Invariants:
//! * A batch is applied whole or not at all, and later batches never survive a crash that loses an earlier one.
//! * A write is visible to readers when [`Engine::write`] returns; it is durable when a [`Engine::flush`] that began
//!   after it returns. The raft log covers what lies between.
//! * An error is a [`Fault`] of this process. It is never retried: the caller stops the member.
//!
//! What it does not do: no transactions, no reads of the past but [`Engine::moment`], no knowledge of what the rows
//! mean.

mod batch;
mod memory;

pub use batch::{Batch, Op};
pub use memory::MemoryEngine;

use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A family of rows with its own order and tuning. Ids are stable on disk; see docs/format.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Escaped user key → the newest live version of the key.
    Latest,
    /// Revision → what happened at it: the history.
    Revs,
    /// Everything else that is replicated: applied index, members, leases, alarms.
    Meta,
}

impl Family {
    /// Every family, in id order.
    pub const ALL: [Family; 3] = [Family::Latest, Family::Revs, Family::Meta];

    /// The family's name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Latest => "latest",
            Family::Revs => "revs",
            Family::Meta => "meta",
        }
    }
}

/// A failure of this process's storage: nothing to answer a client with, a reason to stop.
#[derive(Debug, thiserror::Error)]
#[error("storage engine: {context}: {source}")]
pub struct Fault {
    /// What was being done.
    pub context: &'static str,
    /// What the engine said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Called with each row of a scan; breaks to end it.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Rows that do not change while they are read.
pub trait Rows {
    /// The row at exactly this key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault>;

    /// Visits rows in ascending key order, from `from` (inclusive) to `to` (exclusive; `None` = the family's end).
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault>;
}

/// All families as they were between two batches.
pub type Moment = dyn Rows + Send + Sync;

/// Ordered, atomic, crash-safe rows. One writer, any number of readers.
pub trait Engine: Send + Sync + 'static {
    /// The row at exactly this key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault>;

    /// The rows at these keys, in their order. The keys should be sorted: engines read them in one pass.
    fn multi_get(&self, family: Family, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, Fault>;

    /// Visits rows in ascending key order, from `from` (inclusive) to `to` (exclusive; `None` = the family's end).
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault>;

    /// All families as they are now, between two batches, while the writer goes on. What is removed or overwritten
    /// meanwhile takes space until it is dropped, so whoever holds it must have an end.
    fn moment(self: Arc<Self>) -> Box<Moment>;

    /// Applies the batch atomically.
    fn write(&self, batch: Batch) -> Result<(), Fault>;

    /// Makes everything written so far durable; blocks until it is.
    fn flush(&self) -> Result<(), Fault>;

    /// Returns space of deleted rows to the file system; blocks the caller, not readers or the writer.
    fn compact(&self) -> Result<(), Fault>;
}
