//! Locks and elections: recipes over keys and leases that the server carries out for its client, with the steps of
//! clientv3's `concurrency` package, so that both kinds of clients meet on the same keys.
//!
//! ```text
//! name/<lease in hex> ─ created with the lease, if it is not there; the oldest key of `name/` holds the lock, or leads
//! others wait until the youngest key before theirs is deleted, then look again
//! ```
//!
//! A lock is advice: whoever holds one may have lost it without knowing. The key's create revision is the token that
//! guards what is done under it (compare it in the transaction that writes).
//!
//! Who goes away while waiting leaves no key behind ([`Candidate`]). Errors of etcd's table reach the client as
//! `Unknown` with their texts, as they do there: its own client's errors are no gRPC statuses.

mod election;
mod lock;

pub(crate) use election::{campaign, leader, observe, proclaim, resign};
pub(crate) use lock::{lock, unlock};

use crate::{
    Api,
    kv::{self, Deadline, barrier},
    lease,
    slow::Inline,
    status::Known,
    watch::Local,
};
use bytes::Bytes;
use mvcc::Effort;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp,
    ResponseHeader, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::{SortOrder, SortTarget},
    request_op::Request,
    response_op,
};
use proto::mvccpb::{KeyValue, event::EventType};
use std::sync::Arc;
use tokio::time::timeout_at;
use tonic::{Code, Status};
use types::KeyRange;

/// What a session lasts whose client named no lease, in seconds: clientv3's `defaultSessionTTL`.
const SESSION_TTL: i64 = 60;

/// One call, as clientv3 inside etcd would make it.
struct Caller<'a> {
    api: &'a Arc<Api>,
    deadline: Deadline,
}

impl Caller<'_> {
    /// The client's lease, or a new one.
    async fn session(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let request = LeaseGrantRequest { id: 0, ttl: SESSION_TTL };
        Ok(lease::grant_lease(self.api, self.deadline, request).await?.id)
    }

    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        kv::write_txn(self.api, self.deadline, request).await
    }

    async fn delete(&self, key: Bytes) -> Result<Option<ResponseHeader>, Status> {
        let request = DeleteRangeRequest { key, ..Default::default() };
        Ok(kv::delete(self.api, self.deadline, request).await?.header)
    }

    /// A linearizable read of a range's keys; and the first of them, in the order asked for.
    async fn first(&self, request: RangeRequest) -> Result<(ResponseHeader, Option<KeyValue>), Status> {
        barrier(self.api, self.deadline).await?;
        self.first_here(request).await
    }

    /// The same, from what this member has applied.
    async fn first_here(&self, request: RangeRequest) -> Result<(ResponseHeader, Option<KeyValue>), Status> {
        let answer = match self.api.slow.inline(|effort| self.api.shared.range_within(&request, effort)) {
            Inline::Done(answer) => answer?,
            Inline::TooMuch(spent) => {
                let own = Arc::clone(self.api);
                let read = move |effort: &Effort<'_>| own.shared.range_within(&request, effort);
                self.api.slow.read(spent, read).await?
            }
        };
        let revision = revision_of(answer.header.as_ref());
        Ok((self.api.header(revision), answer.kvs.into_iter().next()))
    }

    /// Of the prefix's keys that were created at or before the revision, the youngest, and up to where that is known.
    ///
    /// This member has applied that revision, so what it has applied tells: no such key can come to be any more, and one
    /// that is gone elsewhere already will be gone here. So nobody else needs to be asked, and a storm of waiters costs
    /// no rounds.
    async fn before(&self, prefix: &Bytes, max_create_revision: i64) -> Result<Option<(Bytes, i64)>, Status> {
        if max_create_revision <= 0 {
            return Ok(None); // to a range that would be no bound
        }
        let request = RangeRequest {
            sort_order: SortOrder::Descend.into(),
            max_create_revision,
            keys_only: true,
            ..by_creation(prefix)
        };
        let (header, last) = self.first_here(request).await?;
        // A copy: a slice would keep the block alive that many keys were read into.
        Ok(last.map(|last| (Bytes::copy_from_slice(&last.key), header.revision)))
    }

    /// Waits until no key of the prefix is left that was created at or before the revision: only the youngest of them is
    /// looked at, so that one delete wakes one waiter.
    async fn wait_deletes(&self, prefix: &Bytes, max_create_revision: i64) -> Result<(), Status> {
        while let Some((key, revision)) = self.before(prefix, max_create_revision).await? {
            let mut watcher = Local::open(self.api, KeyRange::point(key), revision + 1);
            loop {
                match watcher.next().await {
                    Ok((_, events)) if events.iter().any(|e| e.r#type() == EventType::Delete) => break,
                    Ok(_) => {}
                    // Compaction came between the look and the watch: look again.
                    Err(status) if status.message() == Known::Compacted.text() => break,
                    Err(status) => return Err(status),
                }
            }
        }
        Ok(())
    }
}

/// A key that waits, deleted when its client goes away or its time is over.
struct Candidate {
    api: Arc<Api>,
    withdrawal: Option<Withdrawal>,
}

/// What is proposed then. Not the request itself, which is a kilobyte long, for thousands may wait.
enum Withdrawal {
    /// The key goes.
    Delete(Bytes),
    /// The key goes if it is still the one that was created then.
    Resign(Bytes, i64),
}

impl Withdrawal {
    fn request(self) -> InternalRaftRequest {
        match self {
            Self::Delete(key) => {
                let delete_range = Some(DeleteRangeRequest { key, ..Default::default() });
                InternalRaftRequest { delete_range, ..Default::default() }
            }
            Self::Resign(key, rev) => {
                InternalRaftRequest { txn: Some(resignation(&key, rev)), ..Default::default() }
            }
        }
    }
}

fn resignation(key: &Bytes, rev: i64) -> TxnRequest {
    TxnRequest { compare: vec![created_at(key, rev)], success: vec![delete(key)], failure: Vec::new() }
}

impl Candidate {
    fn new(api: &Arc<Api>, withdrawal: Withdrawal) -> Self {
        Self { api: Arc::clone(api), withdrawal: Some(withdrawal) }
    }

    /// It has what it waited for.
    fn stays(mut self) {
        self.withdrawal = None;
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        let Some(withdrawal) = self.withdrawal.take() else { return };
        let api = Arc::clone(&self.api);
        tokio::spawn(async move {
            // Without success the lease will see to it.
            let _ = api.node.propose(withdrawal.request(), None).await;
        });
    }
}

/// Runs a call to its end, or to the client's deadline; and gives its errors etcd's codes.
async fn within<T>(deadline: Deadline, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = match deadline {
        None => call.await,
        Some(deadline) => match timeout_at(deadline.into(), call).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
        },
    };
    answer.map_err(|status| {
        let is_etcds = status.message().starts_with("etcdserver: ");
        if is_etcds { Status::new(Code::Unknown, status.message()) } else { status }
    })
}

/// The name as a prefix of keys.
fn prefix(name: &Bytes) -> Bytes {
    [name, &b"/"[..]].concat().into()
}

/// The key of a session: Go's `%x` of a signed number.
fn key_of(prefix: &Bytes, lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// The oldest key of a prefix; the youngest where the order is turned.
fn by_creation(prefix: &Bytes) -> RangeRequest {
    let mut range_end = prefix.to_vec();
    // A prefix ends in '/': the next byte up ends the range.
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

fn put(key: &Bytes, value: Bytes, lease: i64) -> RequestOp {
    let put = PutRequest { key: key.clone(), value, lease, ..Default::default() };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

fn get(request: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestRange(request)) }
}

fn delete(key: &Bytes) -> RequestOp {
    let delete = DeleteRangeRequest { key: key.clone(), ..Default::default() };
    RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
}

fn at(key: &Bytes) -> RangeRequest {
    RangeRequest { key: key.clone(), ..Default::default() }
}

/// The first key of the range that a transaction's answer begins with.
fn ranged(answer: &TxnResponse) -> Option<&KeyValue> {
    match answer.responses.first()?.response.as_ref()? {
        response_op::Response::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

fn revision_of(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}
