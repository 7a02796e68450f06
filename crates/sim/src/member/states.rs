//! The states on a member's disks: the one in use, those of snapshots that the log has not recorded, whole or not, and
//! those that were in use before.

use crate::drawn::count_draw;
use engine::{Engine as _, MemoryEngine};
use machine::{Fault, Point};
use raft_node::bootstrap;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use types::{Index, lock};

/// Clones share it, as they would a directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct States(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    /// By the index of the snapshot that each came with; 0 = none.
    all: BTreeMap<Index, Arc<MemoryEngine>>,
    /// The one that its member went on from last.
    current: Index,
}

impl States {
    /// The disks of a new member: a state of nothing.
    pub(crate) fn new() -> Self {
        let states = Self::default();
        states.contents().all.insert(0, Arc::default());
        states
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        lock(&self.0)
    }

    /// The state that a starting member goes on from, if there is one; the others are removed.
    pub(crate) fn at_start(&self, first_index: Index) -> Result<Option<Arc<MemoryEngine>>, Fault> {
        let mut contents = self.contents();
        let mut points = Vec::new();
        for (snapshot, engine) in &contents.all {
            points.push((*snapshot, Point::of(&*Arc::clone(engine).snapshot())?.index));
        }
        let current = bootstrap::current_state(first_index, points.iter().copied());
        let Some((current, engine)) =
            current.and_then(|current| Some((current, contents.all.get(&current)?.clone())))
        else {
            return Ok(None);
        };
        if current > contents.current {
            count_draw("snapshot recorded, and its member crashed");
        }
        if contents.all.keys().any(|snapshot| *snapshot >= first_index) {
            count_draw("snapshot staged, and its member crashed");
        }
        contents.all = BTreeMap::from([(current, Arc::clone(&engine))]);
        contents.current = current;
        Ok(Some(engine))
    }

    /// Whether its member went on from a snapshot: then it never had the log before that.
    pub(crate) fn are_a_snapshots(&self) -> bool {
        self.contents().current > 0
    }

    /// Makes room for the state of a snapshot, unless there is one.
    pub(crate) fn begin(&self, snapshot: Index) -> Option<Arc<MemoryEngine>> {
        let mut contents = self.contents();
        if contents.all.contains_key(&snapshot) {
            return None;
        }
        let engine = Arc::new(MemoryEngine::new());
        contents.all.insert(snapshot, Arc::clone(&engine));
        Some(engine)
    }

    /// The member goes on from this one.
    pub(crate) fn switch(&self, snapshot: Index) -> Option<Arc<MemoryEngine>> {
        let mut contents = self.contents();
        let engine = contents.all.get(&snapshot).cloned()?;
        contents.current = snapshot;
        Some(engine)
    }

    /// Removes what is not needed: the states before the one in use, and snapshots that the member has come further than
    /// without them.
    pub(crate) fn tidy(&self, applied: Index) {
        let mut contents = self.contents();
        let current = contents.current;
        contents.all.retain(|snapshot, _| {
            let is_late = *snapshot > current && *snapshot <= applied;
            if is_late {
                count_draw("snapshot ignored as old");
            }
            *snapshot >= current && !is_late
        });
    }

    /// Loses what was not flushed. `kept` is given the number of batches that were not, and says how many had reached the
    /// disk.
    pub(crate) fn crash(&self, kept: impl Fn(usize) -> usize) {
        for engine in self.contents().all.values_mut() {
            *engine = Arc::new(engine.crash_ahead(&kept));
        }
    }
}
