//! Put. After etcd's `txn/put.go`.

use super::space::{Reads, Space};
use super::{header, wire};
use crate::{Fault, Refusal, Stop};
use mvcc::Query;
use proto::etcdserverpb::{PutRequest, PutResponse};
use types::KeyRange;

pub(crate) fn put<S: Space>(
    space: &mut S,
    request: &PutRequest,
    reads: &mut Reads,
) -> Result<PutResponse, Stop> {
    check(space, request)?;
    put_checked(space, request, reads)
}

/// Checks a put against the state before its transaction: etcd's `checkPut`.
pub(super) fn check<S: Space>(space: &S, request: &PutRequest) -> Result<(), Stop> {
    check_lease(space, request)?;
    if request.ignore_value || request.ignore_lease {
        let exists = space.meta(&request.key)?.is_some();
        return if exists { Ok(()) } else { Err(Refusal::KeyNotFound.into()) };
    }
    Ok(())
}

pub(super) fn put_checked<S: Space>(
    space: &mut S,
    request: &PutRequest,
    reads: &mut Reads,
) -> Result<PutResponse, Stop> {
    // The checks before the write, or before the transaction, found the key.
    const GONE: Stop = Stop::Fault(Fault::Broken("a put that keeps what was there was not checked"));
    let query = || Query::of(KeyRange::point(request.key.clone()));
    let prev_kv = if request.prev_kv { reads.rows(space, query())?.kvs.pop() } else { None };
    let value = if request.ignore_value {
        space.range(&query())?.kvs.pop().ok_or(GONE)?.value
    } else {
        request.value.clone()
    };
    let lease =
        if request.ignore_lease { space.meta(&request.key)?.ok_or(GONE)?.lease } else { request.lease };
    space.put(&request.key, value, lease)?;
    Ok(PutResponse { header: header(space.revision()), prev_kv: prev_kv.map(wire) })
}

fn check_lease<S: Space>(space: &S, request: &PutRequest) -> Result<(), Stop> {
    if request.lease == 0 || space.lease_exists(request.lease) {
        Ok(())
    } else {
        Err(Refusal::LeaseNotFound.into())
    }
}
