//! Validation of requests that needs no state. Rules and order are etcd's (`server/etcdserver/api/v3rpc/key.go`): the
//! first broken rule decides the error.

use crate::{intervals, status::EtcdError};
use proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, range_request, request_op::Request,
};
use tonic::Status;

/// Checks that a range has a key and known sort options.
pub fn range(request: &RangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    let order = range_request::SortOrder::try_from(request.sort_order);
    let target = range_request::SortTarget::try_from(request.sort_target);
    if order.is_err() || target.is_err() {
        return Err(EtcdError::InvalidSortOption);
    }
    Ok(())
}

/// Checks a streamed range, which must also be in key order and unfiltered.
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

/// Whether the result is in the store's key order (etcd's `IsDefaultOrdering`).
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

/// Checks that a put has a key, and no value or lease if it keeps the stored one.
pub fn put(request: &PutRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(EtcdError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(EtcdError::LeaseProvided);
    }
    Ok(())
}

/// Checks that a delete has a key.
pub fn delete(request: &DeleteRangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() { Err(EtcdError::EmptyKey) } else { Ok(()) }
}

/// Checks the number of operations, each operation, and that no key is written twice.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), EtcdError> {
    operations(request, max_ops)?;
    intervals::check(&request.success)?;
    intervals::check(&request.failure)
}

/// A nested level may have as many operations as its parent left.
fn operations(request: &TxnRequest, max_ops: usize) -> Result<(), EtcdError> {
    let used = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = max_ops.checked_sub(used) else {
        return Err(EtcdError::TooManyOps);
    };
    if request.compare.iter().any(|c| c.key.is_empty()) {
        return Err(EtcdError::EmptyKey);
    }
    request.success.iter().chain(&request.failure).try_for_each(|op| operation(op, left))
}

fn operation(op: &RequestOp, max_ops: usize) -> Result<(), EtcdError> {
    match &op.request {
        Some(Request::RequestRange(r)) => range(r),
        Some(Request::RequestPut(r)) => put(r),
        Some(Request::RequestDeleteRange(r)) => delete(r),
        Some(Request::RequestTxn(r)) => operations(r, max_ops),
        None => Err(EtcdError::KeyNotFound),
    }
}

#[cfg(test)]
#[path = "tests/parse.rs"]
mod tests;
