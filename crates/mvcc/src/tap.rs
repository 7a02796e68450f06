//! What groups write, for whoever follows the history as it grows.
//!
//! Closed, it costs a lock a group and keeps nothing. Open, it keeps the rows that each group wrote until they are taken.
//! What is too much to be kept is dropped, and who takes the rest is told up to where, to read it in the history.

use crate::query::ReadError;
use crate::view::{self, Event};
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use types::Revision;

/// The tap of a store; clones are of the same one.
#[derive(Clone, Debug)]
pub struct Tap {
    kept: Arc<Mutex<Kept>>,
    /// [`crate::Options::tap_bytes`].
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Kept {
    is_open: bool,
    taken: Taken,
    bytes: usize,
}

/// What was written since the tap was last asked.
#[derive(Debug, Default)]
pub struct Taken {
    /// Up to this main revision, there was too much to be kept. All that is kept is later.
    pub dropped: Option<i64>,
    /// What was kept, in order, without gaps.
    pub written: Vec<Written>,
}

/// The rows of one group, ascending.
#[derive(Debug)]
pub struct Written {
    rows: Vec<(Revision, Bytes)>,
}

impl Tap {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { kept: Arc::default(), bytes_max }
    }

    /// Keeps what is written from now on. Whoever then takes the newest View misses nothing: what is not in it is kept.
    pub fn open(&self) {
        self.lock().is_open = true;
    }

    /// Keeps nothing any more.
    pub fn close(&self) {
        *self.lock() = Kept::default();
    }

    /// What was written since the last call. The newest View is at least as new.
    pub fn take(&self) -> Taken {
        let mut kept = self.lock();
        kept.bytes = 0;
        std::mem::take(&mut kept.taken)
    }

    /// A group was published.
    pub(crate) fn push(&self, rows: Vec<(Revision, Bytes)>) {
        let Some(&(last, _)) = rows.last() else { return };
        let mut kept = self.lock();
        if !kept.is_open {
            return;
        }
        kept.bytes += rows.iter().map(|(_, row)| row.len()).sum::<usize>();
        kept.taken.written.push(Written { rows });
        if kept.bytes > self.bytes_max {
            kept.bytes = 0;
            kept.taken = Taken { dropped: Some(last.main), written: Vec::new() };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Every critical section here leaves whole values behind.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    /// The first main revision.
    pub fn first(&self) -> i64 {
        self.rows.first().map_or(0, |(at, _)| at.main)
    }

    /// The last main revision.
    pub fn last(&self) -> i64 {
        self.rows.last().map_or(0, |(at, _)| at.main)
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none: never, of what is taken from a tap.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What happened, in order. Keys and values share the rows' bytes.
    pub fn events(&self) -> impl Iterator<Item = Result<Event, ReadError>> {
        self.rows.iter().map(|(at, row)| view::event(*at, row))
    }
}
