//! Responses of KV calls, encoded on the thread that made them: the runtime's while they are cheap, else one of the
//! slow pool ([`crate::slow`]). One above a few megabytes is made piece by piece ([`crate::long`]).

use crate::{
    budget::{Room, Shares},
    deadline::{Deadline, within},
    frame,
    kv::{admit_txn, barrier, log_delete, log_put, propose},
    long::{self, Long, Made},
    parse, parts,
    slow::{Inline, Lane},
    state::Api,
    status,
};
use bytes::Bytes;
use machine::{Response, Rows, Stop, Unread};
use mvcc::{Cost, Effort};
use prost::Message;
use proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, TxnResponse, response_op,
};
use std::{pin::Pin, sync::Arc, time::Instant};
use tonic::Status;

/// An encoded response, by which budget bounds its bytes.
pub(crate) enum Answer {
    /// A read. If it is large, room was reserved before it was made.
    Read(Bytes),
    /// A write that was applied; it stays applied whatever happens to its response.
    Done(Bytes),
    /// A read that is held only one piece at a time.
    Long(Box<Long>),
    /// Anything else, charged to the connection; too many of these delay the connection's next calls.
    Other(Bytes),
}

impl From<Made> for Answer {
    fn from(made: Made) -> Self {
        match made {
            Made::Whole(whole) => Self::Read(whole),
            Made::Long(long) => Self::Long(Box::new(long)),
        }
    }
}

/// Answers the calls of KV: with the server's state, the connection's shares of the budgets, and the call's deadline.
pub(crate) struct Kv<'a> {
    pub(crate) api: &'a Arc<Api>,
    pub(crate) shares: Shares<'a>,
    pub(crate) deadline: Deadline,
}

impl<'a> Kv<'a> {
    /// Room for a large answer, which a read waits for before it is made.
    fn room(&self) -> Room<'a> {
        Room { answers: self.shares.answers, deadline: self.deadline }
    }

    pub(crate) async fn range(&self, request: RangeRequest) -> Result<Answer, Status> {
        parse::range(&request)?;
        self.checked_range(request).await
    }

    /// A range whose request was already checked, or that needs no check.
    pub(crate) async fn checked_range(&self, request: RangeRequest) -> Result<Answer, Status> {
        let start = Instant::now();
        let answer = self.barrier_and_range(request).await;
        self.api.metrics.durations.range_request.observe(start, &answer);
        answer
    }

    async fn barrier_and_range(&self, request: RangeRequest) -> Result<Answer, Status> {
        if !request.serializable {
            barrier(self.api, self.deadline).await?;
        }
        // After the barrier: all reads of one round would otherwise find room before any of them takes it.
        self.shares.values.turn(self.deadline).await?;
        let spent = match self.api.slow.inline(|effort| range_now(self.api, &request, effort)) {
            Inline::Done(answer) => return answer.map(Answer::Read),
            Inline::TooMuch(spent) => spent,
        };
        Box::pin(self.range_elsewhere(spent, request)).await
    }

    async fn range_elsewhere(&self, spent: Cost, request: RangeRequest) -> Result<Answer, Status> {
        let request = Arc::new(request);
        let read = async {
            if let Some(whole) = self.in_short_lane(spent, Arc::clone(&request), range_now).await? {
                return Ok(Answer::Read(whole));
            }
            let own = Arc::clone(self.api);
            let long =
                self.api.slow.long(Some(self.room()), move |effort| long_range(&own, &request, effort));
            Ok(long.await?.into())
        };
        within(self.deadline, read).await
    }

    /// Reads in the short lane; `None` if the request does not fit there.
    async fn in_short_lane<R: Send + Sync + 'static>(
        &self,
        spent: Cost,
        request: Arc<R>,
        read: fn(&Api, &R, &Effort<'_>) -> Result<Bytes, Stop>,
    ) -> Result<Option<Bytes>, Status> {
        if self.api.slow.lane(spent) != Lane::Short {
            return Ok(None);
        }
        let own = Arc::clone(self.api);
        let work = move |effort: &Effort<'_>| read(&own, &request, effort);
        Ok(self.api.slow.short(Some(self.room()), work).await?.ok())
    }

    pub(crate) async fn put(&self, request: PutRequest) -> Result<Answer, Status> {
        let encoding = match log_put(self.api, self.deadline, request).await? {
            Rows::All(answer) => encoded(self.api, usize::from(answer.prev_kv.is_some()), answer),
            Rows::Unread(rest) => return self.unread(rest).await,
        };
        encoding.await.map(Answer::Other)
    }

    pub(crate) async fn delete_range(&self, request: DeleteRangeRequest) -> Result<Answer, Status> {
        let encoding = match log_delete(self.api, self.deadline, request).await? {
            Rows::All(answer) => encoded(self.api, answer.prev_kvs.len(), answer),
            Rows::Unread(rest) => return self.unread(rest).await,
        };
        encoding.await.map(Answer::Other)
    }

    /// `Txn`. A read-only one never enters the log; one without operations does not even need a quorum.
    pub(crate) async fn txn(&self, request: TxnRequest) -> Result<Answer, Status> {
        admit_txn(self.api, self.deadline, &request).await?;
        if machine::kv::is_read_only(&request) {
            return self.read_txn(request).await;
        }
        let encoding = match propose(self.api, self.deadline, request).await? {
            Rows::All(answer) => encoded(self.api, rows(&answer), answer),
            Rows::Unread(rest) => return self.unread(rest).await,
        };
        encoding.await.map(Answer::Other)
    }

    async fn read_txn(&self, request: TxnRequest) -> Result<Answer, Status> {
        if !machine::kv::is_serializable(&request) {
            barrier(self.api, self.deadline).await?;
        }
        self.shares.values.turn(self.deadline).await?;
        let start = Instant::now();
        let spent = match self.api.slow.inline(|effort| txn_now(self.api, &request, effort)) {
            Inline::Done(answer) => {
                let took = self.api.metrics.durations.read_txn.observe(start, &answer);
                self.api.steps.note("Txn", took);
                return answer.map(Answer::Read);
            }
            Inline::TooMuch(spent) => spent,
        };
        let answer = Box::pin(self.read_txn_elsewhere(spent, request)).await;
        self.api.metrics.durations.read_txn.observe(start, &answer);
        answer
    }

    async fn read_txn_elsewhere(&self, spent: Cost, request: TxnRequest) -> Result<Answer, Status> {
        let request = Arc::new(request);
        let read = async {
            if let Some(whole) = self.in_short_lane(spent, Arc::clone(&request), txn_now).await? {
                return Ok(Answer::Read(whole));
            }
            let own = Arc::clone(self.api);
            let find = move |effort: &Effort<'_>| own.shared.unread_txn(&request, effort);
            let mut unread = self.api.slow.long(Some(self.room()), find).await?;
            if let Response::Txn(answer) = &mut unread.answer {
                self.api.complete(&mut answer.header);
            }
            Ok(long::unread(self.api, Some(self.room()), Arc::new(unread)).await?.into())
        };
        within(self.deadline, read).await
    }

    /// Reads the deferred rows of an applied entry, as a read-only request would. Boxed because it is rare.
    fn unread(
        &self,
        unread: Box<Unread>,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Status>> + Send + '_>> {
        Box::pin(async move {
            // Its heap memory is charged while it waits for its turn and for room.
            let _waits = self.shares.values.keep(unread.heap_len());
            let spent = match self.api.slow.inline(|effort| long::unread_now(&unread, effort)) {
                Inline::Done(answer) => return answer.map(Answer::Done).map_err(status::after_write),
                Inline::TooMuch(spent) => spent,
            };
            let unread = Arc::<Unread>::from(unread);
            let read = async {
                let now = |_: &Api, unread: &Unread, effort: &Effort<'_>| long::unread_now(unread, effort);
                let short = self.in_short_lane(spent, Arc::clone(&unread), now).await?;
                Ok(match short {
                    Some(whole) => Made::Whole(whole),
                    None => long::unread(self.api, Some(self.room()), unread).await?,
                })
            };
            Ok(match within(self.deadline, read).await.map_err(status::after_write)? {
                Made::Whole(whole) => Answer::Done(whole),
                Made::Long(long) => Answer::Long(Box::new(long.done())),
            })
        })
    }
}

/// A range beyond the short lane. The measured time covers finding its rows, not sending them.
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
        return Err(why.into()); // etcd measures nothing like it
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

/// Counts the keys and operations in a transaction's response.
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

fn txn_now(api: &Api, request: &TxnRequest, effort: &Effort<'_>) -> Result<Bytes, Stop> {
    let mut answer = api.shared.read_txn_within(request, effort)?;
    api.node.meters().count_txn(&answer);
    api.complete(&mut answer.header);
    Ok(parts::encode_txn(answer))
}

/// Makes a response that costs reads, and encodes it where it was made.
pub(crate) async fn read<M: Message + 'static>(
    api: &Arc<Api>,
    read: fn(&Api, &Effort<'_>) -> Result<M, Stop>,
) -> Result<Bytes, Status> {
    let own = Arc::clone(api);
    api.slow.anywhere(move |effort| Ok(frame::encode(&read(&own, effort)?))).await
}

/// Encodes a response of this many rows, in the slow pool if it is long. Not an `async fn`: that would reserve space
/// for the response in every call's task.
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
        Ok(frame::encode(&answer))
    } else {
        Err(Box::pin(api.slow.run(api.slow.lane(cost), move |_| frame::encode(&answer))))
    };
    async move {
        match encoded {
            Ok(bytes) => Ok(bytes),
            Err(later) => Ok(later.await?),
        }
    }
}
