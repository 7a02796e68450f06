//! `v3lockpb.Lock`, with the steps of clientv3's `Mutex`.

use super::{
    Caller, Candidate, at, by_creation, created_at, get, key_of, prefix, put, ranged, revision_of, within,
};
use crate::{Api, grpc, kv::Deadline};
use bytes::Bytes;
use proto::{
    etcdserverpb::{DeleteRangeRequest, InternalRaftRequest, TxnRequest},
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
    let key = key_of(&prefix, lease);
    let owner = || get(by_creation(&prefix));
    let txn = TxnRequest {
        compare: vec![created_at(&key, 0)],
        success: vec![put(&key, Bytes::new(), lease), owner()],
        failure: vec![get(at(&key)), owner()],
    };
    let answer = caller.txn(txn).await?;
    let mine = if answer.succeeded {
        revision_of(answer.header.as_ref())
    } else {
        ranged(&answer, 0).map_or(0, |kv| kv.create_revision)
    };
    let is_free = ranged(&answer, 1).is_none_or(|owner| owner.create_revision == mine);
    if is_free {
        return Ok(grpc::encode(&LockResponse { header: answer.header, key }));
    }
    let delete = DeleteRangeRequest { key: key.clone(), ..Default::default() };
    let candidate =
        Candidate::new(caller.api, InternalRaftRequest { delete_range: Some(delete), ..Default::default() });
    caller.wait_deletes(&prefix, mine - 1).await?;
    // The lease may have ended meanwhile, and with it the key: then somebody else has the lock.
    let answer = caller.range(&at(&key)).await?;
    candidate.stays();
    if answer.kvs.is_empty() {
        return Err(Status::unknown("mutex: session is expired"));
    }
    Ok(grpc::encode(&LockResponse { header: answer.header, key }))
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
