//! Refuses transactions that may write a key twice: the overlap check of etcd's `checkIntervals`.
//!
//! Two puts of one key, or a put inside a deleted range, are refused if both could run. The branches of a nested
//! transaction may share keys with each other, but not with the operations around them. Deletes may overlap deletes.
//! As in etcd, a delete's `range_end` is taken literally: `"\0"` is an end below every key, so a delete
//! from a key onwards never conflicts with a put.

use crate::status::EtcdError;
use proto::etcdserverpb::{RequestOp, request_op::Request};
use std::collections::HashSet;
use types::{KeyRanges, Upper};

#[derive(Default)]
struct Writes<'a> {
    puts: HashSet<&'a [u8]>,
    deletes: KeyRanges<'a>,
}

impl<'a> Writes<'a> {
    fn put(&mut self, key: &'a [u8]) -> Result<(), EtcdError> {
        if self.deletes.contains(key) || !self.puts.insert(key) {
            return Err(EtcdError::DuplicateKey);
        }
        Ok(())
    }

    /// Merges the branches of a nested transaction, which may share keys with each other but not with `self`.
    fn nest(&mut self, success: Self, failure: Self) -> Result<(), EtcdError> {
        let either: HashSet<_> = success.puts.union(&failure.puts).copied().collect();
        either.into_iter().try_for_each(|key| self.put(key))?;
        self.deletes.append(success.deletes);
        self.deletes.append(failure.deletes);
        Ok(())
    }
}

pub(crate) fn check(ops: &[RequestOp]) -> Result<(), EtcdError> {
    collect(ops).map(drop)
}

/// Collects this level's deletes first, to check nested puts against them; then nested levels, then this level's puts.
fn collect(ops: &[RequestOp]) -> Result<Writes<'_>, EtcdError> {
    let mut writes = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(r)) = &op.request {
            let end = if r.range_end.is_empty() { Upper::At(&r.key) } else { Upper::Before(&r.range_end) };
            writes.deletes.insert(&r.key, end);
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
