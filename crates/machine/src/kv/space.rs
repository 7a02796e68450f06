//! The key space that the key-value rules run on: a transaction that writes, or a view that is only read.

use super::Later;
use crate::{Fault, Stop};
use bytes::Bytes;
use lease::Table;
use mvcc::{Answer, Cost, Effort, KeyMeta, Outline, Query, ReadError, View};
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use types::{KeyRange, LeaseId};

/// Keys detached from their leases under one lock: below a millisecond.
const DETACHED: usize = 1_024;

/// Called with a key and its metadata; `Break` ends the visit.
pub(crate) type VisitMeta<'a> = dyn FnMut(&[u8], KeyMeta) -> ControlFlow<()> + 'a;

pub(crate) trait Space {
    /// The revision for a header: one more once something was written.
    fn revision(&self) -> i64;
    /// The newest compacted revision; −1 before any compaction.
    fn compact_revision(&self) -> i64;
    fn range(&self, query: &Query) -> Result<Answer, ReadError>;
    /// Answers a query for the response; may defer the read.
    fn read(&self, query: &Query) -> Result<Read, ReadError>;
    fn meta(&self, key: &[u8]) -> Result<Option<KeyMeta>, ReadError>;
    /// Visits the metadata of the keys of a range.
    fn metas(&self, range: &KeyRange, visit: &mut VisitMeta<'_>) -> Result<(), ReadError>;
    fn lease_exists(&self, id: LeaseId) -> bool;
    /// Writes a key, copied so that its buffer is not kept alive, and attaches it to the lease.
    fn put(&mut self, key: &Bytes, value: Bytes, lease: LeaseId) -> Result<(), Stop>;
    /// Deletes keys and detaches them from their leases; returns their number.
    fn delete(&mut self, range: &KeyRange) -> Result<i64, Stop>;
}

pub(crate) enum Read {
    Now(Answer),
    /// Deferred, because it exceeds the budget: read it from this view.
    Later(Arc<View>),
}

#[derive(Default)]
pub(crate) struct Reads {
    pub(super) op: usize,
    pub(crate) later: Vec<Later>,
}

impl Reads {
    /// The rows that a query finds; empty if the read is deferred.
    pub(super) fn rows<S: Space>(&mut self, space: &S, query: Query) -> Result<Answer, ReadError> {
        Ok(match space.read(&query)? {
            Read::Now(answer) => answer,
            Read::Later(view) => {
                self.later.push(Later::new(self.op, view, query));
                Answer::default()
            }
        })
    }
}

/// The lease table: written by the machine, read by readers. Lock it for one operation at a time.
#[derive(Debug, Default)]
pub(crate) struct LeaseTable(RwLock<Table>);

impl LeaseTable {
    pub(crate) fn new(table: Table) -> Self {
        Self(RwLock::new(table))
    }

    // Only a panic between two complete operations can poison the lock; the table is intact.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another table in its place; returns the former one, so that nobody waits while it is dropped.
    pub(crate) fn replace(&self, table: Table) -> Table {
        std::mem::replace(&mut *self.write(), table)
    }
}

/// Attaches the stored keys to their leases at start, as their records name them; unknown ones are ignored, as in etcd.
pub(crate) fn attach_keys(store: &mut mvcc::Store, leases: &mut Table) {
    if leases.is_empty() {
        return;
    }
    let mut group = store.begin(); // dropped uncommitted: writes nothing
    group.txn().metas(&KeyRange::all(), &mut |key, meta| {
        if meta.lease != 0 {
            let _ = leases.attach(meta.lease, Bytes::copy_from_slice(key));
        }
        ControlFlow::Continue(())
    });
}

pub(crate) struct Writing<'a, 'g> {
    txn: mvcc::Txn<'a, 'g>,
    compact_revision: i64,
    leases: &'a LeaseTable,
    /// The budget for reads of the response; `None` = nobody waits for it here.
    effort: Option<Effort<'static>>,
    /// The view for reads deferred since the last write.
    deferred_view: RefCell<Option<Arc<View>>>,
}

impl<'a, 'g> Writing<'a, 'g> {
    pub(crate) fn begin(group: &'a mut mvcc::Group<'g>, leases: &'a LeaseTable, reads: Option<Cost>) -> Self {
        let compact_revision = group.compact_revision();
        Self {
            txn: group.txn(),
            compact_revision,
            leases,
            effort: reads.map(Effort::within),
            deferred_view: RefCell::default(),
        }
    }

    /// Ends the transaction; returns what its reads would have cost.
    pub(crate) fn end(self) -> Cost {
        self.txn.end();
        self.effort.map(|effort| effort.spent()).unwrap_or_default()
    }
}

impl Space for Writing<'_, '_> {
    fn revision(&self) -> i64 {
        self.txn.revision()
    }

    fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    fn range(&self, query: &Query) -> Result<Answer, ReadError> {
        self.txn.range(query)
    }

    fn read(&self, query: &Query) -> Result<Read, ReadError> {
        let Some(effort) = &self.effort else { return Ok(Read::Now(Answer::default())) };
        match self.txn.range_within(query, effort) {
            Err(ReadError::GivenUp(_)) => {
                let mut deferred_view = self.deferred_view.borrow_mut();
                Ok(Read::Later(Arc::clone(deferred_view.get_or_insert_with(|| Arc::new(self.txn.view())))))
            }
            answer => answer.map(Read::Now),
        }
    }

    fn meta(&self, key: &[u8]) -> Result<Option<KeyMeta>, ReadError> {
        Ok(self.txn.meta(key))
    }

    fn metas(&self, range: &KeyRange, visit: &mut VisitMeta<'_>) -> Result<(), ReadError> {
        self.txn.metas(range, visit);
        Ok(())
    }

    fn lease_exists(&self, id: LeaseId) -> bool {
        self.leases.read().contains(id)
    }

    fn put(&mut self, key: &Bytes, value: Bytes, lease: LeaseId) -> Result<(), Stop> {
        self.deferred_view.take();
        let old = self.txn.put(key.clone(), value, lease)?.map_or(0, |meta| meta.lease);
        if old == lease {
            return Ok(());
        }
        let mut leases = self.leases.write();
        if old != 0 {
            leases.detach(old, key);
        }
        if lease != 0 {
            // Checked before the transaction began; etcd panics here.
            leases
                .attach(lease, Bytes::copy_from_slice(key))
                .map_err(|_| Fault::Broken("a key was put on a lease that is gone"))?;
        }
        Ok(())
    }

    fn delete(&mut self, range: &KeyRange) -> Result<i64, Stop> {
        self.deferred_view.take();
        let deleted = self.txn.delete(range)?;
        // Readers must not wait for the table during a long delete.
        for some in deleted.chunks(DETACHED) {
            if some.iter().any(|(_, meta)| meta.lease != 0) {
                let mut leases = self.leases.write();
                for (key, meta) in some.iter().filter(|(_, meta)| meta.lease != 0) {
                    leases.detach(meta.lease, key);
                }
            }
        }
        Ok(deleted.len() as i64)
    }
}

/// One view. Writing is a fault: the API must propose writes.
pub(crate) struct Reading<'a> {
    pub(crate) view: &'a View,
    pub(crate) effort: &'a Effort<'a>,
}

pub(super) const NOT_A_READ: Stop = Stop::Fault(Fault::Broken("a write was taken for a read-only request"));

impl Reading<'_> {
    pub(crate) fn outline(&self, query: &Query, first_bytes: usize) -> Result<Outline, ReadError> {
        self.view.bounded(self.effort).outline(query, first_bytes)
    }
}

impl Space for Reading<'_> {
    fn revision(&self) -> i64 {
        self.view.revision()
    }

    fn compact_revision(&self) -> i64 {
        self.view.compact_revision()
    }

    fn range(&self, query: &Query) -> Result<Answer, ReadError> {
        self.view.bounded(self.effort).range(query)
    }

    fn read(&self, query: &Query) -> Result<Read, ReadError> {
        self.range(query).map(Read::Now)
    }

    fn meta(&self, key: &[u8]) -> Result<Option<KeyMeta>, ReadError> {
        self.view.bounded(self.effort).meta(key)
    }

    fn metas(&self, range: &KeyRange, visit: &mut VisitMeta<'_>) -> Result<(), ReadError> {
        self.view.bounded(self.effort).metas(range, visit)
    }

    fn lease_exists(&self, _: LeaseId) -> bool {
        true // only puts ask, and those fail below
    }

    fn put(&mut self, _: &Bytes, _: Bytes, _: LeaseId) -> Result<(), Stop> {
        Err(NOT_A_READ)
    }

    fn delete(&mut self, _: &KeyRange) -> Result<i64, Stop> {
        Err(NOT_A_READ)
    }
}
