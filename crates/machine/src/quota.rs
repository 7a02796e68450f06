//! The space quota, and what requests cost of it. The numbers are etcd's (`server/storage/quota.go`).

use proto::etcdserverpb as pb;

/// The default quota, bytes: etcd's 2 GiB.
pub const QUOTA_DEFAULT_BYTES: i64 = 2 * 1024 * 1024 * 1024;
/// The cost of a put besides key and value, bytes: etcd's estimate of its metadata.
pub const PUT_OVERHEAD: u64 = 256;
/// The cost of a lease grant, bytes: etcd's estimate of its record.
pub const LEASE_COST: u64 = 64;

/// How much this member may store. Members may differ: it changes answers, never effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    limit_bytes: Option<i64>,
}

impl Quota {
    /// From etcd's flag `--quota-backend-bytes`: 0 = [`QUOTA_DEFAULT_BYTES`], negative = unlimited.
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

    /// Whether a request of this cost fits into a store of this size. Cost 0 always fits.
    pub fn fits(self, stored_bytes: i64, cost: u64) -> bool {
        let cost = i64::try_from(cost).unwrap_or(i64::MAX);
        cost == 0 || self.limit_bytes.is_none_or(|limit| stored_bytes.saturating_add(cost) < limit)
    }
}

/// What a put costs, in bytes.
pub fn put_cost(request: &pb::PutRequest) -> u64 {
    PUT_OVERHEAD + request.key.len() as u64 + request.value.len() as u64
}

/// The cost of a transaction, bytes: that of its more expensive branch, nested ones included.
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
