//! A view: the key space as of one applied group, readable from any thread for as long as it is held.

use crate::epoch::Epoch;
use crate::index::Index;
use crate::options::Options;
use crate::query::{Answer, HashKv, Query, ReadError};
use crate::read::Reader;
use crate::record::{self, Head, KeyMeta};
use crate::row::{Counters, Version, broken, corrupt};
use crate::scan::scan_while;
use crate::tally::Tally;
use crate::{Effort, KeyValue};
use bytes::Bytes;
use engine::{Engine, Family};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use types::{KeyRange, Revision};

/// The size of etcd's empty backend on disk, bytes: five pages.
const BASE_BYTES: i64 = 20 * 1024;

/// The size of the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// etcd's dbSize: 20 KiB plus what its backend would hold of every version not yet removed. Compaction lowers it.
    pub total_bytes: i64,
    /// etcd's dbSizeInUse. The same number here: removals leave no holes.
    pub in_use_bytes: i64,
    /// The number of live keys.
    pub keys: i64,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A put of a key that did not exist.
    Create,
    /// A put of a key that existed.
    Modify,
    /// A deletion of the key.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision of the change.
    pub at: Revision,
    /// What happened to the key.
    pub kind: EventKind,
    /// The key after the change; if deleted, only key and mod revision are set.
    pub kv: KeyValue,
    /// The previous version, unless the key was created: for [`View::version`].
    pub previous: Option<Revision>,
}

/// The key space at one revision. Cheap to share; reads take no lock. While it is held, no version it can read is
/// removed.
#[derive(Clone)]
pub struct View {
    pub(crate) state: Counters,
    pub(crate) index: Index,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) epoch: Arc<Epoch>,
    /// Hashes of the newest compactions, oldest first.
    pub(crate) hashes: Arc<Vec<HashKv>>,
    pub(crate) tally: Tally,
    pub(crate) options: Options,
    pub(crate) replaced_from: i64,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("state", &self.state).finish_non_exhaustive()
    }
}

/// The usage of a range at the newest revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The number of live keys.
    pub keys: i64,
    /// Bytes of their newest versions, as `KeyValue`s.
    pub bytes: i64,
}

impl View {
    /// Hashes that the newest finished compactions left, oldest first, at most ten; none survives a restart.
    pub fn compaction_hashes(&self) -> &[HashKv] {
        &self.hashes
    }

    /// Whether newer views can read everything that this one can, at its revision: false within a transaction.
    pub fn is_whole(&self) -> bool {
        self.replaced_from == i64::MAX
    }

    /// Counts a range's keys and their bytes. Walks the index, some 0.1 µs a key, and reads nothing from the engine.
    pub fn usage(&self, range: &KeyRange) -> Usage {
        let mut usage = Usage::default();
        self.index.visit(range, &[], &mut |_, record| {
            if record::is_live(record) {
                usage.keys += 1;
                usage.bytes += i64::from(Head::of(record).size);
            }
            ControlFlow::Continue(())
        });
        usage
    }

    /// The counters as of this view, since the store was opened.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The newest main revision; 1 in an empty store.
    pub fn revision(&self) -> i64 {
        self.state.revision
    }

    /// The oldest readable revision; −1 before any compaction.
    pub fn compact_revision(&self) -> i64 {
        self.state.compact
    }

    /// The revision before which compaction has removed the history; −1 = none yet.
    pub fn compaction_done(&self) -> i64 {
        self.state.finished
    }

    /// Answers a query, without a budget.
    pub fn range(&self, query: &Query) -> Result<Answer, ReadError> {
        self.reader().range(query)
    }

    /// This view's reads within a budget.
    pub fn bounded<'a>(&'a self, effort: &'a Effort<'a>) -> Bounded<'a> {
        Bounded { view: self, effort }
    }

    /// [`Sizes::total_bytes`] alone, without counting keys.
    pub fn total_bytes(&self) -> i64 {
        BASE_BYTES + self.state.bytes
    }

    /// The size of the key space, which includes a count of its keys.
    pub fn sizes(&self) -> Sizes {
        let total_bytes = self.total_bytes();
        let keys = self.index.count(&KeyRange::all()).cast_signed();
        Sizes { total_bytes, in_use_bytes: total_bytes, keys }
    }

    /// Memory of the index, bytes. Walks it: for reports and tests.
    pub fn index_bytes(&self) -> usize {
        self.index.heap_len()
    }

    /// Visits the changes between two main revisions, both inclusive, in order, until the visitor breaks. The compacted
    /// one may be asked for, since etcd lets a watch begin there; it may be incomplete.
    pub fn events(
        &self,
        from: i64,
        to: i64,
        visit: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        if from < self.state.compact {
            return Err(ReadError::Compacted);
        }
        let (start, end) = (Revision::new(from.max(0), 0), Revision::new(to.min(self.state.revision) + 1, 0));
        scan_while(&*self.engine, Family::Revs, &start.encode(), Some(&end.encode()), |key, row| {
            event_of(key, row).map(&mut *visit)
        })?;
        if self.epoch.is_expired() { Err(ReadError::Compacted) } else { Ok(()) }
    }

    /// Whether both views read the same engine, which protects what either can read: not across a
    /// [`crate::Store::replace`].
    pub fn shares_engine_with(&self, other: &View) -> bool {
        Arc::ptr_eq(&self.engine, &other.engine)
    }

    /// This view, readable back to where an older one, still held, reaches: that keeps what was compacted since. If the
    /// older one is of another engine, it keeps nothing here, and this view stays as it is.
    #[must_use]
    pub fn as_far_back_as(&self, older: &View) -> Self {
        if !self.shares_engine_with(older) {
            return self.clone();
        }
        Self {
            state: Counters { compact: older.state.compact.min(self.state.compact), ..self.state },
            epoch: Arc::clone(&older.epoch),
            ..self.clone()
        }
    }

    /// The version made at exactly this revision, as named by an event; `Compacted` if it may be gone.
    pub fn version(&self, at: Revision) -> Result<KeyValue, ReadError> {
        match self.engine.get(Family::Revs, &at.encode())? {
            Some(row) => Ok(Version::parse(at, &row)?.key_value()?),
            None if at.main <= self.state.compact || self.epoch.is_expired() => Err(ReadError::Compacted),
            None => Err(corrupt(format!("the version at {at:?} is missing")).into()),
        }
    }

    /// The engine, perhaps ahead of this view. Do not hold the view while copying all rows: compaction would wait.
    pub fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine)
    }

    /// The version before the event at `at`, which names it as `previous`; `None` if there was none or it is compacted.
    pub fn before(&self, at: Revision, previous: Revision) -> Result<Option<KeyValue>, ReadError> {
        if at.main - 1 < self.state.compact {
            return Ok(None);
        }
        let mut found = Some(previous);
        // One transaction may put and delete a key repeatedly: the version from before it counts.
        while let Some(revision) = found {
            let version = match self.reader().version(revision) {
                Ok(version) => version,
                Err(ReadError::Compacted) => return Ok(None),
                Err(error) => return Err(error),
            };
            if revision.main < at.main {
                return Ok((!version.tail.tombstone).then_some(version.key_value()?));
            }
            // Before a creation comes a tombstone, which compaction may have removed: follow it only in this revision.
            let leads_on = |known: &Revision| !version.tail.create || known.main == at.main;
            found = version.tail.previous.map(|known| known.revision).filter(leads_on);
        }
        Ok(None)
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader {
            index: &self.index,
            engine: &*self.engine,
            overlay: &[],
            current: self.state.revision,
            compact: self.state.compact,
            epoch: &self.epoch,
            options: &self.options,
            replaced_from: self.replaced_from,
            effort: None,
        }
    }
}

/// A view's reads within a [`Effort`], beyond which they end as [`crate::ReadError::GivenUp`].
#[derive(Clone, Copy, Debug)]
pub struct Bounded<'a> {
    view: &'a View,
    effort: &'a Effort<'a>,
}

impl Bounded<'_> {
    /// Answers a query within the budget.
    pub fn range(self, query: &Query) -> Result<Answer, ReadError> {
        self.reader().range(query)
    }

    /// The metadata of a live key, without reading its value.
    pub fn meta(self, key: &[u8]) -> Result<Option<KeyMeta>, ReadError> {
        self.reader().meta(key)
    }

    /// Visits the metadata of the live keys of a range, in order, without reading values.
    pub fn metas(
        self,
        range: &KeyRange,
        visit: &mut dyn FnMut(&[u8], KeyMeta) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        self.reader().metas(range, visit)
    }

    pub(crate) fn view(&self) -> &View {
        self.view
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { effort: Some(self.effort), ..self.view.reader() }
    }
}

fn event_of(key: &[u8], row: &[u8]) -> Result<Event, ReadError> {
    let at = Revision::decode(key).ok_or_else(|| broken("Revs", key))?;
    event(at, &Bytes::copy_from_slice(row))
}

pub(crate) fn event(at: Revision, row: &Bytes) -> Result<Event, ReadError> {
    let version = Version::parse(at, row)?;
    let mut kv = version.key_value()?;
    let tail = version.tail;
    let kind = match (tail.tombstone, tail.create) {
        (true, _) => EventKind::Delete,
        (false, true) => EventKind::Create,
        (false, false) => EventKind::Modify,
    };
    kv.mod_revision = at.main;
    // To etcd, every put by the transaction that created the key is a creation, without a previous version.
    let is_new = tail.create || (!tail.tombstone && kv.create_revision == at.main);
    let previous = tail.previous.filter(|_| !is_new).map(|previous| previous.revision);
    Ok(Event { at, kind, kv, previous })
}
