//! The engine in memory, for tests, the simulator and the mirror.

use crate::{Batch, Engine, Family, Fault, Op, Rows, Snapshot, Visit};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Table = BTreeMap<Bytes, Bytes>;

/// Rows in ordered maps. Each flush copies them; [`MemoryEngine::crash`] returns to the last copy.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    state: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    rows: BTreeMap<Family, Table>,
    unflushed: Vec<Batch>,
    durable: BTreeMap<Family, Table>,
}

impl MemoryEngine {
    /// An engine without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state after a crash: the rows of the last flush.
    #[must_use]
    pub fn crash(&self) -> Self {
        self.crash_ahead(|_| 0)
    }

    /// The state after a crash in which some batches since the last flush had reached the disk, in order, as an
    /// engine that flushes by itself has it. `pick` is given their number and chooses how many.
    #[must_use]
    pub fn crash_ahead(&self, pick: impl FnOnce(usize) -> usize) -> Self {
        let state = self.lock();
        let mut durable = state.durable.clone();
        let kept = pick(state.unflushed.len());
        state.unflushed.iter().take(kept).for_each(|batch| apply(&mut durable, batch));
        Self { state: Mutex::new(Contents { rows: durable.clone(), unflushed: Vec::new(), durable }) }
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        // Only a panic in a `scan` visitor can poison the lock; the rows are intact.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(rows: &mut BTreeMap<Family, Table>, batch: &Batch) {
    for op in &batch.ops {
        match op {
            Op::Put(family, key, value) => {
                rows.entry(*family).or_default().insert(key.clone(), value.clone());
            }
            Op::Delete(family, key) => {
                rows.entry(*family).or_default().remove(key);
            }
        }
    }
}

/// The rows of a family from `from`, and before `to` where there is one.
fn range<'a>(
    rows: &'a BTreeMap<Family, Table>,
    family: Family,
    from: &[u8],
    to: Option<&[u8]>,
) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> {
    let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
    let table = rows.get(&family).filter(|_| to.is_none_or(|to| from < to));
    table.into_iter().flat_map(move |rows| rows.range::<[u8], _>((Bound::Included(from), upper)))
}

/// A copy of all rows; cheap, because bytes are shared.
struct Copied(BTreeMap<Family, Table>);

impl Rows for Copied {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.0.get(&family).and_then(|rows| rows.get(key).cloned()))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        let _ = range(&self.0, family, from, to).try_for_each(|(key, value)| visit(key, value));
        Ok(())
    }
}

impl Engine for MemoryEngine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.lock().rows.get(&family).and_then(|rows| rows.get(key).cloned()))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        // Copies rows (cheap: shared bytes) and releases the lock, so that the visitor may read the engine.
        let rows: Vec<(Bytes, Bytes)> = range(&self.lock().rows, family, from, to)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let _ = rows.iter().try_for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn snapshot(self: Arc<Self>) -> Box<Snapshot> {
        Box::new(Copied(self.lock().rows.clone()))
    }

    fn write(&self, batch: Batch) -> Result<(), Fault> {
        let mut state = self.lock();
        apply(&mut state.rows, &batch);
        state.unflushed.push(batch);
        Ok(())
    }

    fn flush(&self) -> Result<(), Fault> {
        let mut state = self.lock();
        let unflushed = std::mem::take(&mut state.unflushed);
        for batch in &unflushed {
            apply(&mut state.durable, batch);
        }
        Ok(())
    }

    fn compact(&self) -> Result<(), Fault> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::ControlFlow;

    #[test]
    fn a_crash_loses_what_was_not_flushed() {
        let engine = MemoryEngine::new();
        let put = |key: &'static str| {
            let mut batch = Batch::default();
            batch.put(Family::Meta, key, key);
            engine.write(batch).expect("memory writes do not fail");
        };
        put("kept");
        engine.flush().expect("memory flushes do not fail");
        put("lost");
        let after = engine.crash();
        assert!(after.get(Family::Meta, b"kept").expect("get").is_some());
        assert!(after.get(Family::Meta, b"lost").expect("get").is_none());
    }

    #[test]
    fn a_snapshot_does_not_see_what_is_written_after_it() {
        let engine = Arc::new(MemoryEngine::new());
        let write = |value: &'static str| {
            let mut batch = Batch::default();
            batch.put(Family::Meta, "key", value);
            batch.put(Family::Revs, value, value);
            engine.write(batch).expect("write");
        };
        write("before");
        let rows = Arc::clone(&engine).snapshot();
        write("later");
        assert_eq!(rows.get(Family::Meta, b"key").expect("get").as_deref(), Some(&b"before"[..]));
        let mut seen = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            seen.push(key.to_vec());
            ControlFlow::Continue(())
        };
        rows.scan(Family::Revs, b"", None, &mut visit).expect("scan");
        assert_eq!(seen, [b"before".to_vec()]);
        assert_eq!(engine.get(Family::Meta, b"key").expect("get").as_deref(), Some(&b"later"[..]));
    }

    #[test]
    fn a_scan_is_ordered_bounded_and_can_be_broken() {
        let engine = MemoryEngine::new();
        let mut batch = Batch::default();
        for key in ["c", "a", "b", "d"] {
            batch.put(Family::Revs, key, key);
        }
        engine.write(batch).expect("write");
        let mut seen = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            seen.push(key.to_vec());
            if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        engine.scan(Family::Revs, b"b", Some(b"d"), &mut visit).expect("scan");
        assert_eq!(seen, [b"b".to_vec(), b"c".to_vec()]);
        engine.scan(Family::Revs, b"d", Some(b"b"), &mut |_, _| unreachable!("empty")).expect("scan");
    }
}
