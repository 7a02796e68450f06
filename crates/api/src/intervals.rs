//! No transaction may write one key twice: the overlap check of etcd's `checkIntervals`.
//!
//! Two puts of one key, or a put of a key that a delete covers, are refused wherever both could happen. The branches of a
//! nested transaction exclude each other, so they may share keys; with what surrounds them they may not. Deletes may
//! overlap deletes.
//!
//! A delete's `range_end` is taken literally here, as etcd takes it: `"\0"` is not "no end" but an end below every key, so
//! that a delete of everything from a key on never collides with a put.

use crate::status::Known;
use proto::etcdserverpb::{RequestOp, request_op::Request};
use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
};

/// Where a deleted interval ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upper<'a> {
    /// With this key.
    At(&'a [u8]),
    /// Before this key.
    Before(&'a [u8]),
}

impl<'a> Upper<'a> {
    fn covers(self, key: &[u8]) -> bool {
        match self {
            Self::At(end) => key <= end,
            Self::Before(end) => key < end,
        }
    }

    /// The later of two ends. An `At` reaches further than a `Before` the same key, and less far than a later one.
    fn max(self, other: Self) -> Self {
        let rank = |upper: Upper<'a>| match upper {
            Self::At(end) => (end, 1),
            Self::Before(end) => (end, 0),
        };
        if rank(self) >= rank(other) { self } else { other }
    }
}

/// What a list of operations may write.
#[derive(Default)]
struct Writes<'a> {
    puts: HashSet<&'a [u8]>,
    /// Disjoint intervals by their first key.
    deletes: BTreeMap<&'a [u8], Upper<'a>>,
}

impl<'a> Writes<'a> {
    fn delete(&mut self, start: &'a [u8], mut end: Upper<'a>) {
        if !end.covers(start) {
            return; // empty, it covers no key
        }
        let mut first = start;
        if let Some((&before, &its_end)) = self.deletes.range(..=start).next_back()
            && its_end.covers(start)
        {
            first = before;
            end = end.max(its_end);
        }
        // Swallow what begins inside. Each interval is swallowed once, so the whole check stays O(n log n).
        while let Some((&next, &its_end)) =
            self.deletes.range::<[u8], _>((Bound::Excluded(first), Bound::Unbounded)).next()
        {
            if !end.covers(next) {
                break;
            }
            end = end.max(its_end);
            self.deletes.remove(next);
        }
        self.deletes.insert(first, end);
    }

    fn deletes(&self, key: &[u8]) -> bool {
        let up_to_it = (Bound::Unbounded, Bound::Included(key));
        self.deletes.range::<[u8], _>(up_to_it).next_back().is_some_and(|(_, end)| end.covers(key))
    }

    fn put(&mut self, key: &'a [u8]) -> Result<(), Known> {
        if self.deletes(key) || !self.puts.insert(key) {
            return Err(Known::DuplicateKey);
        }
        Ok(())
    }

    /// Takes in a nested transaction's two branches, which may share keys with each other but not with us.
    fn nest(&mut self, success: Self, failure: Self) -> Result<(), Known> {
        let either: HashSet<_> = success.puts.union(&failure.puts).copied().collect();
        either.into_iter().try_for_each(|key| self.put(key))?;
        for (start, end) in success.deletes.into_iter().chain(failure.deletes) {
            self.delete(start, end);
        }
        Ok(())
    }
}

/// Refuses a list of operations that could write a key twice.
pub(crate) fn check(ops: &[RequestOp]) -> Result<(), Known> {
    collect(ops).map(drop)
}

/// This level's deletes first, so that nested puts are checked against them; then the nested levels; then its puts.
fn collect(ops: &[RequestOp]) -> Result<Writes<'_>, Known> {
    let mut writes = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(r)) = &op.request {
            let end = if r.range_end.is_empty() { Upper::At(&r.key) } else { Upper::Before(&r.range_end) };
            writes.delete(&r.key, end);
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(r)) = &op.request {
            writes.nest(collect(&r.success)?, collect(&r.failure)?)?;
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(r)) = &op.request {
            writes.put(&r.key)?;
        }
    }
    Ok(writes)
}
