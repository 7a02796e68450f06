//! `etcdserverpb.KV`: checks requests, proposes writes, and completes response headers; reads are in `answer`.
//!
//! A write's response is the outcome of its log entry. A read waits for a barrier unless it is serializable: a majority
//! confirms the leader, and this member applies everything committed by then.

use crate::{
    deadline::{Deadline, within},
    parse,
    state::Api,
    status::{self, EtcdError},
};
use machine::{Answer, Request, Rows};
use proto::etcdserverpb::{
    AlarmType, CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, TxnRequest, TxnResponse,
};
use raft_node::{ProposeError, ReadError};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::Status;

/// Poll interval of callers that wait for a physical compaction: tests and operators, for milliseconds to minutes.
const COMPACTION_POLL: Duration = Duration::from_millis(5);

pub(crate) async fn log_put(
    api: &Api,
    deadline: Deadline,
    request: PutRequest,
) -> Result<Rows<PutResponse>, Status> {
    check_quota(api, machine::put_cost(&request), deadline).await?;
    parse::put(&request)?;
    propose(api, deadline, request).await
}

pub(crate) async fn log_delete(
    api: &Api,
    deadline: Deadline,
    request: DeleteRangeRequest,
) -> Result<Rows<DeleteRangeResponse>, Status> {
    parse::delete(&request)?;
    propose(api, deadline, request).await
}

pub(crate) async fn admit_txn(api: &Api, deadline: Deadline, request: &TxnRequest) -> Result<(), Status> {
    check_quota(api, machine::txn_cost(request), deadline).await?;
    Ok(parse::txn(request, api.limits.max_txn_ops)?)
}

/// Runs a delete for the server's own recipes, which need no deleted rows.
pub(crate) async fn delete(
    api: &Api,
    deadline: Deadline,
    request: DeleteRangeRequest,
) -> Result<DeleteRangeResponse, Status> {
    all(api, deadline, log_delete(api, deadline, request).await?).await
}

/// Runs a writing transaction for the server's own recipes.
pub(crate) async fn write_txn(
    api: &Api,
    deadline: Deadline,
    request: TxnRequest,
) -> Result<TxnResponse, Status> {
    admit_txn(api, deadline, &request).await?;
    all(api, deadline, propose(api, deadline, request).await?).await
}

/// Reads deferred rows at once. Transactions of recipes find a key or two, whatever they scan.
async fn all<T>(api: &Api, deadline: Deadline, answer: Rows<T>) -> Result<T, Status>
where
    Rows<T>: Answer,
{
    let unread = match answer {
        Rows::All(answer) => return Ok(answer),
        Rows::Unread(unread) => unread,
    };
    let read = api.slow.anywhere(move |effort| unread.whole(effort));
    let answer = Box::pin(within(deadline, read)).await.map_err(status::after_write)?;
    match Rows::of(answer) {
        Some(Rows::All(answer)) => Ok(answer),
        _ => Err(Status::internal("an answer was read that is another request's")),
    }
}

/// `Compact`. With `physical` it returns only when the old records are gone.
pub(crate) async fn compact(
    api: &Arc<Api>,
    deadline: Deadline,
    request: CompactionRequest,
) -> Result<CompactionResponse, Status> {
    let CompactionRequest { revision, physical } = request;
    let answer = propose(api, deadline, request).await?;
    while physical && api.shared.view().compaction_done() < revision {
        tokio::time::sleep(COMPACTION_POLL).await;
    }
    Ok(answer)
}

/// Waits until this member has applied everything that was committed when the call began.
pub(crate) async fn barrier(api: &Api, deadline: Deadline) -> Result<(), Status> {
    api.node.read_barrier(deadline).await.map_err(|error| {
        let counter = if matches!(error, ReadError::Timeout) {
            &api.metrics.reads_slow
        } else {
            &api.metrics.reads_failed
        };
        counter.inc();
        status::read(&error, deadline.is_some_and(|d| Instant::now() >= d))
    })
}

/// Proposes a request, waits for its outcome, and completes the header. Boxed, not an `async fn`: either would reserve
/// space for the request in every call's task, reads included.
pub(crate) fn propose<R: Request>(
    api: &Api,
    deadline: Deadline,
    request: R,
) -> impl Future<Output = Result<R::Answer, Status>> + Send
where
    R::Answer: Send,
{
    let (seconds, start) = (api.metrics.durations.proposal(R::KIND), Instant::now());
    let answer = Box::pin(api.node.propose(request, deadline));
    async move {
        let pending = Pending::new(api);
        let answer = answer.await;
        drop(pending);
        // A refused entry did get an answer: etcd counts only proposals without one as failed.
        seconds.observe(
            start,
            &answer.as_ref().map(drop).or_else(|error| match error {
                ProposeError::Refused(_) => Ok(()),
                _ => Err(()),
            }),
        );
        let mut answer = answer.map_err(|error| {
            if !matches!(error, ProposeError::Refused(_)) {
                api.metrics.proposals_failed.inc();
            }
            status::propose(&error)
        })?;
        if let Some(header) = answer.header() {
            api.complete(header);
        }
        Ok(answer)
    }
}

/// Counts a waiting proposal in `etcd_server_proposals_pending`, also if its caller disconnects.
struct Pending<'a>(&'a Api);

impl<'a> Pending<'a> {
    fn new(api: &'a Api) -> Self {
        api.metrics.proposals_pending.inc();
        Self(api)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.metrics.proposals_pending.dec();
    }
}

/// Refuses what exceeds this member's quota, before all other checks, and raises the alarm (etcd's `quotaAlarmer`).
pub(crate) async fn check_quota(api: &Api, cost: u64, deadline: Deadline) -> Result<(), Status> {
    if api.shared.has_room_for(cost) {
        return Ok(());
    }
    Box::pin(raise_no_space(api, deadline)).await;
    Err(EtcdError::NoSpace.into())
}

async fn raise_no_space(api: &Api, deadline: Deadline) {
    let member = api.identity.member;
    if api.shared.alarms().has(AlarmType::Nospace, member) {
        return;
    }
    if let Err(error) = propose(api, deadline, machine::no_space(member)).await {
        slog::warn!(api.log, "cannot raise the NOSPACE alarm"; "error" => error.message());
    }
}
