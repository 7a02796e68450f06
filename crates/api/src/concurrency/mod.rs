//! Locks and elections: recipes over keys and leases that the server runs for its client, by the steps of clientv3's
//! `concurrency` package, so both kinds of clients work on the same keys.
//!
//! ```text
//! name/<lease in hex> ─ created with the lease if missing; the oldest key of `name/` holds the lock, or leads
//! others wait until the youngest key before theirs is deleted, then look again
//! ```
//!
//! A lock is advisory: its holder may have lost it without knowing. The key's create revision is the fencing token:
//! compare it in the transaction that writes. A client that disconnects while it waits leaves no key ([`Candidate`]).
//! As in etcd, errors from its table reach the client as `Unknown` with their texts: there, they come from etcd's own
//! client and are no gRPC statuses.

mod election;
mod lock;

pub(crate) use election::{campaign, leader, observe, proclaim, resign};
pub(crate) use lock::{lock, unlock};

use crate::{
    deadline::{self, Deadline},
    kv::{self, barrier},
    lease,
    state::Api,
    status::EtcdError,
    watch::Local,
};
use bytes::Bytes;
use mvcc::Effort;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader,
    TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::{SortOrder, SortTarget},
    request_op::Request,
    response_op,
};
use proto::mvccpb::{KeyValue, event::EventType};
use std::sync::Arc;
use tonic::{Code, Status};
use types::KeyRange;

/// Session TTL if the client names no lease, in seconds: clientv3's `defaultSessionTTL`.
const SESSION_TTL: i64 = 60;

/// One call, as clientv3 inside etcd would make it.
struct Caller<'a> {
    api: &'a Arc<Api>,
    deadline: Deadline,
}

impl Caller<'_> {
    async fn session(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let request = LeaseGrantRequest { id: 0, ttl: SESSION_TTL };
        Ok(lease::grant(self.api, self.deadline, request).await?.id)
    }

    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        kv::write_txn(self.api, self.deadline, request).await
    }

    async fn delete(&self, key: Bytes) -> Result<Option<ResponseHeader>, Status> {
        let request = DeleteRangeRequest { key, ..Default::default() };
        Ok(kv::delete(self.api, self.deadline, request).await?.header)
    }

    /// A linearizable read; returns the first key in the requested order.
    async fn first(&self, request: RangeRequest) -> Result<(ResponseHeader, Option<KeyValue>), Status> {
        barrier(self.api, self.deadline).await?;
        self.first_here(request).await
    }

    /// Like `first`, but serializable: reads what this member has applied.
    async fn first_here(&self, request: RangeRequest) -> Result<(ResponseHeader, Option<KeyValue>), Status> {
        let own = Arc::clone(self.api);
        let read = move |effort: &Effort<'_>| own.shared.range_within(&request, effort);
        let answer = self.api.slow.anywhere(read).await?;
        let revision = revision_of(answer.header.as_ref());
        Ok((self.api.header(revision), answer.kvs.into_iter().next()))
    }

    /// The youngest key of the prefix created up to `max_create_revision`, and the revision that was read. Local state
    /// suffices: no such key can appear any more, and deletions will arrive. So waiters cost no read rounds.
    async fn before(&self, prefix: &Bytes, max_create_revision: i64) -> Result<Option<(Bytes, i64)>, Status> {
        if max_create_revision <= 0 {
            return Ok(None); // 0 would mean no bound
        }
        let request = RangeRequest {
            sort_order: SortOrder::Descend.into(),
            max_create_revision,
            keys_only: true,
            ..by_creation(prefix)
        };
        let (header, last) = self.first_here(request).await?;
        // A copy: a slice would keep the block of all keys read alive.
        Ok(last.map(|last| (Bytes::copy_from_slice(&last.key), header.revision)))
    }

    /// Waits until the prefix has no key created up to `max_create_revision`. It watches the youngest, so that one
    /// delete wakes one waiter.
    async fn wait_deletes(&self, prefix: &Bytes, max_create_revision: i64) -> Result<(), Status> {
        while let Some((key, revision)) = self.before(prefix, max_create_revision).await? {
            let mut watcher = Local::open(self.api, KeyRange::point(key), revision + 1);
            loop {
                match watcher.next().await {
                    Ok((_, events)) if events.iter().any(|e| e.r#type() == EventType::Delete) => break,
                    Ok(_) => {}
                    // A compaction between read and watch: read again.
                    Err(status) if status.message() == EtcdError::Compacted.text() => break,
                    Err(status) => return Err(status),
                }
            }
        }
        Ok(())
    }
}

/// A waiting key; it is deleted if its call is dropped, by a disconnect or a deadline.
struct Candidate {
    api: Arc<Api>,
    withdrawal: Option<Withdrawal>,
}

/// What a dropped candidate proposes. Not the request itself: that takes a kilobyte, and thousands may wait.
enum Withdrawal {
    /// Delete the key unconditionally.
    Delete(Bytes),
    /// Delete the key if this is still its create revision.
    Resign(Bytes, i64),
}

fn resignation(key: &Bytes, rev: i64) -> TxnRequest {
    TxnRequest { compare: vec![created_at(key, rev)], success: vec![delete(key)], failure: Vec::new() }
}

impl Candidate {
    fn new(api: &Arc<Api>, withdrawal: Withdrawal) -> Self {
        Self { api: Arc::clone(api), withdrawal: Some(withdrawal) }
    }

    /// Keeps the key: the wait is over.
    fn stays(mut self) {
        self.withdrawal = None;
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        let Some(withdrawal) = self.withdrawal.take() else { return };
        let api = Arc::clone(&self.api);
        tokio::spawn(async move {
            // If this fails, the lease's expiry deletes the key.
            match withdrawal {
                Withdrawal::Delete(key) => {
                    let delete = DeleteRangeRequest { key, ..Default::default() };
                    let _ = api.node.propose(delete, None).await;
                }
                Withdrawal::Resign(key, rev) => {
                    let _ = api.node.propose(resignation(&key, rev), None).await;
                }
            }
        });
    }
}

/// Runs a call until its deadline, and maps errors to etcd's codes.
async fn within<T>(deadline: Deadline, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    deadline::within(deadline, call).await.map_err(|status| {
        let is_etcds = status.message().starts_with("etcdserver: ");
        if is_etcds { Status::new(Code::Unknown, status.message()) } else { status }
    })
}

fn prefix(name: &Bytes) -> Bytes {
    [name, &b"/"[..]].concat().into()
}

/// A session's key: the lease in Go's `%x` of a signed number.
fn key_of(prefix: &Bytes, lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// A range that returns a prefix's oldest key, or the youngest in descending order.
fn by_creation(prefix: &Bytes) -> RangeRequest {
    let mut range_end = prefix.to_vec();
    // A prefix ends in '/': the next byte ends the range.
    *range_end.last_mut().expect("a prefix ends in a slash") += 1;
    RangeRequest {
        key: prefix.clone(),
        range_end: range_end.into(),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// Creates the key, or reads it if it is there.
fn created(key: &Bytes, value: Bytes, lease: i64) -> TxnRequest {
    let read = RequestOp { request: Some(Request::RequestRange(at(key))) };
    TxnRequest {
        compare: vec![created_at(key, 0)],
        success: vec![put(key, value, lease)],
        failure: vec![read],
    }
}

fn put(key: &Bytes, value: Bytes, lease: i64) -> RequestOp {
    let put = PutRequest { key: key.clone(), value, lease, ..Default::default() };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

fn delete(key: &Bytes) -> RequestOp {
    let delete = DeleteRangeRequest { key: key.clone(), ..Default::default() };
    RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
}

fn at(key: &Bytes) -> RangeRequest {
    RangeRequest { key: key.clone(), ..Default::default() }
}

fn ranged(answer: &TxnResponse) -> Option<&KeyValue> {
    match answer.responses.first()?.response.as_ref()? {
        response_op::Response::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

fn revision_of(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}
