//! `etcdserverpb.Lease`: grants and revokes go through the log; keepalives and times to live go to the leader, wherever
//! it is, and never into the log; the list is this member's own.

use crate::{
    Api, grpc,
    kv::{Deadline, afford, encoded, mismatch, propose},
    slow::Inline,
    status,
    streams::Inbound,
};
use bytes::Bytes;
use machine::{LEASE_COST, Response, Stop};
use mvcc::Effort;
use proto::etcdserverpb::{
    InternalRaftRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeRequest, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use raft_node::LeaseError;
use std::{sync::Arc, time::Instant};
use tokio::{sync::mpsc, time::timeout_at};
use tonic::Status;

/// Answers that wait for a client to read them; then its next keepalive waits.
pub(crate) const ANSWERS_AHEAD_MAX: usize = 16;

/// Leases looked up at a time for a list: a fifth of a millisecond, for which writes may have to wait.
const LISTED_MAX: usize = 1_024;

/// `LeaseGrant`. Without an ID the server chooses one.
pub(crate) async fn grant(
    api: &Api,
    deadline: Deadline,
    request: LeaseGrantRequest,
) -> Result<Bytes, Status> {
    grant_lease(api, deadline, request).await.map(|answer| grpc::encode(&answer))
}

/// Grants a lease, to a client or in its name.
pub(crate) async fn grant_lease(
    api: &Api,
    deadline: Deadline,
    mut request: LeaseGrantRequest,
) -> Result<LeaseGrantResponse, Status> {
    afford(api, LEASE_COST, deadline).await?;
    while request.id == 0 {
        // Positive only, as etcd chooses them.
        request.id = api.node.next_id().cast_signed() & i64::MAX;
    }
    let request = InternalRaftRequest { lease_grant: Some(request), ..Default::default() };
    match propose(api, deadline, request).await? {
        Response::LeaseGrant(mut answer) => {
            api.complete(&mut answer.header);
            Ok(answer)
        }
        other => Err(mismatch(&other)),
    }
}

/// `LeaseRevoke`.
pub(crate) async fn revoke(
    api: &Api,
    deadline: Deadline,
    request: LeaseRevokeRequest,
) -> Result<Bytes, Status> {
    let request = InternalRaftRequest { lease_revoke: Some(request), ..Default::default() };
    match propose(api, deadline, request).await? {
        Response::LeaseRevoke(mut answer) => {
            api.complete(&mut answer.header);
            Ok(grpc::encode(&answer))
        }
        other => Err(mismatch(&other)),
    }
}

/// `LeaseTimeToLive`. An unknown lease is no error: its time to live is -1.
pub(crate) async fn time_to_live(
    api: &Api,
    deadline: Deadline,
    request: LeaseTimeToLiveRequest,
) -> Result<Bytes, Status> {
    let LeaseTimeToLiveRequest { id, keys } = request;
    let asked = within(deadline, api.node.lease_status(id, keys)).await?;
    let mut answer = match asked {
        Ok(lease) => LeaseTimeToLiveResponse {
            header: None,
            id,
            ttl: lease.ttl,
            granted_ttl: lease.granted_ttl,
            keys: lease.keys,
        },
        Err(LeaseError::NotFound) => LeaseTimeToLiveResponse { id, ttl: -1, ..Default::default() },
        Err(error) => return Err(status::lease(error)),
    };
    api.complete(&mut answer.header);
    encoded(api, answer.keys.len(), answer).await
}

/// `LeaseLeases`: those that this member knows of, the next to end first where it keeps their time. Of a million it takes
/// a second: not on the runtime's thread.
pub(crate) async fn leases(api: &Arc<Api>) -> Result<Bytes, Status> {
    match api.slow.inline(|effort| leases_now(api, effort)) {
        Inline::Done(answer) => answer,
        Inline::TooMuch(spent) => {
            let own = Arc::clone(api);
            api.slow.read(spent, move |effort| leases_now(&own, effort)).await
        }
    }
}

fn leases_now(api: &Api, effort: &Effort<'_>) -> Result<Bytes, Stop> {
    let (mut order, mut last) = (Vec::new(), None);
    loop {
        let ids = api.shared.lease_ids(last, LISTED_MAX);
        if ids.is_empty() {
            break;
        }
        effort.spend(ids.len() as u64, 0)?;
        last = ids.last().copied();
        order.extend(api.node.lease_deadlines(&ids).into_iter().zip(ids));
    }
    // Without a deadline a lease lasts for ever, as far as this member knows.
    order.sort_by_key(|(deadline, id)| (deadline.is_none(), *deadline, *id));
    let leases = order.into_iter().map(|(_, id)| LeaseStatus { id }).collect();
    let mut answer = LeaseLeasesResponse { header: None, leases };
    api.complete(&mut answer.header);
    Ok(grpc::encode(&answer))
}

/// `LeaseKeepAlive`: one answer a request, in order. Ends when the client has sent its last, or has gone away.
pub(crate) async fn keep_alive(
    api: Arc<Api>,
    mut requests: Inbound,
    answers: mpsc::Sender<Result<Bytes, Status>>,
) {
    loop {
        let request: LeaseKeepAliveRequest = match requests.next().await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(status) => return drop(answers.send(Err(status)).await),
        };
        let answer = tokio::select! {
            biased;
            answer = renew(&api, request.id) => answer,
            () = answers.closed() => return,
        };
        let failed = answer.is_err();
        if answers.send(answer).await.is_err() || failed {
            return;
        }
    }
}

async fn renew(api: &Api, id: i64) -> Result<Bytes, Status> {
    // Its revision is the one before the renewal: a client must not take a lease for alive at a revision at which it was
    // revoked.
    let header = Some(api.header(api.shared.view().revision()));
    let ttl = match api.node.keep_alive(id).await {
        Ok(ttl) => ttl,
        Err(LeaseError::NotFound) => 0,
        Err(error) => return Err(status::lease(error)),
    };
    Ok(grpc::encode(&LeaseKeepAliveResponse { header, id, ttl }))
}

async fn within<T>(deadline: Deadline, answer: impl Future<Output = T>) -> Result<T, Status> {
    let Some(deadline) = deadline else { return Ok(answer.await) };
    let deadline: Instant = deadline;
    match timeout_at(deadline.into(), answer).await {
        Ok(answer) => Ok(answer),
        Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
    }
}
