//! The feed of newest changes for watchers. Closed, it holds nothing. Open, it holds the rows that each group wrote
//! until they are taken; beyond its limit, or when the store is replaced, it drops them, and tells up to which revision
//! to read the history instead.

use crate::query::ReadError;
use crate::view::{self, Event};
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard};
use types::Revision;

/// The change feed of a store; clones share it.
#[derive(Clone, Debug)]
pub struct ChangeFeed {
    state: Arc<Mutex<FeedState>>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct FeedState {
    is_open: bool,
    changes: Changes,
    bytes: usize,
}

/// The changes since the last call of [`ChangeFeed::take`].
#[derive(Debug, Default)]
pub struct Changes {
    /// Changes up to this main revision are missing: too many, or skipped by [`crate::Store::replace`]. Those in
    /// `groups` are later.
    pub dropped: Option<i64>,
    /// The groups since, in order and without gaps.
    pub groups: Vec<GroupChanges>,
}

/// The rows that one group wrote, ascending; never empty.
#[derive(Debug)]
pub struct GroupChanges {
    rows: Vec<(Revision, Bytes)>,
}

impl ChangeFeed {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { state: Arc::default(), bytes_max }
    }

    /// Starts holding changes. Take the newest view afterwards to miss nothing: what it lacks, the feed holds.
    pub fn open(&self) {
        self.lock().is_open = true;
    }

    /// Stops holding changes, and drops those held.
    pub fn close(&self) {
        *self.lock() = FeedState::default();
    }

    /// Takes the changes since the last call. The newest view includes all of them.
    pub fn take(&self) -> Changes {
        let mut state = self.lock();
        state.bytes = 0;
        std::mem::take(&mut state.changes)
    }

    pub(crate) fn push(&self, rows: Vec<(Revision, Bytes)>) {
        let Some(&(last, _)) = rows.last() else { return };
        let mut state = self.lock();
        if !state.is_open {
            return;
        }
        state.bytes += rows.iter().map(|(_, row)| row.len()).sum::<usize>();
        state.changes.groups.push(GroupChanges { rows });
        if state.bytes > self.bytes_max {
            state.drop_up_to(last.main);
        }
    }

    /// Tells that the changes up to a revision were not fed.
    pub(crate) fn skip(&self, to: i64) {
        let mut state = self.lock();
        if state.is_open {
            state.drop_up_to(to);
        }
    }

    fn lock(&self) -> MutexGuard<'_, FeedState> {
        types::lock(&self.state)
    }
}

impl FeedState {
    fn drop_up_to(&mut self, main: i64) {
        self.bytes = 0;
        self.changes = Changes { dropped: Some(main), groups: Vec::new() };
    }
}

impl GroupChanges {
    /// The first main revision.
    pub fn first(&self) -> i64 {
        self.rows.first().map_or(0, |(at, _)| at.main)
    }

    /// The last main revision.
    pub fn last(&self) -> i64 {
        self.rows.last().map_or(0, |(at, _)| at.main)
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no event: never true of a group that was taken.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The events, in order. Keys and values share the rows' bytes.
    pub fn events(&self) -> impl Iterator<Item = Result<Event, ReadError>> {
        self.rows.iter().map(|(at, row)| view::event(*at, row))
    }
}
