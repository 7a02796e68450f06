//! Walks the history, a few rows at a time.

use crate::row::{Tail, broken};
use crate::scan::scan_while;
use engine::{Engine, Family, Fault};
use std::ops::ControlFlow;
use types::Revision;

pub(crate) type VisitRow<'a> = dyn FnMut(Revision, &[u8], &Tail) -> Result<(), Fault> + 'a;

/// Walks the history from the cursor, which it advances, to the end of a main revision, within a budget of rows, which
/// it lowers; returns whether it reached the end.
pub(crate) fn walk(
    engine: &dyn Engine,
    cursor: &mut Revision,
    last: i64,
    budget: &mut usize,
    visit: &mut VisitRow<'_>,
) -> Result<bool, Fault> {
    let (mut is_over, from, to) = (true, cursor.encode(), Revision::new(last + 1, 0).encode());
    scan_while(engine, Family::Revs, &from, Some(&to), |key, value| {
        if *budget == 0 {
            is_over = false;
            return Ok(ControlFlow::Break(()));
        }
        *budget -= 1;
        let at = Revision::decode(key).ok_or_else(|| broken("Revs", key))?;
        let (kv, tail) = Tail::split(at, value).ok_or_else(|| broken("Revs", key))?;
        *cursor = Revision::new(at.main, at.sub + 1);
        visit(at, kv, &tail).map(ControlFlow::Continue)
    })?;
    Ok(is_over)
}
