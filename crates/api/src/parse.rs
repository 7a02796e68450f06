//! Static validation: what can be said of a request without looking at any state.
//!
//! The rules and their order are etcd's (`server/etcdserver/api/v3rpc/key.go`): the first broken rule names the error.
//! What depends on state (an unknown lease, a compacted revision) is the machine's to refuse.

use crate::{intervals, status::Known};
use proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, range_request, request_op::Request,
};
use tonic::Status;

/// A range names a key, and its sort options are known.
pub fn range(request: &RangeRequest) -> Result<(), Known> {
    if request.key.is_empty() {
        return Err(Known::EmptyKey);
    }
    let order = range_request::SortOrder::try_from(request.sort_order);
    let target = range_request::SortTarget::try_from(request.sort_target);
    if order.is_err() || target.is_err() {
        return Err(Known::InvalidSortOption);
    }
    Ok(())
}

/// A streamed range also comes in key order and unfiltered.
pub fn range_stream(request: &RangeRequest) -> Result<(), Status> {
    range(request)?;
    if !default_order(request) {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    if filtered(request) {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
}

/// Whether the answer comes in the order in which the store keeps keys (etcd's `IsDefaultOrdering`).
pub fn default_order(request: &RangeRequest) -> bool {
    use range_request::{SortOrder, SortTarget};
    request.sort_order == SortOrder::None as i32
        || (request.sort_order == SortOrder::Ascend as i32 && request.sort_target == SortTarget::Key as i32)
}

/// Whether the request filters by revision.
pub fn filtered(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// A put names a key, and gives no value or lease where it asks to keep the stored one.
pub fn put(request: &PutRequest) -> Result<(), Known> {
    if request.key.is_empty() {
        return Err(Known::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Known::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Known::LeaseProvided);
    }
    Ok(())
}

/// A delete names a key.
pub fn delete(request: &DeleteRangeRequest) -> Result<(), Known> {
    if request.key.is_empty() { Err(Known::EmptyKey) } else { Ok(()) }
}

/// A transaction keeps within its budget of operations, each of them is valid, and no key is written twice.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Known> {
    operations(request, max_ops)?;
    intervals::check(&request.success)?;
    intervals::check(&request.failure)
}

/// A level may hold as many operations as its parent level left over.
fn operations(request: &TxnRequest, max_ops: usize) -> Result<(), Known> {
    let used = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = max_ops.checked_sub(used) else {
        return Err(Known::TooManyOps);
    };
    if request.compare.iter().any(|c| c.key.is_empty()) {
        return Err(Known::EmptyKey);
    }
    request.success.iter().chain(&request.failure).try_for_each(|op| operation(op, left))
}

fn operation(op: &RequestOp, max_ops: usize) -> Result<(), Known> {
    match &op.request {
        Some(Request::RequestRange(r)) => range(r),
        Some(Request::RequestPut(r)) => put(r),
        Some(Request::RequestDeleteRange(r)) => delete(r),
        Some(Request::RequestTxn(r)) => operations(r, max_ops),
        None => Err(Known::KeyNotFound),
    }
}

#[cfg(test)]
#[path = "tests/parse.rs"]
mod tests;
