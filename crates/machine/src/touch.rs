//! How many keys an entry touches, before it is applied: a delete of a few bytes may remove a million, and whoever
//! applies it must know beforehand.
//!
//! What is counted is work that cannot wait, for what the entry does depends on it: keys compared, keys deleted, keys
//! taken off a lease. Reads for the answer can ([`crate::Unread`]). Of a transaction both branches are counted.

use crate::kv::Leases;
use bytes::Bytes;
use mvcc::{GET_ROWS, Group};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::CompareTarget;
use proto::etcdserverpb::request_op::Request;
use types::KeyRange;

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
            self.range(&delete.key, &delete.range_end, 1)?;
        } else if let Some(txn) = &request.txn {
            self.txn(txn)?;
        } else if let Some(revoke) = &request.lease_revoke {
            let keys = self.leases.read().get(revoke.id).map_or(0, |lease| lease.keys().len() as u64);
            self.spend(keys)?;
        }
        Some(self.left)
    }

    fn txn(&mut self, txn: &pb::TxnRequest) -> Option<()> {
        for compare in &txn.compare {
            // Values are read.
            let rows = if compare.target == CompareTarget::Value as i32 { GET_ROWS } else { 1 };
            self.range(&compare.key, &compare.range_end, rows)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Request::RequestDeleteRange(delete)) => self.range(&delete.key, &delete.range_end, 1)?,
                Some(Request::RequestTxn(txn)) => self.txn(txn)?,
                Some(Request::RequestPut(_) | Request::RequestRange(_)) | None => self.spend(1)?,
            }
        }
        Some(())
    }

    fn range(&mut self, key: &Bytes, range_end: &Bytes, rows: u64) -> Option<()> {
        if range_end.is_empty() {
            return self.spend(rows);
        }
        let range = KeyRange::from_wire(key.clone(), range_end.clone());
        let keys = self.group.keys(&range, self.left / rows + 1);
        self.spend(keys.saturating_mul(rows))
    }

    fn spend(&mut self, keys: u64) -> Option<()> {
        self.left = self.left.checked_sub(keys)?;
        Some(())
    }
}
