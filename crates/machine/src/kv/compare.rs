//! Conditions of transactions. After etcd's `applyCompare` and `compareKV`.

use super::space::Space;
use crate::Stop;
use mvcc::{KeyMeta, Query};
use proto::etcdserverpb::Compare;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use std::cmp::Ordering;
use std::ops::ControlFlow;
use types::KeyRange;

/// Bytes of values of a range compared at a time: the range may not fit in memory.
const PIECE_BYTES: usize = 1 << 20;

pub(super) fn all_hold<S: Space>(space: &S, compares: &[Compare]) -> Result<bool, Stop> {
    for compare in compares {
        if !holds(space, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether it holds for every key of its range. Without a key, a value compares false, anything else as zero.
fn holds<S: Space>(space: &S, compare: &Compare) -> Result<bool, Stop> {
    let by_value = compare.target == CompareTarget::Value as i32;
    if compare.range_end.is_empty() && !by_value {
        let meta = space.meta(&compare.key)?;
        return Ok(meta_holds(compare, meta.as_ref()));
    }
    let range = KeyRange::from_wire(compare.key.clone(), compare.range_end.clone());
    if !by_value {
        let (mut has_keys, mut all) = (false, true);
        space.metas(&range, &mut |_, meta| {
            has_keys = true;
            all = meta_holds(compare, Some(&meta));
            if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        return Ok(if has_keys { all } else { meta_holds(compare, None) });
    }
    let asked = match &compare.target_union {
        Some(TargetUnion::Value(value)) => &value[..],
        _ => &[],
    };
    let mut query = Query { max_bytes: PIECE_BYTES, ..Query::of(range) };
    let mut has_keys = false;
    loop {
        let answer = space.range(&query)?;
        has_keys |= !answer.kvs.is_empty();
        if !answer.kvs.iter().all(|kv| result_holds(compare, kv.value[..].cmp(asked))) {
            return Ok(false);
        }
        match answer.kvs.last() {
            Some(last) if answer.more => query.range = query.range.after(&last.key),
            _ => return Ok(has_keys),
        }
    }
}

/// As in etcd, an operand given for another target reads as zero.
fn meta_holds(compare: &Compare, meta: Option<&KeyMeta>) -> bool {
    // With a value of another kind, as in etcd, 0 is asked for.
    macro_rules! compared {
        ($field:ident, $kind:ident) => {{
            let asked = if let Some(TargetUnion::$kind(asked)) = compare.target_union { asked } else { 0 };
            meta.map_or(0, |meta| meta.$field).cmp(&asked)
        }};
    }
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => compared!(version, Version),
        Ok(CompareTarget::Create) => compared!(create_revision, CreateRevision),
        Ok(CompareTarget::Mod) => compared!(mod_revision, ModRevision),
        Ok(CompareTarget::Lease) => compared!(lease, Lease),
        // An unknown target leaves etcd's result at zero; the caller compares values.
        Ok(CompareTarget::Value) | Err(_) => Ordering::Equal,
    };
    result_holds(compare, ordering)
}

fn result_holds(compare: &Compare, ordering: Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true, // as in etcd
    }
}
