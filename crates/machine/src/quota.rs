//! What a request costs of the space quota. The numbers are etcd's (`server/storage/quota.go`).

use proto::etcdserverpb as pb;

/// The quota where none is given, in bytes: etcd's 2 GiB.
pub const QUOTA_DEFAULT_BYTES: i64 = 2 * 1024 * 1024 * 1024;
/// What a put costs besides its key and value, in bytes: etcd's estimate of its record's metadata.
pub const PUT_OVERHEAD: u64 = 256;
/// What a lease grant costs, in bytes: etcd's estimate of its record.
pub const LEASE_COST: u64 = 64;

/// How much this member may store. Settings may differ between members: it changes answers, never effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    limit_bytes: Option<i64>,
}

impl Quota {
    /// From etcd's flag `--quota-backend-bytes`: 0 = [`QUOTA_DEFAULT_BYTES`], negative = none.
    pub fn new(flag: i64) -> Self {
        let limit_bytes = match flag {
            ..0 => None,
            0 => Some(QUOTA_DEFAULT_BYTES),
            _ => Some(flag),
        };
        Self { limit_bytes }
    }

    /// The limit in bytes, if there is one.
    pub fn limit_bytes(self) -> Option<i64> {
        self.limit_bytes
    }

    /// Whether a request of this cost fits a store of this size. What costs nothing always fits.
    pub fn fits(self, stored_bytes: i64, cost: u64) -> bool {
        let cost = i64::try_from(cost).unwrap_or(i64::MAX);
        cost == 0 || self.limit_bytes.is_none_or(|limit| stored_bytes.saturating_add(cost) < limit)
    }
}

/// What a request costs, in bytes; 0 for everything that is let through regardless.
pub fn cost(request: &pb::InternalRaftRequest) -> u64 {
    let put = request.put.as_ref().map_or(0, put_cost);
    let txn = request.txn.as_ref().map_or(0, txn_cost);
    let lease = request.lease_grant.as_ref().map_or(0, |_| LEASE_COST);
    put + txn + lease
}

/// What a put costs, in bytes.
pub fn put_cost(request: &pb::PutRequest) -> u64 {
    PUT_OVERHEAD + request.key.len() as u64 + request.value.len() as u64
}

/// What a transaction costs, in bytes: its dearer branch, whichever will be taken, nested ones included.
pub fn txn_cost(request: &pb::TxnRequest) -> u64 {
    let branch = |ops: &[pb::RequestOp]| ops.iter().map(op_cost).sum::<u64>();
    branch(&request.success).max(branch(&request.failure))
}

fn op_cost(op: &pb::RequestOp) -> u64 {
    use pb::request_op::Request;
    match &op.request {
        Some(Request::RequestPut(put)) => put_cost(put),
        Some(Request::RequestTxn(txn)) => txn_cost(txn),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::request_op::Request;

    fn op(request: Request) -> pb::RequestOp {
        pb::RequestOp { request: Some(request) }
    }

    fn put(key: &'static str, value: &'static str) -> pb::RequestOp {
        op(Request::RequestPut(pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }))
    }

    #[test]
    fn a_transaction_costs_its_dearer_branch_with_what_is_nested_in_it() {
        let inner = pb::TxnRequest { failure: vec![put("k", "value")], ..Default::default() };
        let outer = pb::TxnRequest {
            success: vec![put("k", "v"), op(Request::RequestTxn(inner))],
            failure: vec![put("k", "v"), op(Request::RequestDeleteRange(pb::DeleteRangeRequest::default()))],
            ..Default::default()
        };
        assert_eq!(txn_cost(&outer), (256 + 2) + (256 + 6));
        assert_eq!(txn_cost(&pb::TxnRequest::default()), 0);
    }

    #[test]
    fn the_quota_is_strict_and_negative_means_none() {
        assert!(Quota::new(1000).fits(900, 99));
        assert!(!Quota::new(1000).fits(900, 100));
        assert!(Quota::new(1000).fits(5000, 0), "what costs nothing fits");
        assert!(Quota::new(-1).fits(i64::MAX, u64::MAX));
        assert_eq!(Quota::new(0).limit_bytes(), Some(QUOTA_DEFAULT_BYTES));
    }
}
