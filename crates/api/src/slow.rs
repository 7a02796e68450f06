//! Long reads leave the runtime's thread.
//!
//! One thread serves all clients of a member, so nothing may hold it for long. What reads many rows, sorts them or hashes
//! the whole store runs in a small pool of blocking threads, capped so that lists do not take the cores away from puts;
//! what does not fit waits its turn. The answer is encoded there too.

use crate::{budget::Budget, kv::Deadline, parse};
use machine::Shared;
use mvcc::Query;
use proto::etcdserverpb::{RangeRequest, TxnRequest, request_op::Request};
use tokio::sync::Semaphore;
use tonic::Status;
use types::KeyRange;

/// Long reads at work at one time: on the smallest machine we budget for (two cores) one more would stop the writes.
pub(crate) const SLOW_READS_MAX: usize = 2;

/// Rows that a read may touch on the runtime's thread: 256 rows of 100 bytes take some 100 µs.
pub(crate) const INLINE_ROWS_MAX: i64 = 256;

/// The right to do long work.
pub(crate) struct Pool(Semaphore);

impl Default for Pool {
    fn default() -> Self {
        Self(Semaphore::new(SLOW_READS_MAX))
    }
}

impl Pool {
    /// Runs a long read on a blocking thread, when it is its turn and there is room for its answer. It waits without a
    /// turn: else those that wait for room would keep away those that need none.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        answers: &Budget,
        deadline: Deadline,
        work: impl FnOnce() -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = loop {
            answers.room(deadline).await?;
            let turn = self.0.acquire().await.expect("the semaphore is never closed");
            if answers.has_room() {
                break turn;
            }
        };
        let result = tokio::task::spawn_blocking(work).await;
        drop(turn);
        result.unwrap_or_else(|error| Err(Status::unknown(format!("a long read ended early: {error}"))))
    }

    /// Runs long work on a blocking thread, when it is its turn.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let _turn = self.0.acquire().await.expect("the semaphore is never closed");
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| Err(Status::unknown(format!("a long read ended early: {error}"))))
    }
}

/// Whether a range may touch more rows than the runtime's thread should.
pub(crate) fn is_long(request: &RangeRequest, shared: &Shared) -> bool {
    if request.range_end.is_empty() {
        return false;
    }
    let plain = parse::default_order(request) && !parse::filtered(request);
    if plain && (1..=INLINE_ROWS_MAX).contains(&request.limit) {
        return false;
    }
    let view = shared.view();
    if request.revision > 0 && request.revision < view.revision() {
        return true; // counting in the past already walks the rows
    }
    if request.count_only && plain {
        return false;
    }
    let range = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
    let count = Query { range, count_only: true, ..Query::default() };
    // An error comes again, and is answered, when the range itself is read.
    view.range(&count).is_ok_and(|answer| answer.count > INLINE_ROWS_MAX)
}

/// Whether any range of a read-only transaction is long, or they are many.
pub(crate) fn is_long_txn(request: &TxnRequest, shared: &Shared) -> bool {
    let ops = request.success.iter().chain(&request.failure);
    let mut ranges = ops.filter_map(|op| match &op.request {
        Some(Request::RequestRange(range)) => Some(range),
        _ => None,
    });
    request.compare.iter().any(|c| !c.range_end.is_empty())
        || ranges.clone().filter(|r| !r.range_end.is_empty()).count() > 1
        || ranges.any(|r| is_long(r, shared))
}
