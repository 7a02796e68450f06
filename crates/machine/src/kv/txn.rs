//! Transactions. After etcd's `txn/txn.go`, in its three steps:
//! 1. compare: all conditions, also nested ones, against the state before; the result is the path of branches;
//! 2. check: every operation on that path, against the same state; one refusal refuses the whole transaction. Unlike
//!    etcd, a put that keeps the value or lease of a key that an earlier operation deletes is refused too: etcd
//!    accepts it, and its members panic in the third step, again after every restart;
//! 3. execute: in order; ranges see earlier writes; all writes share one revision.

use super::deleted::Deleted;
use super::space::{NOT_A_READ, Reading, Reads, Space};
use super::{Later, compare, delete_range, header, put, range};
use crate::{Fault, Refusal, Stop};
use mvcc::{Effort, View};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::{RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse};
use std::sync::Arc;

/// Whether a transaction may bypass the log: only ranges, not nested, on both branches (etcd's `IsTxnReadonly`).
pub fn is_read_only(txn: &TxnRequest) -> bool {
    let read = |op: &RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
    txn.success.iter().chain(&txn.failure).all(read)
}

/// Whether any member's state may answer a read-only transaction (etcd's `IsTxnSerializable`); an empty one: yes.
pub fn is_serializable(txn: &TxnRequest) -> bool {
    let serializable =
        |op: &RequestOp| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable);
    txn.success.iter().chain(&txn.failure).all(serializable)
}

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

/// The answer of a read-only transaction without its rows, and the reads that find them.
pub(crate) fn unread(
    view: &Arc<View>,
    effort: &Effort<'_>,
    request: &TxnRequest,
) -> Result<(TxnResponse, Vec<Later>), Stop> {
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
    Ok((TxnResponse { header: header(view.revision()), succeeded, responses }, reads))
}

/// The first two steps: chooses the branches, and checks their operations.
fn decide<S: Space>(space: &S, request: &TxnRequest) -> Result<Vec<bool>, Stop> {
    let mut path = Vec::with_capacity(1);
    choose(space, request, &mut path)?;
    check(space, request, &mut path.iter())?;
    check_kept(request, &mut path.iter(), &mut Deleted::default())?;
    Ok(path)
}

type Path<'p> = std::slice::Iter<'p, bool>;

/// The branches taken, in the order in which transactions are reached.
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

/// Refuses puts that keep something of a key deleted earlier on the path: [`check`] has seen it in the state before.
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
    // Odd: in etcd only the outermost header has a revision; nested ones are present and empty.
    Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
}

fn branch(txn: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn next(path: &mut Path<'_>) -> Result<bool, Stop> {
    path.next().copied().ok_or(Stop::Fault(Fault::Broken("a transaction has more branches than its path")))
}
