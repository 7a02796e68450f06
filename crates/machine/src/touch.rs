//! Counts the keys that an entry touches before it is applied: a delete of a few bytes may remove a million keys.
//!
//! Counted is the work that the entry's effect depends on: keys compared, deleted or detached from a lease, and values
//! compared or kept, on both branches of a transaction. Reads for the answer can be deferred ([`crate::Unread`]).

use crate::command::Command;
use crate::kv::LeaseTable;
use bytes::Bytes;
use mvcc::{GET_ROWS, Group};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::CompareTarget;
use proto::etcdserverpb::request_op::Request;
use std::ops::ControlFlow;
use types::KeyRange;

/// Reading this many bytes of a value counts as one key.
const VALUE_BYTES: u64 = 4 << 10;

/// A count of touched keys, which stops at the limit.
pub(crate) struct Touch<'a, 'g> {
    pub(crate) group: &'a Group<'g>,
    pub(crate) leases: &'a LeaseTable,
    pub(crate) left: u64,
}

impl Touch<'_, '_> {
    /// What is left after a request; `None` where it touches more.
    pub(crate) fn after(mut self, command: &Command) -> Option<u64> {
        match command {
            Command::DeleteRange(delete) => self.range(&delete.key, &delete.range_end, false)?,
            Command::Put(put) => self.put(put)?,
            Command::Txn(txn) => self.txn(txn)?,
            Command::LeaseRevoke(revoke) => {
                let keys = self.leases.read().get(revoke.id).map_or(0, |lease| lease.keys().len() as u64);
                self.spend(keys)?;
            }
            // No keys. A range reads within limits of its own.
            Command::Range(_)
            | Command::Compaction(_)
            | Command::LeaseGrant(_)
            | Command::LeaseCheckpoint(_)
            | Command::Alarm(_)
            | Command::ClusterVersion(_)
            | Command::MemberAttributes(_)
            | Command::Downgrade(_)
            | Command::DowngradeTest(_) => {}
        }
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

    /// A put that keeps the value reads it and writes it again.
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
