//! Where the key-value rules run: on a transaction that writes, or on one View that only reads.

use crate::{Fault, Later, Stop};
use bytes::Bytes;
use lease::Table;
use mvcc::{Answer, Cost, Effort, KeyMeta, Outline, Query, ReadError, View};
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use types::{KeyRange, LeaseId};

/// Keys that are taken off their leases at a time: below a millisecond.
const DETACHED: usize = 1_024;

/// What the rules need of the key space.
pub(crate) trait Space {
    /// What a header says now: one more than before as soon as something was written.
    fn revision(&self) -> i64;
    /// The newest compacted revision; -1 before any compaction.
    fn compact_revision(&self) -> i64;
    fn range(&self, query: &Query) -> Result<Answer, ReadError>;
    /// The same for an answer, which may be made later.
    fn read(&self, query: &Query) -> Result<Read, ReadError>;
    /// The newest version of a key, without its value.
    fn meta(&self, key: &[u8]) -> Result<Option<KeyMeta>, ReadError>;
    /// Whether a condition holds for every key of a range; `None` stands for "no key there".
    fn all_hold(
        &self,
        range: &KeyRange,
        holds: &mut dyn FnMut(Option<&KeyMeta>) -> bool,
    ) -> Result<bool, ReadError>;
    fn lease_exists(&self, id: LeaseId) -> bool;
    /// Writes a key and moves it to the lease. The store keeps copies: the buffer that key and value came in goes free.
    fn put(&mut self, key: &Bytes, value: Bytes, lease: LeaseId) -> Result<(), Stop>;
    /// Deletes keys and takes them off their leases; says how many there were.
    fn delete(&mut self, range: &KeyRange) -> Result<i64, Stop>;
}

/// What a read for an answer came to.
pub(crate) enum Read {
    Now(Answer),
    /// It costs more than it may now; what it asks about is this.
    Later(Arc<View>),
}

/// The reads of one entry for its answer.
#[derive(Default)]
pub(crate) struct Reads {
    /// Operations before the one that is done now.
    pub(super) op: usize,
    /// What was left for later.
    pub(crate) later: Vec<Later>,
}

impl Reads {
    /// The rows that a query finds; none where they are read later.
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

/// The lease table, written by the machine and looked at by readers. Held for one operation at a time.
#[derive(Debug, Default)]
pub(crate) struct Leases(RwLock<Table>);

impl Leases {
    pub(crate) fn new(table: Table) -> Self {
        Self(RwLock::new(table))
    }

    // A poisoned lock means a panic between two whole operations of the table: it is as good as before.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hangs the stored keys on their leases again, at start: a key's own record names its lease. A record that names an
/// unknown lease is passed over, as etcd does.
pub(crate) fn attach_keys(store: &mut mvcc::Store, leases: &mut Table) {
    if leases.is_empty() {
        return;
    }
    let mut group = store.begin(); // dropped uncommitted: nothing is written
    group.txn().metas(&KeyRange::all(), &mut |key, meta| {
        if meta.lease != 0 {
            let _ = leases.attach(meta.lease, Bytes::copy_from_slice(key));
        }
        ControlFlow::Continue(())
    });
}

/// One transaction of the log.
pub(crate) struct Writing<'a, 'g> {
    txn: mvcc::Txn<'a, 'g>,
    compact_revision: i64,
    leases: &'a Leases,
    /// What reads for the answer may cost; nothing = nobody waits for it.
    effort: Option<Effort<'static>>,
    /// What is left for later since the last write.
    moment: RefCell<Option<Arc<View>>>,
}

impl<'a, 'g> Writing<'a, 'g> {
    pub(crate) fn begin(group: &'a mut mvcc::Group<'g>, leases: &'a Leases, reads: Option<Cost>) -> Self {
        let compact_revision = group.compact_revision();
        Self {
            txn: group.txn(),
            compact_revision,
            leases,
            effort: reads.map(Effort::within),
            moment: RefCell::default(),
        }
    }

    /// Ends the transaction; says what its reads would have cost.
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
                let mut moment = self.moment.borrow_mut();
                Ok(Read::Later(Arc::clone(moment.get_or_insert_with(|| Arc::new(self.txn.view())))))
            }
            answer => answer.map(Read::Now),
        }
    }

    fn meta(&self, key: &[u8]) -> Result<Option<KeyMeta>, ReadError> {
        Ok(self.txn.meta(key))
    }

    fn all_hold(
        &self,
        range: &KeyRange,
        holds: &mut dyn FnMut(Option<&KeyMeta>) -> bool,
    ) -> Result<bool, ReadError> {
        let (mut found, mut all) = (false, true);
        self.txn.metas(range, &mut |_, meta| {
            found = true;
            all = holds(Some(&meta));
            if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        Ok(if found { all } else { holds(None) })
    }

    fn lease_exists(&self, id: LeaseId) -> bool {
        self.leases.read().contains(id)
    }

    fn put(&mut self, key: &Bytes, value: Bytes, lease: LeaseId) -> Result<(), Stop> {
        self.moment.take();
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
        self.moment.take();
        let deleted = self.txn.delete(range)?;
        // Readers wait for the table: not for all of a long delete.
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

/// One View. Writing to it is a fault: the API proposes what writes.
pub(crate) struct Reading<'a> {
    pub(crate) view: &'a View,
    pub(crate) effort: &'a Effort<'a>,
}

pub(super) const NOT_A_READ: Stop = Stop::Fault(Fault::Broken("a write was taken for a read-only request"));

impl Reading<'_> {
    /// What a query's answer will hold.
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

    fn all_hold(
        &self,
        range: &KeyRange,
        holds: &mut dyn FnMut(Option<&KeyMeta>) -> bool,
    ) -> Result<bool, ReadError> {
        let (mut found, mut all) = (false, true);
        self.view.bounded(self.effort).metas(range, &mut |_, meta| {
            found = true;
            all = holds(Some(&meta));
            if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(if found { all } else { holds(None) })
    }

    fn lease_exists(&self, _: LeaseId) -> bool {
        true // only puts ask, and they are refused below
    }

    fn put(&mut self, _: &Bytes, _: Bytes, _: LeaseId) -> Result<(), Stop> {
        Err(NOT_A_READ)
    }

    fn delete(&mut self, _: &KeyRange) -> Result<i64, Stop> {
        Err(NOT_A_READ)
    }
}
