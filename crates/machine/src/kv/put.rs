//! Put. After etcd's `txn/put.go`.

use super::space::Space;
use super::{header, wire};
use crate::{Fault, Refusal, Stop};
use mvcc::{KeyValue, Query};
use proto::etcdserverpb::{PutRequest, PutResponse};
use types::KeyRange;

/// Checks and writes. Refused before anything is written.
pub(crate) fn put<S: Space>(space: &mut S, request: &PutRequest) -> Result<PutResponse, Stop> {
    check_lease(space, request)?;
    let previous = previous(space, request)?;
    check_previous(request, previous.as_ref())?;
    write(space, request, previous)
}

/// Before a transaction: etcd's `checkPut`, against the state before it.
pub(super) fn check<S: Space>(space: &S, request: &PutRequest) -> Result<(), Stop> {
    check_lease(space, request)?;
    if request.ignore_value || request.ignore_lease {
        let exists = space.meta(&request.key)?.is_some();
        return if exists { Ok(()) } else { Err(Refusal::KeyNotFound.into()) };
    }
    Ok(())
}

/// Inside a transaction, whose checks are done.
pub(super) fn put_checked<S: Space>(space: &mut S, request: &PutRequest) -> Result<PutResponse, Stop> {
    let previous = previous(space, request)?;
    write(space, request, previous)
}

fn write<S: Space>(
    space: &mut S,
    request: &PutRequest,
    previous: Option<KeyValue>,
) -> Result<PutResponse, Stop> {
    // The checks before the write, or before the transaction, have found the key.
    const GONE: Stop = Stop::Fault(Fault::Broken("a put that keeps what was there was not checked"));
    let value = match (request.ignore_value, &previous) {
        (false, _) => request.value.clone(),
        (true, Some(previous)) => previous.value.clone(),
        (true, None) => return Err(GONE),
    };
    let lease = match (request.ignore_lease, &previous) {
        (false, _) => request.lease,
        (true, Some(previous)) => previous.lease,
        (true, None) => return Err(GONE),
    };
    space.put(&request.key, value, lease)?;
    let prev_kv = if request.prev_kv { previous.map(wire) } else { None };
    Ok(PutResponse { header: header(space.revision()), prev_kv })
}

fn check_lease<S: Space>(space: &S, request: &PutRequest) -> Result<(), Stop> {
    if request.lease == 0 || space.lease_exists(request.lease) {
        Ok(())
    } else {
        Err(Refusal::LeaseNotFound.into())
    }
}

fn check_previous(request: &PutRequest, previous: Option<&KeyValue>) -> Result<(), Stop> {
    if (request.ignore_value || request.ignore_lease) && previous.is_none() {
        return Err(Refusal::KeyNotFound.into());
    }
    Ok(())
}

/// What is there now, read only if something asks for it.
fn previous<S: Space>(space: &S, request: &PutRequest) -> Result<Option<KeyValue>, Stop> {
    if !(request.ignore_value || request.ignore_lease || request.prev_kv) {
        return Ok(None);
    }
    let query = Query::of(KeyRange::point(request.key.clone()));
    Ok(space.range(&query)?.kvs.into_iter().next())
}
