//! `v3lockpb.Lock`, with the steps of clientv3's `Mutex`.

use super::{Caller, Candidate, Withdrawal, at, created, key_of, prefix, ranged, revision_of, within};
use crate::{deadline::Deadline, state::Api};
use bytes::Bytes;
use proto::{
    etcdserverpb::ResponseHeader,
    v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse},
};
use std::sync::Arc;
use tonic::Status;

pub(crate) async fn lock(
    api: &Arc<Api>,
    deadline: Deadline,
    request: LockRequest,
) -> Result<LockResponse, Status> {
    within(deadline, acquire(Caller { api, deadline }, request)).await
}

async fn acquire(caller: Caller<'_>, request: LockRequest) -> Result<LockResponse, Status> {
    let lease = caller.session(request.lease).await?;
    let prefix = prefix(&request.name);
    // A waiting call must not keep the request's buffer alive.
    drop(request);
    let key = key_of(&prefix, lease);
    let (header, mine) = create(&caller, &key, lease).await?;
    if caller.before(&prefix, mine - 1).await?.is_none() {
        return Ok(LockResponse { header, key });
    }
    let candidate = Candidate::new(caller.api, Withdrawal::Delete(key.clone()));
    caller.wait_deletes(&prefix, mine - 1).await?;
    // The lease, and with it the key, may have expired: then somebody else holds the lock.
    let (header, kv) = caller.first(at(&key)).await?;
    candidate.stays();
    if kv.is_none() {
        return Err(Status::unknown("mutex: session is expired"));
    }
    Ok(LockResponse { header: Some(header), key })
}

/// Creates the key if it is missing; returns its create revision. clientv3 reads the owner in the same transaction;
/// here every member that applies it would walk all keys of the lock, so this member looks for the owner afterwards.
async fn create(
    caller: &Caller<'_>,
    key: &Bytes,
    lease: i64,
) -> Result<(Option<ResponseHeader>, i64), Status> {
    let answer = caller.txn(created(key, Bytes::new(), lease)).await?;
    let since = if answer.succeeded {
        revision_of(answer.header.as_ref())
    } else {
        ranged(&answer).map_or(0, |kv| kv.create_revision)
    };
    Ok((answer.header, since))
}

pub(crate) async fn unlock(
    api: &Arc<Api>,
    deadline: Deadline,
    request: UnlockRequest,
) -> Result<UnlockResponse, Status> {
    let caller = Caller { api, deadline };
    let header = within(deadline, caller.delete(request.key)).await?;
    Ok(UnlockResponse { header })
}
