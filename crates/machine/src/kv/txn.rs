//! Transactions. After etcd's `txn/txn.go`, in its three steps:
//!
//! 1. compare: all conditions, nested ones too, against the state before the transaction, give the path of branches;
//! 2. check: every operation on that path, against the same state; one refusal refuses the whole transaction. So does,
//!    after all of etcd's checks, a put that is to keep the value or the lease of a key that an operation before it
//!    deletes: etcd accepts it, and its members end in the third step, again after every restart;
//! 3. execute: in order; ranges see the writes before them; all writes share one revision.

use super::deleted::Deleted;
use super::space::{NOT_A_READ, Reading, Reads, Space};
use super::{compare, delete_range, header, put, range};
use crate::{Fault, Later, Refusal, Stop, Unread};
use mvcc::{Effort, View};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::{RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse};
use std::sync::Arc;

/// Whether a transaction may be answered without the log: only ranges, on both branches. A nested transaction counts as
/// a write (etcd's `IsTxnReadonly`).
pub fn is_read_only(txn: &TxnRequest) -> bool {
    let read = |op: &RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
    txn.success.iter().chain(&txn.failure).all(read)
}

/// Whether a read-only transaction may be answered from any member's state (etcd's `IsTxnSerializable`); an empty one
/// may.
pub fn is_serializable(txn: &TxnRequest) -> bool {
    let serializable =
        |op: &RequestOp| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable);
    txn.success.iter().chain(&txn.failure).all(serializable)
}

/// Runs a transaction.
pub(crate) fn txn<S: Space>(
    space: &mut S,
    request: &TxnRequest,
    reads: &mut Reads,
) -> Result<TxnResponse, Stop> {
    let path = decide(space, request)?;
    let mut response = execute(space, request, &mut path.iter(), reads)?;
    response.header = header(space.revision());
    Ok(response)
}

/// The answer of a transaction that only reads, without its rows, and what is to be read for them.
pub(crate) fn unread(view: &Arc<View>, effort: &Effort<'_>, request: &TxnRequest) -> Result<Unread, Stop> {
    let reading = Reading { view, effort };
    let succeeded = next(&mut decide(&reading, request)?.iter())?;
    let ops = branch(request, succeeded);
    let read = |(op, request): (usize, &RequestOp)| match &request.request {
        Some(Request::RequestRange(range)) => Ok(Later::new(op, Arc::clone(view), range::query(range))),
        _ => Err(NOT_A_READ),
    };
    let reads = ops.iter().enumerate().map(read).collect::<Result<_, _>>()?;
    let range = RangeResponse { header: header(view.revision()), ..RangeResponse::default() };
    let responses = vec![ResponseOp { response: Some(Response::ResponseRange(range)) }; ops.len()];
    let answer = TxnResponse { header: header(view.revision()), succeeded, responses };
    Ok(Unread { answer: crate::Response::Txn(answer), reads })
}

/// The first two steps: which branches are taken, and that nothing on them is refused.
fn decide<S: Space>(space: &S, request: &TxnRequest) -> Result<Vec<bool>, Stop> {
    let mut path = Vec::with_capacity(1);
    choose(space, request, &mut path)?;
    check(space, request, &mut path.iter())?;
    check_kept(request, &mut path.iter(), &mut Deleted::default())?;
    Ok(path)
}

type Path<'p> = std::slice::Iter<'p, bool>;

/// The branches taken, in the order in which transactions are met.
fn choose<S: Space>(space: &S, txn: &TxnRequest, path: &mut Vec<bool>) -> Result<(), Stop> {
    let succeeded = compare::all_hold(space, &txn.compare)?;
    path.push(succeeded);
    for op in branch(txn, succeeded) {
        if let Some(Request::RequestTxn(inner)) = &op.request {
            choose(space, inner, path)?;
        }
    }
    Ok(())
}

fn check<S: Space>(space: &S, txn: &TxnRequest, path: &mut Path<'_>) -> Result<(), Stop> {
    let succeeded = next(path)?;
    for op in branch(txn, succeeded) {
        match &op.request {
            Some(Request::RequestRange(request)) => range::check(space, request)?,
            Some(Request::RequestPut(request)) => put::check(space, request)?,
            Some(Request::RequestTxn(request)) => check(space, request, path)?,
            Some(Request::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

/// Follows the writes of the path in order. [`check`] has found every key that a put keeps something of in the state
/// before the transaction, so a key is missing only where the last operation on it deleted it.
fn check_kept<'t>(txn: &'t TxnRequest, path: &mut Path<'_>, deleted: &mut Deleted<'t>) -> Result<(), Stop> {
    let succeeded = next(path)?;
    for op in branch(txn, succeeded) {
        match &op.request {
            Some(Request::RequestPut(put)) => {
                if (put.ignore_value || put.ignore_lease) && deleted.holds(&put.key) {
                    return Err(Refusal::KeyNotFound.into());
                }
                deleted.put(&put.key);
            }
            Some(Request::RequestDeleteRange(request)) => deleted.delete(request),
            Some(Request::RequestTxn(request)) => check_kept(request, path, deleted)?,
            Some(Request::RequestRange(_)) | None => {}
        }
    }
    Ok(())
}

fn execute<S: Space>(
    space: &mut S,
    txn: &TxnRequest,
    path: &mut Path<'_>,
    reads: &mut Reads,
) -> Result<TxnResponse, Stop> {
    let succeeded = next(path)?;
    let ops = branch(txn, succeeded);
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        let response = match &op.request {
            Some(Request::RequestTxn(request)) => {
                let response = Some(Response::ResponseTxn(execute(space, request, path, reads)?));
                responses.push(ResponseOp { response });
                continue;
            }
            Some(Request::RequestRange(request)) => {
                Some(Response::ResponseRange(range(space, request, reads)?))
            }
            Some(Request::RequestPut(request)) => {
                Some(Response::ResponsePut(put::put_checked(space, request, reads)?))
            }
            Some(Request::RequestDeleteRange(request)) => {
                Some(Response::ResponseDeleteRange(delete_range(space, request, reads)?))
            }
            None => None,
        };
        reads.op += 1;
        responses.push(ResponseOp { response });
    }
    // Odd: only the outermost header says a revision in etcd; nested ones are there and empty.
    Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
}

fn branch(txn: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn next(path: &mut Path<'_>) -> Result<bool, Stop> {
    path.next().copied().ok_or(Stop::Fault(Fault::Broken("a transaction has more branches than its path")))
}
