//! The attacks, grouped by what they use. Each takes a [`Target`](crate::target::Target) and ends at its end: whatever it
//! holds until then, calls and connections, goes when its function returns.

pub(crate) mod connections;
pub(crate) mod history;
pub(crate) mod lists;
pub(crate) mod locks;
pub(crate) mod mixtures;
pub(crate) mod peers;
pub(crate) mod snapshots;
pub(crate) mod streams;

use proto::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest, request_op};

pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(crate) const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
pub(crate) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(crate) const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub(crate) const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub(crate) const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";
pub(crate) const STATUS: &str = "/etcdserverpb.Maintenance/Status";
pub(crate) const LOCK: &str = "/v3lockpb.Lock/Lock";

/// Everything under a prefix that ends with a slash, from this member's store.
pub(crate) fn list(prefix: &str) -> RangeRequest {
    let key = prefix.to_owned().into();
    let range_end = harness::end_of_prefix(prefix.as_bytes());
    RangeRequest { key, range_end, serializable: true, ..Default::default() }
}

/// A put of a small value.
pub(crate) fn put(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "x".into(), ..Default::default() }
}

/// A transaction that puts a key, and so goes through the log, and then reads.
pub(crate) fn put_and_read(reads: Vec<RangeRequest>) -> TxnRequest {
    let put = request_op::Request::RequestPut(put("attack/txn"));
    let ops = [put].into_iter().chain(reads.into_iter().map(request_op::Request::RequestRange));
    let success = ops.map(|request| RequestOp { request: Some(request) }).collect();
    TxnRequest { success, ..TxnRequest::default() }
}
