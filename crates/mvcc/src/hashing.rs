//! The hash of a compaction, which etcd takes on the way of deleting and keeps
//! (`server/storage/mvcc/kvstore_compaction.go`, `hash.go`): over the history up to the compaction at R as the one
//! before, at P, has left it.
//!
//! Rows in (P, R] all count. A row at or before P counts when no row in (P, R] supersedes it; tombstones there never do.
//! (etcd leaves out nothing when compaction at R keeps no row, but it always keeps the last one of R: a live key's newest
//! or a tombstone exactly at R. Only at R < 2 is there none, nor anything to leave out.)
//!
//! Two walks in steps: over (P, R], which tells what it supersedes, then over what is before. A checksum of two parts is
//! put together from those of the parts, so that their order does not matter.

use crate::compaction::walk;
use crate::hash::{self, HashKv};
use crate::row::Tail;
use engine::{Engine, Fault};
use std::collections::BTreeSet;
use types::Revision;

/// A hash being taken. Nothing is removed meanwhile, and what is written is after R, so it may take its time.
pub(crate) struct Hashing {
    previous: i64,
    revision: i64,
    cursor: Revision,
    /// Whether the first walk, over (P, R], is done.
    changes_done: bool,
    /// The checksum of (P, R], and of how many bytes.
    changes: (u32, usize),
    /// The rows at or before P that (P, R] supersedes and the second walk has yet to come by: as many as keys changed.
    superseded: BTreeSet<Revision>,
    /// The checksum of what counts at or before P.
    before: u32,
}

impl Hashing {
    /// Of the compaction at `revision`, the one at `previous` being finished; −1 = it is the first.
    pub(crate) fn new(previous: i64, revision: i64) -> Self {
        Self {
            previous,
            revision,
            cursor: Revision::new(previous + 1, 0),
            changes_done: false,
            changes: (0, 0),
            superseded: BTreeSet::new(),
            before: crc32c::crc32c(hash::BUCKET),
        }
    }

    /// Goes on for as many rows as the budget holds; the hash once it is taken.
    pub(crate) fn step(&mut self, engine: &dyn Engine, budget: &mut usize) -> Result<Option<HashKv>, Fault> {
        let mut cursor = self.cursor;
        if !self.changes_done {
            let last = self.revision;
            let mut change = |at, kv: &[u8], tail: &Tail| {
                self.change(at, kv, tail);
                Ok(())
            };
            let done = walk(engine, &mut cursor, last, budget, &mut change)?;
            self.cursor = cursor;
            if !done {
                return Ok(None);
            }
            (self.changes_done, cursor) = (true, Revision::new(0, 0));
        }
        let last = self.previous;
        let mut row_before = |at, kv: &[u8], tail: &Tail| {
            self.row_before(at, kv, tail);
            Ok(())
        };
        let done = walk(engine, &mut cursor, last, budget, &mut row_before)?;
        self.cursor = cursor;
        Ok(done.then(|| self.hash()))
    }

    fn change(&mut self, at: Revision, kv: &[u8], tail: &Tail) {
        let (sum, length) = self.changes;
        self.changes = (hash::append(sum, at, tail, kv), length + hash::row_len(tail, kv));
        let previous = tail.previous.filter(|_| !tail.create).map(|previous| previous.revision);
        self.superseded.extend(previous.filter(|previous| previous.main <= self.previous));
    }

    fn row_before(&mut self, at: Revision, kv: &[u8], tail: &Tail) {
        if tail.tombstone {
            return;
        }
        while self.superseded.first().is_some_and(|first| *first < at) {
            self.superseded.pop_first();
        }
        if self.superseded.first() == Some(&at) {
            self.superseded.pop_first();
        } else {
            self.before = hash::append(self.before, at, tail, kv);
        }
    }

    fn hash(&self) -> HashKv {
        let (changes, length) = self.changes;
        HashKv {
            hash: crc32c::crc32c_combine(self.before, changes, length),
            compact_revision: self.previous,
            hash_revision: self.revision,
        }
    }
}
