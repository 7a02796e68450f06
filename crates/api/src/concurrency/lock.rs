//! `v3lockpb.Lock`, with the steps of clientv3's `Mutex`.

use super::{
    Caller, Candidate, Withdrawal, at, created_at, get, key_of, prefix, put, ranged, revision_of, within,
};
use crate::{Api, grpc, kv::Deadline};
use bytes::Bytes;
use proto::{
    etcdserverpb::{ResponseHeader, TxnRequest},
    v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse},
};
use std::sync::Arc;
use tonic::Status;

/// `Lock`: answers when the lock is held.
pub(crate) async fn lock(api: &Arc<Api>, deadline: Deadline, request: LockRequest) -> Result<Bytes, Status> {
    within(deadline, acquire(Caller { api, deadline }, request)).await
}

async fn acquire(caller: Caller<'_>, request: LockRequest) -> Result<Bytes, Status> {
    let lease = caller.session(request.lease).await?;
    let prefix = prefix(&request.name);
    // What waits holds nothing of what came with the request, or with the answers to its own.
    drop(request);
    let key = key_of(&prefix, lease);
    let (header, mine) = create(&caller, &key, lease).await?;
    if caller.before(&prefix, mine - 1).await?.is_none() {
        return Ok(grpc::encode(&LockResponse { header, key }));
    }
    let candidate = Candidate::new(caller.api, Withdrawal::Delete(key.clone()));
    caller.wait_deletes(&prefix, mine - 1).await?;
    // The lease may have ended meanwhile, and with it the key: then somebody else has the lock.
    let (header, kv) = caller.first(at(&key)).await?;
    candidate.stays();
    if kv.is_none() {
        return Err(Status::unknown("mutex: session is expired"));
    }
    Ok(grpc::encode(&LockResponse { header: Some(header), key }))
}

/// Puts the key if it is not there; says since when it is. clientv3 reads the lock's owner in the same transaction; here
/// the members that apply it would walk all keys of the lock for that, so it is looked for afterwards, by this one.
async fn create(
    caller: &Caller<'_>,
    key: &Bytes,
    lease: i64,
) -> Result<(Option<ResponseHeader>, i64), Status> {
    let txn = TxnRequest {
        compare: vec![created_at(key, 0)],
        success: vec![put(key, Bytes::new(), lease)],
        failure: vec![get(at(key))],
    };
    let answer = caller.txn(txn).await?;
    let since = if answer.succeeded {
        revision_of(answer.header.as_ref())
    } else {
        ranged(&answer).map_or(0, |kv| kv.create_revision)
    };
    Ok((answer.header, since))
}

/// `Unlock`.
pub(crate) async fn unlock(
    api: &Arc<Api>,
    deadline: Deadline,
    request: UnlockRequest,
) -> Result<Bytes, Status> {
    let caller = Caller { api, deadline };
    let header = within(deadline, caller.delete(request.key)).await?;
    Ok(grpc::encode(&UnlockResponse { header }))
}
