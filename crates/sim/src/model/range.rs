//! Answers ranges from all keys: filter, sort, limit.

use super::{Keys, header};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::mvccpb::KeyValue;
use types::KeyRange;

/// The answer on a member at this revision.
pub(super) fn select(keys: &Keys, request: &pb::RangeRequest, revision: i64) -> pb::RangeResponse {
    let range = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
    let mut kvs: Vec<&KeyValue> = keys.values().filter(|kv| range.contains(&kv.key)).collect();
    let count = i64::try_from(kvs.len()).expect("a few keys");
    let answer = pb::RangeResponse { header: header(revision), count, ..Default::default() };
    if request.count_only {
        return answer;
    }
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    let is_filtered = filters.iter().any(|bound| *bound != 0);
    // Odd, as in etcd: without an order it takes the first keys and one more, and sorts those.
    if limit > 0 && request.sort_order() == SortOrder::None && !is_filtered {
        kvs.truncate(limit + 1);
    }
    kvs.retain(|kv| passes(kv, request));
    sort(&mut kvs, request);
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    let by_value = request.sort_target() == SortTarget::Value;
    let shown = |kv: &KeyValue| match (request.keys_only, by_value) {
        (false, _) => kv.clone(),
        (true, true) => KeyValue { value: Bytes::new(), ..kv.clone() },
        // Odd, as in etcd since 3.7: it answers from its index, which has no leases.
        (true, false) => KeyValue { value: Bytes::new(), lease: 0, ..kv.clone() },
    };
    pb::RangeResponse { kvs: kvs.into_iter().map(shown).collect(), more, ..answer }
}

fn passes(kv: &KeyValue, request: &pb::RangeRequest) -> bool {
    let within = |number: i64, min: i64, max: i64| (min == 0 || number >= min) && (max == 0 || number <= max);
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

/// Ties stay in key order.
fn sort(kvs: &mut [&KeyValue], request: &pb::RangeRequest) {
    let compare = |a: &&KeyValue, b: &&KeyValue| match request.sort_target() {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    match request.sort_order() {
        SortOrder::None | SortOrder::Ascend => kvs.sort_by(compare),
        SortOrder::Descend => kvs.sort_by(|a, b| compare(b, a)),
    }
}
