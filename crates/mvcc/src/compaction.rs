//! Physical compaction: removes the versions that no revision from the compacted one on can see, after hashing them.
//!
//! ```text
//! Group::compact(R) ─▶ queue ─▶ first of it: [hash the history up to R] ─▶ remove ─▶ finished = R, hash stored ─▶ next
//! ```
//!
//! Compactions run one after the other, as in etcd's FIFO scheduler, because each leaves a hash ([`crate::hashing`]).
//! Removal walks the history from the last compaction's revision (inclusive) to the new one. Each row
//! * removes its predecessor, unless that is a tombstone: the key has a newer version at or before the compaction;
//! * removes itself if it is a tombstone, and the dead key if that is still its newest version, unless the tombstone is
//!   exactly at the new revision: a watch from there must still see the delete (etcd issue 19179). The next compaction
//!   removes it, which is why the walk starts inclusively.
//!
//! The position of the walk is a row in the same batch as the deletions, so it resumes after a crash without counting
//! twice. Queue and hashes are in memory only: after a restart the rest is done without hashes, as in etcd. Unlike
//! etcd, a compaction requested while another runs leaves a hash too: `HashKV` must not depend on the speed of
//! compaction.

use crate::index::Index;
use crate::keyvalue::Fields;
use crate::record::Head;
use crate::row::{self, Counters, DEAD_PREFIX, Tail, broken, logical_len};
use crate::store::Store;
use crate::walk::walk;
use engine::{Batch, Engine, Family, Fault, Op};
use types::Revision;

impl Store {
    /// Compacts `budget_rows` rows of history, between groups; returns whether there is more to do. While views from
    /// before the compaction are held, it does nothing and returns true: see [`Store::compaction_waits`].
    pub fn compact_step(&mut self, budget_rows: usize) -> Result<bool, Fault> {
        if self.compaction_waits() {
            return Ok(true);
        }
        let Some(first) = self.compactions.queue.front_mut() else { return Ok(false) };
        let mut budget = budget_rows.max(1);
        if !first.take_hash(&*self.engine, self.state.finished, &mut budget)? {
            return Ok(true);
        }
        let mut state = self.state;
        if state.target == state.finished {
            state.target = first.revision;
            state.cursor = Revision::new(state.finished.max(0), 0);
        }
        let mut removal = Removal { state, index: self.index.clone(), batch: Batch::default() };
        removal.step(&*self.engine, &mut budget)?;
        let Removal { state, index, batch } = removal;
        let rows = batch.ops.iter().filter(|op| matches!(op, Op::Delete(Family::Revs, _)));
        self.tally.compacted_rows += rows.count() as u64;
        if state.finished == state.target {
            self.compactions.finish();
        }
        self.publish(batch, index, state)?;
        Ok(!self.compactions.queue.is_empty())
    }

    /// Whether compaction waits for readers: views from before the next logical compaction in the queue.
    pub fn compaction_waits(&self) -> bool {
        let Some(next) = self.compactions.queue.front() else { return false };
        self.past.iter().filter_map(std::sync::Weak::upgrade).any(|epoch| epoch.compact < next.revision)
    }
}

struct Removal {
    state: Counters,
    index: Index,
    batch: Batch,
}

impl Removal {
    fn step(&mut self, engine: &dyn Engine, budget: &mut usize) -> Result<(), Fault> {
        let Counters { mut cursor, target, .. } = self.state;
        let done = walk(engine, &mut cursor, target, budget, &mut |at, kv, tail| self.pass(at, kv, tail))?;
        self.state.cursor = cursor;
        if done {
            self.state.finished = target;
            self.state.cursor = Revision::new(target, 0);
        }
        Ok(())
    }

    fn pass(&mut self, at: Revision, kv: &[u8], tail: &Tail) -> Result<(), Fault> {
        // The last compaction walked the rows at its own revision, but kept the tombstones there.
        let seen_before = at.main == self.state.finished;
        if let Some(previous) = tail.previous.filter(|_| !tail.create && !seen_before) {
            self.batch.delete(Family::Revs, previous.revision.encode().to_vec());
            self.state.bytes -= logical_len(previous.size as usize, false);
        }
        if tail.tombstone && at.main < self.state.target {
            self.batch.delete(Family::Revs, at.encode().to_vec());
            self.state.bytes -= logical_len(kv.len(), true);
            let fields = Fields::parse(kv).ok_or_else(|| broken("Revs", &at.encode()))?;
            self.forget(&kv[fields.key], at);
        }
        Ok(())
    }

    /// Removes a dead key when its last trace goes.
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
