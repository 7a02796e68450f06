//! `etcdserverpb.Lease`: grants and revokes go through the log, keepalives and queries to the leader; lists are local.

use crate::{
    deadline::{Deadline, within},
    kv::{check_quota, propose},
    requests::Inbound,
    state::Api,
    status,
};
use machine::{LEASE_COST, Stop};
use mvcc::Effort;
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use raft_node::LeaseError;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;

/// Responses queued for a client that does not read; beyond, its next keepalive waits.
pub(crate) const ANSWERS_AHEAD_MAX: usize = 16;

/// Leases looked up at a time for a list: 0.2 ms, for which writes may have to wait.
const LISTED_MAX: usize = 1_024;

/// `LeaseGrant`. Chooses an ID if the request has none.
pub(crate) async fn grant(
    api: &Arc<Api>,
    deadline: Deadline,
    mut request: LeaseGrantRequest,
) -> Result<LeaseGrantResponse, Status> {
    check_quota(api, LEASE_COST, deadline).await?;
    while request.id == 0 {
        // Positive, as etcd's generated IDs are.
        request.id = api.node.next_id().cast_signed() & i64::MAX;
    }
    propose(api, deadline, request).await
}

/// `LeaseTimeToLive`. An unknown lease is no error: its TTL is -1.
pub(crate) async fn time_to_live(
    api: &Arc<Api>,
    deadline: Deadline,
    request: LeaseTimeToLiveRequest,
) -> Result<LeaseTimeToLiveResponse, Status> {
    let LeaseTimeToLiveRequest { id, keys } = request;
    let asked = within(deadline, async { Ok(api.node.lease_status(id, keys).await) }).await?;
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
    Ok(answer)
}

/// `LeaseLeases`: this member's leases, by deadline if known. A million takes a second, hence the slow pool.
pub(crate) fn leases(api: &Api, effort: &Effort<'_>) -> Result<LeaseLeasesResponse, Stop> {
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
    // Leases without a known deadline come last.
    order.sort_by_key(|(deadline, id)| (deadline.is_none(), *deadline, *id));
    let leases = order.into_iter().map(|(_, id)| LeaseStatus { id }).collect();
    let mut answer = LeaseLeasesResponse { header: None, leases };
    api.complete(&mut answer.header);
    Ok(answer)
}

/// `LeaseKeepAlive`: one response for each request, in order, until the client's last request or its disconnect.
pub(crate) async fn keep_alive(
    api: Arc<Api>,
    mut requests: Inbound,
    answers: mpsc::Sender<Result<LeaseKeepAliveResponse, Status>>,
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

async fn renew(api: &Api, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
    // The revision before the renewal: a header must not show a lease alive at a revision at which it was revoked.
    let header = Some(api.header(api.shared.view().revision()));
    let ttl = match api.node.keep_alive(id).await {
        Ok(ttl) => ttl,
        Err(LeaseError::NotFound) => 0,
        Err(error) => return Err(status::lease(error)),
    };
    Ok(LeaseKeepAliveResponse { header, id, ttl })
}
