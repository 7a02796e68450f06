//! Scans whose visitor may fail.

use engine::{Engine, Family, Fault};
use std::ops::ControlFlow;

pub(crate) type TryVisit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), Fault> + 'a;

/// Visits every row of a part of a family, until the visitor fails.
pub(crate) fn try_scan(
    engine: &dyn Engine,
    family: Family,
    from: &[u8],
    to: Option<&[u8]>,
    visit: &mut TryVisit<'_>,
) -> Result<(), Fault> {
    scan_while(engine, family, from, to, |key, row| visit(key, row).map(ControlFlow::Continue))
}

/// Visits the rows of a part of a family in ascending key order, until the visitor breaks or fails.
pub(crate) fn scan_while<E: From<Fault>>(
    engine: &dyn Engine,
    family: Family,
    from: &[u8],
    to: Option<&[u8]>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let mut failed = None;
    engine.scan(family, from, to, &mut |key, row| {
        visit(key, row).unwrap_or_else(|error| {
            failed = Some(error);
            ControlFlow::Break(())
        })
    })?;
    failed.map_or(Ok(()), Err)
}
