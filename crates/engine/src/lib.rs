//! The storage engine's interface: ordered rows in column families, written in atomic batches.
//!
//! ```text
//! machine ─▶ Batch ─▶ Engine::write ─▶ memory (tests, simulator) or RocksDB (crate engine-rocks)
//! readers ─▶ Engine::get / scan, from any thread
//! ```
//!
//! Invariants:
//! * A batch is applied whole or not at all, and no batch survives a crash that lost an earlier one.
//! * [`Engine::write`] makes a batch visible, a later [`Engine::flush`] durable; the raft log covers the time between.
//! * An error is a [`Fault`] of this process: never retried, the caller stops the member.
//!
//! Not here: transactions, reads of the past other than [`Engine::snapshot`], the meaning of rows.

mod batch;
mod memory;

pub use batch::{Batch, Op};
pub use memory::MemoryEngine;

use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A column family: rows with an order and tuning of their own. Names are part of the format (docs/format.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Escaped user key → the newest live version of the key.
    Latest,
    /// Revision → the change at it: the history.
    Revs,
    /// Everything else that is replicated: applied index, members, leases, alarms.
    Meta,
}

impl Family {
    /// Every family, in order of ID.
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

/// A failure of this process's storage. Not an answer for a client: the member stops.
#[derive(Debug, thiserror::Error)]
#[error("storage engine: {context}: {source}")]
pub struct Fault {
    /// The action that failed.
    pub context: &'static str,
    /// The engine's own error.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Called with each row of a scan; `Break` ends it.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Rows that stay the same while they are read.
pub trait Rows {
    /// The row with exactly this key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault>;

    /// Visits rows in ascending key order from `from` (inclusive) to `to` (exclusive; `None` = to the end).
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault>;
}

/// All families as they were between two batches.
pub type Snapshot = dyn Rows + Send + Sync;

/// Ordered, atomic, crash-safe rows: one writer, any number of readers.
pub trait Engine: Send + Sync + 'static {
    /// The row with exactly this key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault>;

    /// Visits rows in ascending key order from `from` (inclusive) to `to` (exclusive; `None` = to the end).
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault>;

    /// All families as they are now; the writer goes on. Rows removed or overwritten later keep their space until the
    /// snapshot is dropped, so hold it for a bounded time.
    fn snapshot(self: Arc<Self>) -> Box<Snapshot>;

    /// Applies the batch atomically.
    fn write(&self, batch: Batch) -> Result<(), Fault>;

    /// Makes all earlier writes durable; blocks until they are.
    fn flush(&self) -> Result<(), Fault>;

    /// Returns the space of deleted rows to the file system. Blocks the caller, but neither readers nor the writer.
    fn compact(&self) -> Result<(), Fault>;
}
