//! The hash of a compaction, which etcd computes while it deletes and then stores
//! (`server/storage/mvcc/kvstore_compaction.go`, `hash.go`): over the history up to R, as the previous one, at P, left
//! it.
//!
//! All rows in (P, R] count. A row at or before P counts if no row in (P, R] supersedes it; tombstones there never
//! count. (etcd excludes nothing when the compaction keeps no row, but it keeps the last one of R, a live key's newest
//! version or a tombstone exactly at R, unless R < 2, and then there is nothing to exclude.)
//!
//! Two walks in steps: first over (P, R], which shows what is superseded, then over the rows before. The checksums of
//! the two parts are combined, so their order does not matter.

use crate::hash;
use crate::query::HashKv;
use crate::row::Tail;
use crate::walk::walk;
use engine::{Engine, Fault};
use std::collections::BTreeSet;
use types::Revision;

/// A hash in progress. Nothing is removed meanwhile, and new writes are after R, so there is no hurry.
pub(crate) struct Hashing {
    previous: i64,
    revision: i64,
    cursor: Revision,
    changes_done: bool,
    /// The checksum of (P, R] and its length in bytes.
    changes: (u32, usize),
    /// Rows at or before P that (P, R] supersedes and the second walk has not reached: one for each changed key.
    superseded: BTreeSet<Revision>,
    /// The checksum of the rows that count at or before P.
    before: u32,
}

impl Hashing {
    /// The hash of the compaction at `revision`, after the finished one at `previous`; −1 = none before.
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

    /// Continues for as many rows as the budget allows; returns the hash once it is complete.
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
