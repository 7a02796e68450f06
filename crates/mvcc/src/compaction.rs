//! Physical compaction: what no revision from the compacted one on can see is hashed with the rest, then removed.
//!
//! ```text
//! Group::compact(R) ─▶ queue ─▶ first of it: [hash the history up to R] ─▶ remove ─▶ finished = R, hash stored ─▶ next
//! ```
//!
//! Compactions are done one after the other, as etcd's FIFO scheduler does, for each leaves a hash of its own
//! ([`crate::hashing`]). Removal walks the history from the last compaction's revision (inclusive) to the new one, each
//! row in turn:
//! * removes its predecessor, unless that is a tombstone: the key has a newer version at or before the compaction;
//! * removes itself when it is a tombstone, and the deleted key when that is still its newest version, unless the
//!   tombstone stands exactly at the new revision: a watch from there must still see the delete (etcd issue 19179). It
//!   goes next time, which is why the walk begins inclusively.
//!
//! Where removal stands is a row of the same batch as its deletions, so it resumes after a crash without counting twice.
//! The queue and the hashes are in memory only: after a restart what is left to do is done without hashes, as in etcd.
//!
//! etcd keeps no hash either of a compaction that is asked for while the one before still runs: it cannot tell that from a
//! crash. Here it is kept, so that what `HashKV` answers does not depend on how fast compaction is.

use crate::hash::HashKv;
use crate::hashing::Hashing;
use crate::index::Index;
use crate::keyvalue::Fields;
use crate::record::Head;
use crate::row::{self, DEAD_PREFIX, State, Tail, broken, logical_len};
use crate::store::Store;
use engine::{Batch, Engine, Family, Fault, Op};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use types::Revision;

/// Hashes of compactions kept, the newest: etcd's `hashStorageMaxSize`.
const HASHES_MAX: usize = 10;
/// Compactions that wait, in compactions: those beyond are done as one, without a hash. More than [`HASHES_MAX`], so
/// that only readers who hold their Views through that many compactions make a hash go missing.
const QUEUE_MAX: usize = 100;

/// The compactions to be done, and what those that were done have left.
pub(crate) struct Compactions {
    queue: VecDeque<Compaction>,
    /// The newest hashes, oldest first.
    hashes: Arc<Vec<HashKv>>,
}

struct Compaction {
    revision: i64,
    hash: HashStage,
}

/// How far the hash of a compaction is.
enum HashStage {
    /// None is taken: of the history before it some may be removed already.
    Without,
    Due,
    UnderWay(Hashing),
    Taken(HashKv),
}

impl Compactions {
    /// What is left to do when the store is opened.
    pub(crate) fn left(state: &State) -> Self {
        let mut queue = VecDeque::new();
        let mut from = state.finished;
        for revision in [state.target, state.compact] {
            if revision != from {
                queue.push_back(Compaction { revision, hash: HashStage::Without });
                from = revision;
            }
        }
        Self { queue, hashes: Arc::default() }
    }

    /// Adds a compaction that readers know of already.
    pub(crate) fn add(&mut self, revision: i64, hashed: bool) {
        if self.queue.len() < QUEUE_MAX {
            let hash = if hashed { HashStage::Due } else { HashStage::Without };
            self.queue.push_back(Compaction { revision, hash });
        } else if let Some(last) = self.queue.back_mut() {
            *last = Compaction { revision, hash: HashStage::Without };
        }
    }

    /// The hashes readers see.
    pub(crate) fn hashes(&self) -> Arc<Vec<HashKv>> {
        self.hashes.clone()
    }

    /// The first is done: its hash is kept.
    fn finish(&mut self) {
        let Some(Compaction { hash: HashStage::Taken(hash), .. }) = self.queue.pop_front() else { return };
        let kept = self.hashes.len().saturating_sub(HASHES_MAX - 1);
        let newest = self.hashes[kept..].iter().copied();
        self.hashes = Arc::new(newest.chain([hash]).collect());
    }
}

impl Store {
    /// Does a bounded part of the physical compaction, `budget_rows` rows of history. Call it between groups; true =
    /// there is more to do.
    ///
    /// While Views from before the logical compaction are held it does nothing and says true: call it again later, not
    /// at once ([`Store::compaction_waits`]).
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

    /// Whether compaction is held back by readers: Views from before the logical compaction that is to be done next.
    pub fn compaction_waits(&self) -> bool {
        let Some(next) = self.compactions.queue.front() else { return false };
        self.past.iter().filter_map(std::sync::Weak::upgrade).any(|epoch| epoch.compact < next.revision)
    }
}

impl Compaction {
    /// Takes the hash as far as the budget goes; true = there is nothing more to take.
    fn take_hash(&mut self, engine: &dyn Engine, finished: i64, budget: &mut usize) -> Result<bool, Fault> {
        if let HashStage::Due = self.hash {
            self.hash = HashStage::UnderWay(Hashing::new(finished, self.revision));
        }
        if let HashStage::UnderWay(hashing) = &mut self.hash {
            let Some(hash) = hashing.step(engine, budget)? else { return Ok(false) };
            self.hash = HashStage::Taken(hash);
        }
        Ok(true)
    }
}

/// Called with each row of the history: where it is, its `KeyValue` and the rest.
pub(crate) type VisitRow<'a> = dyn FnMut(Revision, &[u8], &Tail) -> Result<(), Fault> + 'a;

/// Walks the history from the cursor to the end of a main revision, in order, and moves the cursor and the budget, in
/// rows; true = it came to the end.
pub(crate) fn walk(
    engine: &dyn Engine,
    cursor: &mut Revision,
    last: i64,
    budget: &mut usize,
    visit: &mut VisitRow<'_>,
) -> Result<bool, Fault> {
    let (mut result, from, to) = (Ok(true), cursor.encode(), Revision::new(last + 1, 0).encode());
    engine.scan(Family::Revs, &from, Some(&to), &mut |key, value| {
        if *budget == 0 {
            result = Ok(false);
            return ControlFlow::Break(());
        }
        *budget -= 1;
        let row =
            Revision::decode(key).and_then(|at| Tail::split(at, value).map(|(kv, tail)| (at, kv, tail)));
        let visited = row.ok_or_else(|| broken("Revs", key)).and_then(|(at, kv, tail)| {
            *cursor = Revision::new(at.main, at.sub + 1);
            visit(at, kv, &tail)
        });
        match visited {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                result = Err(error);
                ControlFlow::Break(())
            }
        }
    })?;
    result
}

struct Removal {
    state: State,
    index: Index,
    batch: Batch,
}

impl Removal {
    fn step(&mut self, engine: &dyn Engine, budget: &mut usize) -> Result<(), Fault> {
        let State { mut cursor, target, .. } = self.state;
        let done = walk(engine, &mut cursor, target, budget, &mut |at, kv, tail| self.pass(at, kv, tail))?;
        self.state.cursor = cursor;
        if done {
            self.state.finished = target;
            self.state.cursor = Revision::new(target, 0);
        }
        Ok(())
    }

    fn pass(&mut self, at: Revision, kv: &[u8], tail: &Tail) -> Result<(), Fault> {
        // The rows at the last compaction's own revision were walked then, all but the removal of tombstones.
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
