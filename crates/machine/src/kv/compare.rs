//! A transaction's conditions. After etcd's `applyCompare` and `compareKV`.

use super::space::Space;
use crate::Stop;
use mvcc::{KeyMeta, Query};
use proto::etcdserverpb::Compare;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use std::cmp::Ordering;
use types::KeyRange;

/// Values of a range are compared so many bytes at a time: it may hold more than there is memory.
const PIECE_BYTES: usize = 1 << 20;

/// Whether all conditions hold now.
pub(super) fn all_hold<S: Space>(space: &S, compares: &[Compare]) -> Result<bool, Stop> {
    for compare in compares {
        if !holds(space, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the condition holds for every key of its range. Where there is no key, a value compares false whatever is
/// asked, and everything else compares as zero.
fn holds<S: Space>(space: &S, compare: &Compare) -> Result<bool, Stop> {
    let by_value = compare.target == CompareTarget::Value as i32;
    if compare.range_end.is_empty() && !by_value {
        let meta = space.meta(&compare.key)?;
        return Ok(meta_holds(compare, meta.as_ref()));
    }
    let range = KeyRange::from_wire(compare.key.clone(), compare.range_end.clone());
    if !by_value {
        return Ok(space.all_hold(&range, &mut |meta| meta_holds(compare, meta))?);
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

/// A number that was asked for under another target's name reads as zero, as in etcd.
fn meta_holds(compare: &Compare, meta: Option<&KeyMeta>) -> bool {
    let union = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => {
            let asked = if let Some(TargetUnion::Version(asked)) = union { *asked } else { 0 };
            meta.map_or(0, |meta| meta.version).cmp(&asked)
        }
        Ok(CompareTarget::Create) => {
            let asked = if let Some(TargetUnion::CreateRevision(asked)) = union { *asked } else { 0 };
            meta.map_or(0, |meta| meta.create_revision).cmp(&asked)
        }
        Ok(CompareTarget::Mod) => {
            let asked = if let Some(TargetUnion::ModRevision(asked)) = union { *asked } else { 0 };
            meta.map_or(0, |meta| meta.mod_revision).cmp(&asked)
        }
        Ok(CompareTarget::Lease) => {
            let asked = if let Some(TargetUnion::Lease(asked)) = union { *asked } else { 0 };
            meta.map_or(0, |meta| meta.lease).cmp(&asked)
        }
        // Unknown targets leave etcd's result at zero; values are compared by the caller.
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
        Err(_) => true, // as etcd
    }
}
