//! Physical compaction: a walk over the history that removes what no revision from the compacted one on can see.
//!
//! From the last compaction's revision (inclusive) to the new one, each row in turn:
//! * removes its predecessor, unless that is a tombstone: the key has a newer version at or before the compaction;
//! * removes itself when it is a tombstone, and the deleted key when that is still its newest version, unless the
//!   tombstone stands exactly at the new revision: a watch from there must still see the delete (etcd issue 19179). It
//!   goes next time, which is why the walk begins inclusively.
//!
//! Where the walk stands is a row of the same batch as its deletions, so it resumes after a crash without counting twice.

use crate::index::Index;
use crate::keyvalue::Fields;
use crate::record::Head;
use crate::row::{self, DEAD_PREFIX, State, Tail, broken, logical_len};
use crate::store::Store;
use engine::{Batch, Family, Fault};
use std::ops::ControlFlow;
use types::Revision;

impl Store {
    /// Does a bounded part of the physical compaction, `budget_rows` rows of history. Call it between groups; true =
    /// there is more to do.
    ///
    /// While Views from before the logical compaction are held it does nothing and says true: call it again later, not
    /// at once ([`Store::compaction_waits`]).
    pub fn compact_step(&mut self, budget_rows: usize) -> Result<bool, Fault> {
        let mut state = self.state;
        if state.target == state.finished {
            if state.compact == state.finished {
                return Ok(false);
            }
            state.target = state.compact;
            state.cursor = Revision::new(state.finished.max(0), 0);
        }
        if self.waits_for(state.target) {
            return Ok(true);
        }
        let mut step = Step { state, index: self.index.clone(), batch: Batch::default(), rows: 0 };
        step.walk(self, budget_rows.max(1))?;
        let state = step.state;
        self.publish(step.batch, step.index, state)?;
        Ok(state.finished < state.compact)
    }

    /// Whether compaction is held back by readers: Views from before the logical compaction that is under way or next.
    pub fn compaction_waits(&self) -> bool {
        let State { finished, target, compact, .. } = self.state;
        finished < compact && self.waits_for(if target == finished { compact } else { target })
    }

    fn waits_for(&self, target: i64) -> bool {
        self.past.iter().filter_map(std::sync::Weak::upgrade).any(|epoch| epoch.compact < target)
    }
}

struct Step {
    state: State,
    index: Index,
    batch: Batch,
    rows: usize,
}

impl Step {
    fn walk(&mut self, store: &Store, budget_rows: usize) -> Result<(), Fault> {
        let (from, to) = (self.state.cursor.encode(), Revision::new(self.state.target + 1, 0).encode());
        let mut failed = None;
        store.engine.scan(Family::Revs, &from, Some(&to), &mut |key, value| {
            if self.rows == budget_rows {
                // One more row: there is more to do.
                self.rows += 1;
                return ControlFlow::Break(());
            }
            self.rows += 1;
            if let Err(error) = self.pass(key, value) {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if self.rows <= budget_rows {
            self.state.finished = self.state.target;
            self.state.cursor = Revision::new(self.state.finished, 0);
        }
        Ok(())
    }

    fn pass(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        let at = Revision::decode(key).ok_or_else(|| broken("Revs", key))?;
        let (kv, tail) = Tail::split(at, value).ok_or_else(|| broken("Revs", key))?;
        // The rows at the last compaction's own revision were walked then, all but the removal of tombstones.
        let seen_before = at.main == self.state.finished;
        if let Some(previous) = tail.previous.filter(|_| !tail.create && !seen_before) {
            self.batch.delete(Family::Revs, previous.revision.encode().to_vec());
            self.state.bytes -= logical_len(previous.size as usize, false);
        }
        if tail.tombstone && at.main < self.state.target {
            self.batch.delete(Family::Revs, key.to_vec());
            self.state.bytes -= logical_len(kv.len(), true);
            let fields = Fields::parse(kv).ok_or_else(|| broken("Revs", key))?;
            self.forget(&kv[fields.key], at);
        }
        self.state.cursor = Revision::new(at.main, at.sub + 1);
        Ok(())
    }

    /// Removes a deleted key whose last trace goes.
    fn forget(&mut self, key: &[u8], tombstone: Revision) {
        if self.index.get(key).map(|record| Head::of(record).newest) != Some(tombstone) {
            return;
        }
        self.index.remove(key);
        let mut dead = DEAD_PREFIX.to_vec();
        row::escape(key, &mut dead);
        self.batch.delete(Family::Meta, dead);
    }
}
