//! Long answers whose values are read only as they are sent.
//!
//! An outline holds an answer's first rows, and of the others which they are, their order, and their length on the
//! wire. For a list in key order, one walk of the index provides that; other answers remember 16 bytes a row. The rows
//! are then read a piece at a time, from the same view or a newer one: one visible at the outline's revision stays
//! until a compaction passes it.
//! ```text
//! Query ─▶ outline ─▶ first rows, count, more, bytes    (the length prefix)
//!                 └─▶ Rows ─▶ next ─▶ next ─▶ …         (some hundred KiB each)
//! ```

use crate::KeyValue;
use crate::effort::Effort;
use crate::keyvalue::framed_len;
use crate::query::{Answer, Hidden, Query, ReadError};
use crate::read::{Reader, key_only};
use crate::record::{self, Head};
use crate::top::Found;
use crate::view::{Bounded, View};
use bytes::Bytes;
use std::ops::ControlFlow;
use types::Revision;

/// What the answer to a query will hold.
#[derive(Debug)]
pub struct Outline {
    /// The first rows, already read.
    pub first: Vec<KeyValue>,
    /// The rows after those, still to be read.
    pub rows: Rows,
    /// The length of the unread rows as a repeated field with a one-byte tag, bytes.
    pub bytes: u64,
    /// The number of keys in the range, whatever the limit and the filters.
    pub count: i64,
    /// Whether the limit cut off keys.
    pub more: bool,
}

/// The rows of an answer that are still to be read, in its order.
#[derive(Clone, Debug)]
pub struct Rows {
    revision: i64,
    left: Left,
}

#[derive(Clone, Debug)]
enum Left {
    /// The first keys that a query finds, and how many of them.
    Walk(Box<Query>, u64),
    Places {
        places: Vec<Revision>,
        next: usize,
        hidden: Hidden,
    },
}

impl Bounded<'_> {
    /// Outlines the answer to a query: reads the first rows, up to the one that brings them to `first_bytes`.
    pub fn outline(self, query: &Query, first_bytes: usize) -> Result<Outline, ReadError> {
        self.reader().outline(query, first_bytes)
    }
}

impl Outline {
    /// Keeps the first rows up to the one that brings them to `bytes`; the others will be read again.
    pub fn keep(&mut self, bytes: usize) {
        let (mut kept, mut kept_bytes) = (0, 0);
        while kept < self.first.len() && kept_bytes < bytes {
            kept_bytes += self.first[kept].encoded_len();
            kept += 1;
        }
        let forgotten = self.first.split_off(kept);
        if let Some(next) = forgotten.first() {
            self.rows.go_back(forgotten.len(), &next.key);
            self.bytes += forgotten.iter().map(|kv| kv.framed_len() as u64).sum::<u64>();
            self.first.shrink_to_fit();
        }
    }

    /// Drops all rows and their positions, and keeps only the length. Repeat the query to get them.
    pub fn forget(&mut self) {
        self.keep(0);
        self.rows = Rows::none(self.rows.revision);
    }
}

impl Rows {
    /// Starts this many rows earlier, at this key.
    fn go_back(&mut self, rows: usize, key: &Bytes) {
        match &mut self.left {
            Left::Walk(query, keys) => {
                query.range.start = key.clone();
                *keys += rows as u64;
            }
            Left::Places { next, .. } => *next = next.saturating_sub(rows),
        }
    }

    fn none(revision: i64) -> Self {
        Self::at(revision, Vec::new(), Hidden::Nothing)
    }

    fn at(revision: i64, places: Vec<Revision>, hidden: Hidden) -> Self {
        Self { revision, left: Left::Places { places, next: 0, hidden } }
    }

    /// Whether all rows were read.
    pub fn is_empty(&self) -> bool {
        match &self.left {
            Left::Walk(_, keys) => *keys == 0,
            Left::Places { places, next, .. } => *next == places.len(),
        }
    }

    /// Memory that the unread rows take, bytes.
    pub fn heap_len(&self) -> usize {
        match &self.left {
            Left::Walk(query, _) => size_of_val(&**query),
            Left::Places { places, .. } => places.capacity() * size_of::<Revision>(),
        }
    }

    /// Reads the next rows, up to the one that reaches `max_bytes`; empty at the end, [`ReadError::Compacted`] if its
    /// revision is compacted. `view` is the outline's own or a newer one. A read given up keeps the position.
    pub fn next(
        &mut self,
        view: &View,
        effort: &Effort<'_>,
        max_bytes: usize,
    ) -> Result<Vec<KeyValue>, ReadError> {
        let reader = Reader { effort: Some(effort), ..view.reader() };
        self.read(&reader, max_bytes)
    }

    fn read(&mut self, reader: &Reader<'_>, max_bytes: usize) -> Result<Vec<KeyValue>, ReadError> {
        match &mut self.left {
            Left::Walk(_, 0) => Ok(Vec::new()),
            Left::Walk(query, keys) => {
                // The count is already known.
                (query.max_bytes, query.uncounted) = (max_bytes.max(1), true);
                query.limit = i64::try_from(*keys).unwrap_or(i64::MAX);
                let kvs = reader.range(query)?.kvs;
                if let Some(last) = kvs.last() {
                    query.range = query.range.after(&last.key);
                }
                *keys = if kvs.is_empty() { 0 } else { keys.saturating_sub(kvs.len() as u64) };
                Ok(kvs)
            }
            Left::Places { places, next, hidden } => {
                reader.revision_of(self.revision)?;
                let (mut kvs, mut bytes, mut at) = (Vec::new(), 0, *next);
                while at < places.len() && bytes < max_bytes {
                    let mut kv = reader.version(places[at])?.key_value()?;
                    hidden.hide(&mut kv);
                    bytes += kv.encoded_len();
                    kvs.push(kv);
                    at += 1;
                }
                *next = at;
                Ok(kvs)
            }
        }
    }
}

impl Reader<'_> {
    /// Outlines what [`Reader::range`] would answer.
    pub(crate) fn outline(&self, query: &Query, first_bytes: usize) -> Result<Outline, ReadError> {
        let revision = self.revision_of(query.revision)?;
        if query.count_only {
            let count = self.count(&query.range, revision)?;
            return Ok(Outline {
                first: Vec::new(),
                rows: Rows::none(revision),
                bytes: 0,
                count,
                more: false,
            });
        }
        // Fix the revision: a later view has a newer one.
        let query = Query { revision, max_bytes: 0, uncounted: false, ..query.clone() };
        if query.is_plain() {
            self.outline_plain(query, first_bytes)
        } else {
            self.outline_found(&query, first_bytes)
        }
    }

    fn outline_plain(&self, query: Query, first_bytes: usize) -> Result<Outline, ReadError> {
        let revision = query.revision;
        let Answer { kvs: first, count, more } = if first_bytes == 0 {
            let count = self.count(&query.range, revision)?;
            Answer { count, more: count > 0, ..Answer::default() }
        } else {
            self.range(&Query { max_bytes: first_bytes, ..query.clone() })?
        };
        let limit = query.limit().map_or(usize::MAX, |limit| limit - first.len());
        let (rows, bytes, keys) = if !more || limit == 0 {
            (Rows { revision, left: Left::Walk(Box::new(query), 0) }, 0, 0)
        } else if revision == self.current {
            let range = first.last().map_or(query.range.clone(), |last| query.range.after(&last.key));
            self.walk(Query { range, ..query }, limit)?
        } else {
            self.walk_at_revision(&query, first.len(), limit)?
        };
        let more = count > (first.len() + keys) as i64;
        Ok(Outline { first, rows, bytes, count, more })
    }

    /// The rows of a plain list at the current revision: the index knows everything.
    fn walk(&self, query: Query, limit: usize) -> Result<(Rows, u64, usize), ReadError> {
        let (mut keys, mut bytes, of_index) = (0, 0, query.is_of_index());
        self.visit(&query.range, &[], |key, record| {
            if record::is_live(record) {
                let head = Head::of(record);
                let key = || Bytes::copy_from_slice(key);
                let only = || key_only(key(), head.create, head.newest, head.version).encoded_len();
                bytes += framed_len(if of_index { only() } else { head.size as usize }) as u64;
                keys += 1;
            }
            Ok(if keys == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        let revision = query.revision;
        let left = Left::Walk(Box::new(query), keys as u64);
        Ok((Rows { revision, left }, bytes, keys))
    }

    /// The rows of a plain list at an older revision, where finding a version means reading it.
    fn walk_at_revision(
        &self,
        query: &Query,
        first: usize,
        limit: usize,
    ) -> Result<(Rows, u64, usize), ReadError> {
        let (mut places, mut bytes, wanted) = (Vec::new(), 0, first.saturating_add(limit));
        self.visit(&query.range, &[], |key, record| {
            if let Some(found) = self.found_at(key, record, query.revision)? {
                if places.len() >= first {
                    bytes += framed_len(row_len(query, &found)) as u64;
                }
                places.push(found.at);
            }
            Ok(if places.len() == wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        let keys = places.len() - first;
        let left = Left::Places { places, next: first, hidden: Hidden::of(query) };
        Ok((Rows { revision: query.revision, left }, bytes, keys))
    }

    /// A sorted or filtered answer: all its rows must be found first.
    fn outline_found(&self, query: &Query, first_bytes: usize) -> Result<Outline, ReadError> {
        let (mut found, count) = if query.revision == self.current {
            let count = self.index.count(&query.range);
            (self.sorted(query, count)?, count.cast_signed())
        } else {
            let then = self.found_at_revision(query, query.revision, false)?;
            (then.found, then.count)
        };
        let limit = query.limit().unwrap_or(usize::MAX);
        let more = found.len() > limit;
        found.truncate(limit);
        let bytes: u64 = found.iter().map(|found| framed_len(row_len(query, found)) as u64).sum();
        let places = found.into_iter().map(|found| found.at).collect();
        let mut rows = Rows::at(query.revision, places, Hidden::of(query));
        let first = rows.read(self, first_bytes)?;
        let bytes = bytes - first.iter().map(|kv| kv.framed_len() as u64).sum::<u64>();
        Ok(Outline { first, rows, bytes, count, more })
    }
}

fn row_len(query: &Query, found: &Found) -> usize {
    match (Hidden::of(query), &found.kv) {
        (Hidden::Nothing, _) => found.size as usize,
        (hidden, Some(kv)) => {
            let mut kv = kv.clone();
            hidden.hide(&mut kv);
            kv.encoded_len()
        }
        (_, None) => key_only(found.key.clone(), found.create, found.at, found.version).encoded_len(),
    }
}
