//! A View: the key space as one applied group left it, for any thread, for as long as it is held.

use crate::index::Index;
use crate::options::Options;
use crate::outline::Outline;
use crate::query::{Answer, Query, ReadError};
use crate::read::Reader;
use crate::record::{self, Head};
use crate::row::{State, Version, broken, corrupt};
use crate::tally::Tally;
use crate::{Effort, HashKv, KeyMeta, KeyValue, hash};
use bytes::Bytes;
use engine::{Engine, Family};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use types::{KeyRange, Revision};

/// What an empty backend of etcd takes on disk, in bytes: five pages.
const BASE_BYTES: i64 = 20 * 1024;

/// The time between two logical compactions. Every View belongs to one, and keeps it from being compacted away.
#[derive(Debug)]
pub(crate) struct Epoch {
    pub(crate) compact: i64,
    expired: AtomicBool,
}

impl Epoch {
    pub(crate) fn new(compact: i64) -> Arc<Self> {
        Arc::new(Self { compact, expired: AtomicBool::new(false) })
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Acquire)
    }

    pub(crate) fn expire(&self) {
        self.expired.store(true, Ordering::Release);
    }
}

/// How much the key space holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// etcd's dbSize: 20 KiB, and what its backend would hold of every version not yet removed. Falls with compaction.
    pub total_bytes: i64,
    /// etcd's dbSizeInUse. The same here: nothing that is removed leaves a hole.
    pub in_use_bytes: i64,
    /// Live keys.
    pub keys: i64,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was put, having not been there.
    Create,
    /// It was put again.
    Modify,
    /// It was deleted.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where in the history.
    pub at: Revision,
    /// What happened.
    pub kind: EventKind,
    /// The key as it is after; of a deleted one only key and mod revision.
    pub kv: KeyValue,
    /// The version before, unless the key was created: for [`View::version`].
    pub previous: Option<Revision>,
}

/// The key space at one moment. Cheap to share; reads take no lock. While it lives, no version it can read is removed.
pub struct View {
    pub(crate) state: State,
    pub(crate) index: Index,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) epoch: Arc<Epoch>,
    /// What the newest compactions have left, oldest first.
    pub(crate) hashes: Arc<Vec<HashKv>>,
    pub(crate) tally: Tally,
    pub(crate) options: Options,
    /// See [`Reader::replaced_from`].
    pub(crate) replaced_from: i64,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("state", &self.state).finish_non_exhaustive()
    }
}

/// What lies in a range now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Live keys.
    pub keys: i64,
    /// Bytes of their newest records, as `KeyValue`s.
    pub bytes: i64,
}

impl View {
    /// Whether newer Views show all that this one does, at its revision: it is not of the middle of a transaction.
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

    /// What was done up to this View since the store was opened.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The newest main revision; 1 in a fresh store.
    pub fn revision(&self) -> i64 {
        self.state.revision
    }

    /// The oldest revision that may be read; −1 before any compaction.
    pub fn compact_revision(&self) -> i64 {
        self.state.compact
    }

    /// The revision that compaction has finished removing history before; −1 = none yet.
    pub fn compaction_done(&self) -> i64 {
        self.state.finished
    }

    /// Answers a query.
    pub fn range(&self, query: &Query) -> Result<Answer, ReadError> {
        self.reader().range(query)
    }

    /// The same reads, as long as they cost no more than they may.
    pub fn bounded<'a>(&'a self, effort: &'a Effort<'a>) -> Bounded<'a> {
        Bounded { view: self, effort }
    }

    /// etcd's hash of the history up to a revision; 0 = the current one. Where a compaction at the revision was finished
    /// since the store was opened, and is among the ten newest, it is the hash that left: of the history before it.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        hash::hash_kv(self, self.reader(), revision)
    }

    /// The hash of the history up to the current revision, whatever hashes compactions have left: a function of what was
    /// applied, also over a restart.
    pub fn hash_now(&self) -> Result<HashKv, ReadError> {
        hash::hash_up_to(self, self.reader(), self.revision())
    }

    /// A hash over every row of the history that is stored, compacted or not: equal members may differ while a
    /// compaction is under way, as in etcd's `Hash`, which is for tests.
    pub fn hash(&self) -> Result<u32, ReadError> {
        hash::hash_rows(self.reader())
    }

    /// [`Sizes::total_bytes`] alone: counts nothing.
    pub fn total_bytes(&self) -> i64 {
        BASE_BYTES + self.state.bytes
    }

    /// How much the key space holds.
    pub fn sizes(&self) -> Sizes {
        let total_bytes = self.total_bytes();
        let keys = self.index.count(&KeyRange::all()).cast_signed();
        Sizes { total_bytes, in_use_bytes: total_bytes, keys }
    }

    /// What the index takes in memory, in bytes. Walks it: for reports and tests.
    pub fn index_bytes(&self) -> usize {
        self.index.heap_len()
    }

    /// Visits what happened from one main revision to another, both inclusive, in order, until the visitor breaks.
    ///
    /// etcd lets a watch begin at the compacted revision itself, so that revision may be asked for; it may be incomplete.
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
        let mut failed = None;
        self.engine.scan(Family::Revs, &start.encode(), Some(&end.encode()), &mut |key, row| {
            event_of(key, row).map_or_else(
                |error| {
                    failed = Some(error);
                    ControlFlow::Break(())
                },
                &mut *visit,
            )
        })?;
        match failed {
            Some(error) => Err(error),
            None if self.epoch.is_expired() => Err(ReadError::Compacted),
            None => Ok(()),
        }
    }

    /// This View, read as far back as an older one that is held still: what was compacted since is not removed as long as
    /// one of them lives.
    #[must_use]
    pub fn as_far_back_as(&self, older: &View) -> Self {
        Self {
            state: State { compact: older.state.compact.min(self.state.compact), ..self.state },
            index: self.index.clone(),
            engine: Arc::clone(&self.engine),
            epoch: Arc::clone(&older.epoch),
            hashes: Arc::clone(&self.hashes),
            tally: self.tally,
            options: self.options,
            replaced_from: self.replaced_from,
        }
    }

    /// The version made at exactly this point, which an event named; `Compacted` when it may be gone.
    pub fn version(&self, at: Revision) -> Result<KeyValue, ReadError> {
        match self.engine.get(Family::Revs, &at.encode())? {
            Some(row) => Ok(Version::parse(at, &row)?.key_value()?),
            None if at.main <= self.state.compact || self.epoch.is_expired() => Err(ReadError::Compacted),
            None => Err(corrupt(format!("the version at {at:?} is missing")).into()),
        }
    }

    /// Where the rows are: for whoever copies all of them or gives space back. It may be ahead of this View, which such
    /// long work must not hold: compaction would wait for it.
    pub fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine)
    }

    /// The version that a key had right before a main revision at which it changed, as etcd shows it with an event:
    /// `previous` is what the event at `at` named. `None` where the key was not there then, or where that is compacted.
    pub fn before(&self, at: Revision, previous: Revision) -> Result<Option<KeyValue>, ReadError> {
        if at.main - 1 < self.state.compact {
            return Ok(None);
        }
        let mut found = Some(previous);
        // One transaction may put and delete a key more than once: what it found is what counts.
        while let Some(revision) = found {
            let version = match self.reader().version(revision) {
                Ok(version) => version,
                Err(ReadError::Compacted) => return Ok(None),
                Err(error) => return Err(error),
            };
            if revision.main < at.main {
                return Ok((!version.tail.tombstone).then_some(version.key_value()?));
            }
            // What a creation follows is a tombstone, which compaction may have taken: it leads on only where this revision
            // made it.
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

/// Reads of a View that end, as [`crate::ReadError::GivenUp`], where their [`Effort`] does.
#[derive(Clone, Copy, Debug)]
pub struct Bounded<'a> {
    view: &'a View,
    effort: &'a Effort<'a>,
}

impl Bounded<'_> {
    /// Answers a query.
    pub fn range(self, query: &Query) -> Result<Answer, ReadError> {
        self.reader().range(query)
    }

    /// What a query's answer will hold. Its first rows are read, up to the one that brings them to `first_bytes`; the
    /// others are read later, by [`crate::Rows::next`].
    pub fn outline(self, query: &Query, first_bytes: usize) -> Result<Outline, ReadError> {
        self.reader().outline(query, first_bytes)
    }

    /// What is known of a live key without reading its value.
    pub fn meta(self, key: &[u8]) -> Result<Option<KeyMeta>, ReadError> {
        self.reader().meta(key)
    }

    /// Visits what is known of the live keys of a range, in order, without reading values.
    pub fn metas(
        self,
        range: &KeyRange,
        visit: &mut dyn FnMut(&[u8], KeyMeta) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        self.reader().metas(range, visit)
    }

    /// See [`View::hash_kv`].
    pub fn hash_kv(self, revision: i64) -> Result<HashKv, ReadError> {
        hash::hash_kv(self.view, self.reader(), revision)
    }

    /// See [`View::hash`].
    pub fn hash(self) -> Result<u32, ReadError> {
        hash::hash_rows(self.reader())
    }

    fn reader(&self) -> Reader<'_> {
        Reader { effort: Some(self.effort), ..self.view.reader() }
    }
}

fn event_of(key: &[u8], row: &[u8]) -> Result<Event, ReadError> {
    let at = Revision::decode(key).ok_or_else(|| broken("Revs", key))?;
    event(at, &Bytes::copy_from_slice(row))
}

/// What a row of the history tells.
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
    // A put of a key that its own transaction created, however often it put it since, has nothing before it to etcd.
    let is_new = tail.create || (!tail.tombstone && kv.create_revision == at.main);
    let previous = tail.previous.filter(|_| !is_new).map(|previous| previous.revision);
    Ok(Event { at, kind, kv, previous })
}
