//! Which keys the operations of a transaction, followed in order, have taken away.

use proto::etcdserverpb::DeleteRangeRequest;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Where a deleted interval ends; in the order of how far it reaches from one start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End<'a> {
    /// Before this key.
    Before(&'a [u8]),
    /// With this key.
    At(&'a [u8]),
    /// After every key.
    Never,
}

impl End<'_> {
    fn covers(self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end,
            Self::At(end) => key <= end,
            Self::Never => true,
        }
    }

    fn max(self, other: Self) -> Self {
        let rank = |end| match end {
            Self::Before(key) => (false, key, false),
            Self::At(key) => (false, key, true),
            Self::Never => (true, &[][..], false),
        };
        if rank(self) >= rank(other) { self } else { other }
    }
}

/// Keys deleted and not put again since. Costs nothing before the first delete, and O(log n) an operation after it.
#[derive(Default)]
pub(super) struct Deleted<'a> {
    /// Disjoint intervals by their first key.
    intervals: BTreeMap<&'a [u8], End<'a>>,
    /// Keys inside the intervals that were put afterwards.
    put_again: BTreeSet<&'a [u8]>,
}

impl<'a> Deleted<'a> {
    pub(super) fn holds(&self, key: &[u8]) -> bool {
        self.covers(key) && !self.put_again.contains(key)
    }

    pub(super) fn put(&mut self, key: &'a [u8]) {
        if self.covers(key) {
            self.put_again.insert(key);
        }
    }

    /// The wire's form of a range means what [`types::KeyRange::from_wire`] says.
    pub(super) fn delete(&mut self, request: &'a DeleteRangeRequest) {
        let start = &request.key[..];
        let end = match &request.range_end[..] {
            [] => End::At(start),
            [0] => End::Never,
            end => End::Before(end),
        };
        if !end.covers(start) {
            return; // empty
        }
        while let Some(&key) =
            self.put_again.range::<[u8], _>((Bound::Included(start), Bound::Unbounded)).next()
            && end.covers(key)
        {
            self.put_again.remove(key);
        }
        self.join(start, end);
    }

    fn covers(&self, key: &[u8]) -> bool {
        let up_to_it = (Bound::Unbounded, Bound::Included(key));
        self.intervals.range::<[u8], _>(up_to_it).next_back().is_some_and(|(_, end)| end.covers(key))
    }

    /// Adds an interval and swallows those that it meets: each is swallowed once.
    fn join(&mut self, start: &'a [u8], mut end: End<'a>) {
        let mut first = start;
        let before = self.intervals.range::<[u8], _>((Bound::Unbounded, Bound::Included(start))).next_back();
        if let Some((&its_start, &its_end)) = before
            && its_end.covers(start)
        {
            first = its_start;
            end = end.max(its_end);
        }
        let after = (Bound::Excluded(first), Bound::Unbounded);
        while let Some((&next, &its_end)) = self.intervals.range::<[u8], _>(after).next()
            && end.covers(next)
        {
            end = end.max(its_end);
            self.intervals.remove(next);
        }
        self.intervals.insert(first, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use types::KeyRange;

    const KEYS: &[&str] = &["a", "b", "b\0", "c", "d", "dd", "e"];

    #[derive(Clone, Debug)]
    enum Op {
        Put(&'static str),
        Delete(DeleteRangeRequest),
    }

    fn op() -> impl Strategy<Value = Op> {
        let key = || prop::sample::select(KEYS);
        let end = prop_oneof![Just(""), Just("\0"), key()];
        let delete = (key(), end).prop_map(|(key, end)| DeleteRangeRequest {
            key: key.into(),
            range_end: end.into(),
            ..Default::default()
        });
        prop_oneof![key().prop_map(Op::Put), delete.prop_map(Op::Delete)]
    }

    proptest! {
        #[test]
        fn says_what_the_last_operation_on_each_key_did(ops in prop::collection::vec(op(), 0..12)) {
            let mut deleted = Deleted::default();
            for op in &ops {
                match op {
                    Op::Put(key) => deleted.put(key.as_bytes()),
                    Op::Delete(request) => deleted.delete(request),
                }
            }
            for key in KEYS {
                let last = ops.iter().rev().find_map(|op| match op {
                    Op::Put(put) => (put == key).then_some(false),
                    Op::Delete(r) => KeyRange::from_wire(r.key.clone(), r.range_end.clone())
                        .contains(key.as_bytes())
                        .then_some(true),
                });
                prop_assert_eq!(deleted.holds(key.as_bytes()), last.unwrap_or(false), "{}", key.escape_debug());
            }
        }
    }
}
