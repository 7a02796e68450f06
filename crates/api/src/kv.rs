//! `etcdserverpb.KV`: checks, then the log or a read, then a complete header.
//!
//! Writes are proposed and answered from what their entry did. Reads take one [`mvcc::View`] and no lock; unless
//! serializable, a barrier comes first: leadership confirmed, and everything committed by then applied here.

use crate::{
    Api,
    budget::{Answer, Room, Share, Shares},
    grpc,
    long::{self, Made},
    parse, parts,
    slow::{Inline, Lane},
    status,
    status::Known,
};
use bytes::Bytes;
use machine::{Response, Stop, Unread};
use mvcc::{Cost, Effort};
use prost::Message;
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, DeleteRangeResponse, InternalRaftRequest,
    PutRequest, RangeRequest, TxnRequest, TxnResponse, alarm_request::AlarmAction, response_op,
};
use raft_node::{ProposeError, ReadError};
use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::Status;

/// How often a caller that waits for a physical compaction looks whether it is done. Such calls are rare (tests,
/// operators); what they wait for takes milliseconds to minutes.
const COMPACTION_POLL: Duration = Duration::from_millis(5);

/// When the caller stops waiting; `None` leaves it to the node's own request timeout.
pub(crate) type Deadline = Option<Instant>;

/// `Range`.
pub(crate) async fn range(
    api: &Arc<Api>,
    shares: Shares<'_>,
    deadline: Deadline,
    request: RangeRequest,
) -> Result<Answer, Status> {
    parse::range(&request)?;
    checked_range(api, shares, deadline, request).await
}

/// A range that no check of a client's applies to any more.
pub(crate) async fn checked_range(
    api: &Arc<Api>,
    shares: Shares<'_>,
    deadline: Deadline,
    request: RangeRequest,
) -> Result<Answer, Status> {
    let start = Instant::now();
    let answer = barrier_and_range(api, shares, deadline, request).await;
    api.metrics.durations.range_request.observe(start, &answer);
    answer
}

async fn barrier_and_range(
    api: &Arc<Api>,
    shares: Shares<'_>,
    deadline: Deadline,
    request: RangeRequest,
) -> Result<Answer, Status> {
    if !request.serializable {
        barrier(api, deadline).await?;
    }
    // After the barrier: those that waited for it together would all find room before any of them has taken it.
    shares.values.turn(deadline).await?;
    let spent = match api.slow.inline(|effort| range_now(api, &request, effort)) {
        Inline::Done(answer) => return answer.map(Answer::Read),
        Inline::TooMuch(spent) => spent,
    };
    Box::pin(range_elsewhere(api, shares.answers, deadline, spent, request)).await
}

/// A range that costs too much for the thread that serves everybody.
async fn range_elsewhere(
    api: &Arc<Api>,
    answers: &Share,
    deadline: Deadline,
    spent: Cost,
    request: RangeRequest,
) -> Result<Answer, Status> {
    let room = Some(Room { answers, deadline });
    let request = Arc::new(request);
    let read = async {
        if let Some(whole) = in_short_lane(api, room, spent, Arc::clone(&request), range_now).await? {
            return Ok(Answer::Read(whole));
        }
        let own = Arc::clone(api);
        Ok(api.slow.long(room, move |effort| long_range(&own, &request, effort)).await?.into())
    };
    grpc::within(deadline, read).await
}

/// What a read answers, if it fits the short lane.
async fn in_short_lane<R: Send + Sync + 'static>(
    api: &Arc<Api>,
    room: Option<Room<'_>>,
    spent: Cost,
    request: Arc<R>,
    read: fn(&Api, &R, &Effort<'_>) -> Result<Bytes, Stop>,
) -> Result<Option<Bytes>, Status> {
    if api.slow.lane(spent) != Lane::Short {
        return Ok(None);
    }
    let own = Arc::clone(api);
    let work = move |effort: &Effort<'_>| read(&own, &request, effort);
    Ok(api.slow.short(room, work).await?.ok())
}

/// A range that is more than short: the time it takes is that of finding what it holds.
fn long_range(api: &Api, request: &RangeRequest, effort: &Effort<'_>) -> Result<Made, Stop> {
    let start = Instant::now();
    let made = long::range(api, request, effort);
    if !matches!(made, Err(Stop::GivenUp(_))) {
        api.metrics.durations.range.observe(start, &made);
        api.node.meters().count_range();
    }
    made
}

fn range_now(api: &Api, request: &RangeRequest, effort: &Effort<'_>) -> Result<Bytes, Stop> {
    let start = Instant::now();
    let answer = api.shared.range_within(request, effort);
    if let Err(Stop::GivenUp(why)) = answer {
        return Err(why.into()); // etcd has no such thing to be measured
    }
    let took = api.metrics.durations.range.observe(start, &answer);
    api.node.meters().count_range();
    let mut answer = answer?;
    api.complete(&mut answer.header);
    let answer = parts::encode_range(answer);
    if api.slow.is_inline(effort.spent()) {
        api.steps.note("Range", took);
    }
    Ok(answer)
}

/// `Put`.
pub(crate) async fn put(
    api: &Arc<Api>,
    shares: Shares<'_>,
    deadline: Deadline,
    request: PutRequest,
) -> Result<Answer, Status> {
    afford(api, machine::put_cost(&request), deadline).await?;
    parse::put(&request)?;
    let proposal = InternalRaftRequest { put: Some(request), ..Default::default() };
    let mut answer = propose(api, deadline, proposal).await?;
    complete(api, &mut answer);
    let encoding = match answer {
        Response::Put(answer) => encoded(api, usize::from(answer.prev_kv.is_some()), answer),
        other => return unread(api, shares, deadline, other).await,
    };
    encoding.await.map(Answer::Other)
}

/// `DeleteRange`.
pub(crate) async fn delete_range(
    api: &Arc<Api>,
    shares: Shares<'_>,
    deadline: Deadline,
    request: DeleteRangeRequest,
) -> Result<Answer, Status> {
    let encoding = match log_delete(api, deadline, request).await? {
        Response::DeleteRange(answer) => encoded(api, answer.prev_kvs.len(), answer),
        other => return unread(api, shares, deadline, other).await,
    };
    encoding.await.map(Answer::Other)
}

/// Completes the header of an answer with rows, read or still unread.
fn complete(api: &Api, answer: &mut Response) {
    match answer {
        Response::Put(answer) => api.complete(&mut answer.header),
        Response::DeleteRange(answer) => api.complete(&mut answer.header),
        Response::Txn(answer) => api.complete(&mut answer.header),
        Response::Unread(unread) => complete(api, &mut unread.answer),
        _ => {}
    }
}

/// Reads the rest of an entry's answer, as a read-only request's is read. Boxed, for it is rare.
fn unread<'a>(
    api: &'a Arc<Api>,
    shares: Shares<'a>,
    deadline: Deadline,
    answer: Response,
) -> Pin<Box<dyn Future<Output = Result<Answer, Status>> + Send + 'a>> {
    Box::pin(async move {
        let Response::Unread(unread) = answer else { return Err(mismatch(&answer)) };
        // It waits for its turn and for room, with what was read already.
        let _waits = shares.values.keep(unread.heap_len());
        let spent = match api.slow.inline(|effort| long::unread_now(&unread, effort)) {
            Inline::Done(answer) => return answer.map(Answer::Done).map_err(long::after_write),
            Inline::TooMuch(spent) => spent,
        };
        let room = Some(Room { answers: shares.answers, deadline });
        let unread = Arc::<Unread>::from(unread);
        let read = async {
            let now = |_: &Api, unread: &Unread, effort: &Effort<'_>| long::unread_now(unread, effort);
            let short = in_short_lane(api, room, spent, Arc::clone(&unread), now).await?;
            Ok(match short {
                Some(whole) => Made::Whole(whole),
                None => long::unread(api, room, unread).await?,
            })
        };
        Ok(match grpc::within(deadline, read).await.map_err(long::after_write)? {
            Made::Whole(whole) => Answer::Done(whole),
            Made::Long(long) => Answer::Long(Box::new(long.done())),
        })
    })
}

/// Encodes an answer of so many rows, on a blocking thread where it is long. Not an `async fn`, which would keep room for
/// the answer in the task of every call.
pub(crate) fn encoded<M: Message + 'static>(
    api: &Api,
    rows: usize,
    answer: M,
) -> impl Future<Output = Result<Bytes, Status>> + Send {
    let mut cost = Cost { rows: rows as u64, bytes: 0 };
    if rows > 0 && api.slow.is_inline(cost) {
        cost.bytes = answer.encoded_len() as u64;
    }
    let encoded = if api.slow.is_inline(cost) {
        Ok(grpc::encode(&answer))
    } else {
        Err(Box::pin(api.slow.run(api.slow.lane(cost), move |_| grpc::encode(&answer))))
    };
    async move {
        match encoded {
            Ok(bytes) => Ok(bytes),
            Err(later) => Ok(later.await?),
        }
    }
}

/// Deletes a range in a client's name, without an answer that has rows.
pub(crate) async fn delete(
    api: &Api,
    deadline: Deadline,
    request: DeleteRangeRequest,
) -> Result<DeleteRangeResponse, Status> {
    match log_delete(api, deadline, request).await? {
        Response::DeleteRange(answer) => Ok(answer),
        other => Err(mismatch(&other)),
    }
}

async fn log_delete(api: &Api, deadline: Deadline, request: DeleteRangeRequest) -> Result<Response, Status> {
    parse::delete(&request)?;
    let request = InternalRaftRequest { delete_range: Some(request), ..Default::default() };
    let mut answer = propose(api, deadline, request).await?;
    complete(api, &mut answer);
    Ok(answer)
}

/// `Txn`. One that only reads never enters the log; one without operations does not even need a quorum.
pub(crate) async fn txn(
    api: &Arc<Api>,
    shares: Shares<'_>,
    deadline: Deadline,
    request: TxnRequest,
) -> Result<Answer, Status> {
    admit_txn(api, deadline, &request).await?;
    if machine::kv::is_read_only(&request) {
        return read_txn(api, shares, deadline, request).await;
    }
    let encoding = match log_txn(api, deadline, request).await? {
        Response::Txn(answer) => encoded(api, rows(&answer), answer),
        other => return unread(api, shares, deadline, other).await,
    };
    encoding.await.map(Answer::Other)
}

/// Keys in a transaction's answer, and its operations.
fn rows(answer: &TxnResponse) -> usize {
    let rows = answer.responses.iter().map(|op| match &op.response {
        Some(response_op::Response::ResponseRange(range)) => range.kvs.len(),
        Some(response_op::Response::ResponsePut(put)) => usize::from(put.prev_kv.is_some()),
        Some(response_op::Response::ResponseDeleteRange(delete)) => delete.prev_kvs.len(),
        Some(response_op::Response::ResponseTxn(txn)) => rows(txn),
        None => 0,
    });
    answer.responses.len() + rows.sum::<usize>()
}

/// A transaction that writes, in a client's name.
pub(crate) async fn write_txn(
    api: &Api,
    deadline: Deadline,
    request: TxnRequest,
) -> Result<TxnResponse, Status> {
    admit_txn(api, deadline, &request).await?;
    let mut answer = log_txn(api, deadline, request).await?;
    if let Response::Unread(unread) = answer {
        answer = Box::pin(read_whole(api, deadline, *unread)).await.map_err(long::after_write)?;
    }
    match answer {
        Response::Txn(answer) => Ok(answer),
        other => Err(mismatch(&other)),
    }
}

/// For recipes, whose transactions find a key or two, however many they look through.
async fn read_whole(api: &Api, deadline: Deadline, unread: Unread) -> Result<Response, Status> {
    match api.slow.inline(|effort| unread.whole(effort)) {
        Inline::Done(answer) => answer,
        Inline::TooMuch(spent) => {
            let read = api.slow.read(spent, move |effort| unread.whole(effort));
            grpc::within(deadline, read).await
        }
    }
}

async fn admit_txn(api: &Api, deadline: Deadline, request: &TxnRequest) -> Result<(), Status> {
    afford(api, machine::txn_cost(request), deadline).await?;
    Ok(parse::txn(request, api.limits.max_txn_ops)?)
}

async fn log_txn(api: &Api, deadline: Deadline, request: TxnRequest) -> Result<Response, Status> {
    let mut answer =
        propose(api, deadline, InternalRaftRequest { txn: Some(request), ..Default::default() }).await?;
    complete(api, &mut answer);
    Ok(answer)
}

async fn read_txn(
    api: &Arc<Api>,
    shares: Shares<'_>,
    deadline: Deadline,
    request: TxnRequest,
) -> Result<Answer, Status> {
    if !machine::kv::is_serializable(&request) {
        barrier(api, deadline).await?;
    }
    shares.values.turn(deadline).await?;
    let start = Instant::now();
    let spent = match api.slow.inline(|effort| txn_now(api, &request, effort)) {
        Inline::Done(answer) => {
            let took = api.metrics.durations.read_txn.observe(start, &answer);
            api.steps.note("Txn", took);
            return answer.map(Answer::Read);
        }
        Inline::TooMuch(spent) => spent,
    };
    let answer = Box::pin(read_txn_elsewhere(api, shares.answers, deadline, spent, request)).await;
    api.metrics.durations.read_txn.observe(start, &answer);
    answer
}

async fn read_txn_elsewhere(
    api: &Arc<Api>,
    answers: &Share,
    deadline: Deadline,
    spent: Cost,
    request: TxnRequest,
) -> Result<Answer, Status> {
    let room = Some(Room { answers, deadline });
    let request = Arc::new(request);
    let read = async {
        if let Some(whole) = in_short_lane(api, room, spent, Arc::clone(&request), txn_now).await? {
            return Ok(Answer::Read(whole));
        }
        let own = Arc::clone(api);
        let mut unread = api.slow.long(room, move |effort| own.shared.unread_txn(&request, effort)).await?;
        complete(api, &mut unread.answer);
        Ok(long::unread(api, room, Arc::new(unread)).await?.into())
    };
    grpc::within(deadline, read).await
}

fn txn_now(api: &Api, request: &TxnRequest, effort: &Effort<'_>) -> Result<Bytes, Stop> {
    let mut answer = api.shared.read_txn_within(request, effort)?;
    api.node.meters().count_txn(&answer);
    api.complete(&mut answer.header);
    Ok(parts::encode_txn(answer))
}

/// `Compact`. `physical` answers only when the old records are gone.
pub(crate) async fn compact(
    api: &Api,
    deadline: Deadline,
    request: CompactionRequest,
) -> Result<Bytes, Status> {
    let CompactionRequest { revision, physical } = request;
    let request = InternalRaftRequest { compaction: Some(request), ..Default::default() };
    let mut answer = match propose(api, deadline, request).await? {
        Response::Compaction(answer) => answer,
        other => return Err(mismatch(&other)),
    };
    while physical && api.shared.view().compaction_done() < revision {
        tokio::time::sleep(COMPACTION_POLL).await;
    }
    api.complete(&mut answer.header);
    Ok(grpc::encode(&answer))
}

/// Waits until this member has applied everything that was committed when it asked.
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

/// Proposes a request and waits for what its entry did. Not an `async fn`, and boxed: either would keep room for the
/// request, the largest message there is (1.3 KiB), several times over in the task of every call, reads included.
pub(crate) fn propose(
    api: &Api,
    deadline: Deadline,
    request: InternalRaftRequest,
) -> impl Future<Output = Result<Response, Status>> + Send {
    let (seconds, start) = (api.metrics.durations.proposal(&request), Instant::now());
    let answer = Box::pin(api.node.propose(request, deadline));
    async move {
        let pending = Pending::new(api);
        let answer = answer.await;
        drop(pending);
        // What the log refuses, it has answered: etcd counts only what got no answer as failed.
        seconds.observe(
            start,
            &answer.as_ref().map(drop).or_else(|error| match error {
                ProposeError::Refused(_) => Ok(()),
                _ => Err(()),
            }),
        );
        answer.map_err(|error| {
            if !matches!(error, ProposeError::Refused(_)) {
                api.metrics.proposals_failed.inc();
            }
            status::propose(&error)
        })
    }
}

/// A proposal that waits, as `etcd_server_proposals_pending` counts it; also when its caller goes away.
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

/// Refuses what does not fit this member's quota, and raises the alarm for the whole cluster (etcd's `quotaAlarmer`;
/// there too it comes before every other check).
pub(crate) async fn afford(api: &Api, cost: u64, deadline: Deadline) -> Result<(), Status> {
    if api.shared.has_room_for(cost) {
        return Ok(());
    }
    Box::pin(raise_no_space(api, deadline)).await;
    Err(Known::NoSpace.into())
}

/// An alarm that this member has raised already is not proposed again.
async fn raise_no_space(api: &Api, deadline: Deadline) {
    let kind = AlarmType::Nospace as i32;
    let member_id = api.identity.member;
    if api.shared.alarms().list(kind).iter().any(|a| a.member_id == member_id) {
        return;
    }
    let alarm = AlarmRequest { action: AlarmAction::Activate as i32, member_id, alarm: kind };
    let request = InternalRaftRequest { alarm: Some(alarm), ..Default::default() };
    if let Err(error) = propose(api, deadline, request).await {
        slog::warn!(api.log, "cannot raise the NOSPACE alarm"; "error" => error.message());
    }
}

/// The node answered with another request's answer: a broken invariant of ours, told to this client alone.
pub(crate) fn mismatch(_: &Response) -> Status {
    Status::internal("the log answered another kind of request")
}
