//! `DeleteRange`. After etcd's `txn/delete.go`.

use super::space::{Reads, Space};
use super::{header, wire};
use crate::Stop;
use bytes::Bytes;
use mvcc::Query;
use proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse};
use types::KeyRange;

/// Deletes a range of keys. The revision grows only if there are any.
pub(crate) fn delete_range<S: Space>(
    space: &mut S,
    request: &DeleteRangeRequest,
    reads: &mut Reads,
) -> Result<DeleteRangeResponse, Stop> {
    let range = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
    let prev_kvs = if request.prev_kv {
        reads.rows(space, Query::of(range.clone()))?.kvs.into_iter().map(wire).collect()
    } else {
        Vec::new()
    };
    let deleted = space.delete(&range)?;
    Ok(DeleteRangeResponse { header: header(space.revision()), deleted, prev_kvs })
}

/// Deletes one key if it exists. As in etcd, a revoked lease's keys are deleted one by one.
pub(crate) fn delete_key<S: Space>(space: &mut S, key: Bytes) -> Result<(), Stop> {
    space.delete(&KeyRange::point(key)).map(drop)
}
