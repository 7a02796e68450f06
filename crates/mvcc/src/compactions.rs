//! The queue of physical compactions, and the hashes of finished ones.

use crate::hashing::Hashing;
use crate::query::HashKv;
use crate::row::Counters;
use engine::{Engine, Fault};
use std::collections::VecDeque;
use std::sync::Arc;

/// Hashes kept of the newest finished compactions: etcd's `hashStorageMaxSize`.
const HASHES_MAX: usize = 10;
/// Queued compactions; those beyond are merged into one without a hash, hence more than [`HASHES_MAX`].
const QUEUE_MAX: usize = 100;

pub(crate) struct Compactions {
    pub(crate) queue: VecDeque<Compaction>,
    hashes: Arc<Vec<HashKv>>,
}

pub(crate) struct Compaction {
    pub(crate) revision: i64,
    hash: HashStage,
}

enum HashStage {
    /// No hash: part of the history before it may already be removed.
    Without,
    Due,
    UnderWay(Hashing),
    Taken(HashKv),
}

impl Compactions {
    pub(crate) fn left(state: &Counters) -> Self {
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

    /// Queues a compaction that readers already observe.
    pub(crate) fn add(&mut self, revision: i64, hashed: bool) {
        if self.queue.len() < QUEUE_MAX {
            let hash = if hashed { HashStage::Due } else { HashStage::Without };
            self.queue.push_back(Compaction { revision, hash });
        } else if let Some(last) = self.queue.back_mut() {
            *last = Compaction { revision, hash: HashStage::Without };
        }
    }

    pub(crate) fn hashes(&self) -> Arc<Vec<HashKv>> {
        self.hashes.clone()
    }

    /// Takes over the hashes of a store that this one replaces: they are of the same history. etcd keeps them, too.
    pub(crate) fn keep_hashes_of(&mut self, replaced: &Self) {
        self.hashes = replaced.hashes();
    }

    pub(crate) fn finish(&mut self) {
        let Some(Compaction { hash: HashStage::Taken(hash), .. }) = self.queue.pop_front() else { return };
        let kept = self.hashes.len().saturating_sub(HASHES_MAX - 1);
        let newest = self.hashes[kept..].iter().copied();
        self.hashes = Arc::new(newest.chain([hash]).collect());
    }
}

impl Compaction {
    /// Continues the hash within the budget; returns whether it is complete.
    pub(crate) fn take_hash(
        &mut self,
        engine: &dyn Engine,
        finished: i64,
        budget: &mut usize,
    ) -> Result<bool, Fault> {
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
