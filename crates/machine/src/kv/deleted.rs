//! Tracks which keys the operations of a transaction have deleted so far.

use proto::etcdserverpb::DeleteRangeRequest;
use std::collections::BTreeSet;
use std::ops::Bound;
use types::{KeyRanges, Upper};

/// Keys deleted and not put again. Free before the first delete, then O(log n) an operation.
#[derive(Default)]
pub(super) struct Deleted<'a> {
    deleted: KeyRanges<'a>,
    put_again: BTreeSet<&'a [u8]>,
}

impl<'a> Deleted<'a> {
    pub(super) fn holds(&self, key: &[u8]) -> bool {
        self.deleted.contains(key) && !self.put_again.contains(key)
    }

    pub(super) fn put(&mut self, key: &'a [u8]) {
        if self.deleted.contains(key) {
            self.put_again.insert(key);
        }
    }

    pub(super) fn delete(&mut self, request: &'a DeleteRangeRequest) {
        let (start, end) = (&request.key[..], Upper::from_wire(&request.key, &request.range_end));
        while let Some(&key) =
            self.put_again.range::<[u8], _>((Bound::Included(start), Bound::Unbounded)).next()
            && end.covers(key)
        {
            self.put_again.remove(key);
        }
        self.deleted.insert(start, end);
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
