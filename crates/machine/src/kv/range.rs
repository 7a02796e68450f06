//! Range: parsed into mvcc's query, answered in wire types. After etcd's `txn/range.go`.

use super::space::{Reading, Reads, Space};
use super::{header, wire};
use crate::{Refusal, Stop};
use mvcc::{Order, Outline, Query, SortBy};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{RangeRequest, RangeResponse};
use types::KeyRange;

/// Answers a range. The header holds the current revision, whatever revision was asked for.
pub(crate) fn range<S: Space>(
    space: &S,
    request: &RangeRequest,
    reads: &mut Reads,
) -> Result<RangeResponse, Stop> {
    let answer = reads.rows(space, query(request))?;
    let kvs = answer.kvs.into_iter().map(wire).collect();
    Ok(RangeResponse { header: header(space.revision()), kvs, more: answer.more, count: answer.count })
}

/// Outlines the answer of [`range`].
pub(crate) fn outline(
    reading: &Reading<'_>,
    request: &RangeRequest,
    first_bytes: usize,
) -> Result<Outline, Stop> {
    Ok(reading.outline(&query(request), first_bytes)?)
}

/// etcd's `checkRange`. Odd: a negative revision means "now" in a range, but is refused here after a compaction.
pub(super) fn check<S: Space>(space: &S, request: &RangeRequest) -> Result<(), Stop> {
    match request.revision {
        0 => Ok(()),
        revision if revision > space.revision() => Err(Refusal::FutureRevision.into()),
        revision if revision < space.compact_revision() => Err(Refusal::Compacted.into()),
        _ => Ok(()),
    }
}

pub(super) fn query(request: &RangeRequest) -> Query {
    Query {
        range: KeyRange::from_wire(request.key.clone(), request.range_end.clone()),
        revision: request.revision,
        limit: request.limit,
        sort: sort(request),
        // Odd: with a target and no order, etcd takes the first keys in key order and sorts those.
        limit_first: request.sort_order() == SortOrder::None,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
        ..Query::default()
    }
}

/// Another target without an order means ascending. The API refuses numbers outside the enums; here they are zero.
fn sort(request: &RangeRequest) -> Option<(SortBy, Order)> {
    let by = match request.sort_target() {
        SortTarget::Key => SortBy::Key,
        SortTarget::Version => SortBy::Version,
        SortTarget::Create => SortBy::Create,
        SortTarget::Mod => SortBy::Mod,
        SortTarget::Value => SortBy::Value,
    };
    match (request.sort_target(), request.sort_order()) {
        (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => None,
        (_, SortOrder::None | SortOrder::Ascend) => Some((by, Order::Ascend)),
        (_, SortOrder::Descend) => Some((by, Order::Descend)),
    }
}
