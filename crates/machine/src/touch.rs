//! How many keys an entry touches, before it is applied: a delete of a few bytes may remove a million, and whoever
//! applies it must know beforehand.
//!
//! What is counted is work that cannot wait, for what the entry does depends on it: keys compared, keys deleted, keys
//! taken off a lease, values that are compared or kept. Reads for the answer can ([`crate::Unread`]). Of a transaction both
//! branches are counted.

use crate::kv::Leases;
use bytes::Bytes;
use mvcc::{GET_ROWS, Group};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::CompareTarget;
use proto::etcdserverpb::request_op::Request;
use std::ops::ControlFlow;
use types::KeyRange;

/// So many bytes of a value that is read are as much work as a key.
const VALUE_BYTES: u64 = 4 << 10;

/// Counts no further than to where there are too many.
pub(crate) struct Touch<'a, 'g> {
    pub(crate) group: &'a Group<'g>,
    pub(crate) leases: &'a Leases,
    /// Keys that may still be touched.
    pub(crate) left: u64,
}

impl Touch<'_, '_> {
    /// What is left after a request; `None` where it touches more.
    pub(crate) fn after(mut self, request: &pb::InternalRaftRequest) -> Option<u64> {
        if let Some(delete) = &request.delete_range {
            self.range(&delete.key, &delete.range_end, false)?;
        } else if let Some(put) = &request.put {
            self.put(put)?;
        } else if let Some(txn) = &request.txn {
            self.txn(txn)?;
        } else if let Some(revoke) = &request.lease_revoke {
            let keys = self.leases.read().get(revoke.id).map_or(0, |lease| lease.keys().len() as u64);
            self.spend(keys)?;
        }
        Some(self.left)
    }

    /// The same of a put.
    pub(crate) fn after_put(mut self, put: &pb::PutRequest) -> Option<u64> {
        self.put(put)?;
        Some(self.left)
    }

    fn txn(&mut self, txn: &pb::TxnRequest) -> Option<()> {
        for compare in &txn.compare {
            let by_value = compare.target == CompareTarget::Value as i32;
            self.range(&compare.key, &compare.range_end, by_value)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Request::RequestDeleteRange(delete)) => {
                    self.range(&delete.key, &delete.range_end, false)?;
                }
                Some(Request::RequestPut(put)) => self.put(put)?,
                Some(Request::RequestTxn(txn)) => self.txn(txn)?,
                Some(Request::RequestRange(_)) | None => self.spend(1)?,
            }
        }
        Some(())
    }

    /// One that keeps the value writes it again.
    fn put(&mut self, put: &pb::PutRequest) -> Option<()> {
        if put.ignore_value { self.range(&put.key, &Bytes::new(), true) } else { self.spend(1) }
    }

    fn range(&mut self, key: &Bytes, range_end: &Bytes, reads: bool) -> Option<()> {
        if range_end.is_empty() && !reads {
            return self.spend(1);
        }
        let (group, mut left) = (self.group, Some(self.left));
        group.visit(&KeyRange::from_wire(key.clone(), range_end.clone()), &mut |bytes| {
            let work = if reads { GET_ROWS + u64::from(bytes) / VALUE_BYTES } else { 1 };
            left = left.and_then(|left| left.checked_sub(work));
            if left.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        self.left = left?;
        Some(())
    }

    fn spend(&mut self, keys: u64) -> Option<()> {
        self.left = self.left.checked_sub(keys)?;
        Some(())
    }
}
