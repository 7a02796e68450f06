//! What readers see, from any thread, without waiting for the machine.

use crate::kv::{self, LeaseTable, Reading, Reads};
use crate::{Alarms, Membership, Quota, Response, Stop, Unread};
use arc_swap::ArcSwap;
use bytes::Bytes;
use lease::Info as LeaseInfo;
use mvcc::{ChangeFeed, Cost, Effort, Outline, Sizes, View, ViewHandle};
use proto::etcdserverpb::{RangeRequest, RangeResponse, TxnRequest, TxnResponse};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use types::{Index, LeaseId, Term};

/// What readers see. The applied index is published last: who waits for an index sees everything up to it.
pub struct Shared {
    view: ViewHandle,
    feed: ChangeFeed,
    membership: ArcSwap<Membership>,
    alarms: ArcSwap<Alarms>,
    leases: LeaseTable,
    quota: Quota,
    applied_index: AtomicU64,
    applied_term: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        view: ViewHandle,
        feed: ChangeFeed,
        membership: Membership,
        alarms: Alarms,
        leases: LeaseTable,
        quota: Quota,
    ) -> Self {
        Self {
            view,
            feed,
            membership: ArcSwap::from_pointee(membership),
            alarms: ArcSwap::from_pointee(alarms),
            leases,
            quota,
            applied_index: AtomicU64::new(0),
            applied_term: AtomicU64::new(0),
        }
    }

    /// The newest published view of the keys.
    pub fn view(&self) -> Arc<View> {
        self.view.view()
    }

    /// The feed of newest changes, for watching.
    pub fn change_feed(&self) -> &ChangeFeed {
        &self.feed
    }

    /// The members of the cluster.
    pub fn membership(&self) -> Arc<Membership> {
        self.membership.load_full()
    }

    /// The alarms that are raised.
    pub fn alarms(&self) -> Arc<Alarms> {
        self.alarms.load_full()
    }

    /// The last entry whose effect readers see.
    pub fn applied_index(&self) -> Index {
        self.applied_index.load(Ordering::Acquire)
    }

    /// The term of an entry at or after [`Shared::applied_index`].
    pub fn applied_term(&self) -> Term {
        self.applied_term.load(Ordering::Acquire)
    }

    /// The lease, if it exists. May be ahead of [`Shared::applied_index`] by one group.
    pub fn lease(&self, id: LeaseId) -> Option<LeaseInfo> {
        self.leases.read().get(id).map(lease_info)
    }

    /// Up to `limit` keys attached to a lease, in order, after this one; `None` without the lease. Applying waits for
    /// the table's readers: read many keys in pieces.
    pub fn lease_keys(&self, id: LeaseId, after: Option<&[u8]>, limit: usize) -> Option<Vec<Bytes>> {
        let leases = self.leases.read();
        leases.get(id).map(|lease| lease.keys_after(after).take(limit).cloned().collect())
    }

    /// Up to `limit` lease IDs after this one, in order. Applying waits for the table's readers: read in pieces.
    pub fn lease_ids(&self, after: Option<LeaseId>, limit: usize) -> Vec<LeaseId> {
        self.leases.read().ids_after(after).take(limit).collect()
    }

    /// All leases, in order of ID. For the thread that applies.
    pub fn leases(&self) -> Vec<LeaseInfo> {
        self.leases.read().iter().map(lease_info).collect()
    }

    /// The size of the key space.
    pub fn sizes(&self) -> Sizes {
        self.view.view().sizes()
    }

    /// This member's space quota.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Whether a request that stores this many bytes may be proposed; else the API raises NOSPACE, as in etcd.
    pub fn has_room_for(&self, cost: u64) -> bool {
        cost == 0 || self.quota.fits(self.view.view().total_bytes(), cost)
    }

    /// Answers a range from one view, without a budget; the header holds that view's revision.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Stop> {
        self.range_within(request, &Effort::within(Cost::MAX))
    }

    /// Answers a range from one view within a budget; ends as [`Stop::GivenUp`] beyond it.
    pub fn range_within(&self, request: &RangeRequest, effort: &Effort<'_>) -> Result<RangeResponse, Stop> {
        let view = self.view.view();
        kv::range(&Reading { view: &view, effort }, request, &mut Reads::default())
    }

    /// Answers a read-only transaction (see [`kv::is_read_only`]) from one view, without a budget.
    pub fn read_txn(&self, request: &TxnRequest) -> Result<TxnResponse, Stop> {
        self.read_txn_within(request, &Effort::within(Cost::MAX))
    }

    /// [`Shared::read_txn`] within a budget; ends as [`Stop::GivenUp`] beyond it.
    pub fn read_txn_within(&self, request: &TxnRequest, effort: &Effort<'_>) -> Result<TxnResponse, Stop> {
        let view = self.view.view();
        kv::txn(&mut Reading { view: &view, effort }, request, &mut Reads::default())
    }

    /// Outlines the answer of [`Shared::range_within`]: its first rows, up to `first_bytes`, and the view of the rest.
    pub fn outline_range(
        &self,
        request: &RangeRequest,
        first_bytes: usize,
        effort: &Effort<'_>,
    ) -> Result<(Arc<View>, Outline), Stop> {
        let view = self.view.view();
        let outline = kv::outline_range(&Reading { view: &view, effort }, request, first_bytes)?;
        Ok((view, outline))
    }

    /// The answer of [`Shared::read_txn_within`] without its rows: the conditions are evaluated, the reads deferred.
    pub fn unread_txn(&self, request: &TxnRequest, effort: &Effort<'_>) -> Result<Unread, Stop> {
        let (answer, reads) = kv::unread_txn(&self.view.view(), effort, request)?;
        Ok(Unread { answer: Response::Txn(answer), reads })
    }

    /// Returns the space of deleted rows to the file system. Blocks the caller, perhaps for seconds, nobody else.
    pub fn defragment(&self) -> Result<(), engine::Fault> {
        let engine = self.view.view().engine();
        engine.compact()
    }

    /// Makes durable what is shown, and perhaps more. Blocks the caller until it is, nobody else.
    pub fn flush(&self) -> Result<(), engine::Fault> {
        let engine = self.view.view().engine();
        engine.flush()
    }

    /// All replicated rows, as one applied group left them.
    pub fn snapshot(&self) -> Box<engine::Snapshot> {
        self.view.view().engine().snapshot()
    }

    pub(crate) fn leases_table(&self) -> &LeaseTable {
        &self.leases
    }

    pub(crate) fn publish_membership(&self, membership: &Membership) {
        self.membership.store(Arc::new(membership.clone()));
    }

    pub(crate) fn publish_alarms(&self, alarms: &Alarms) {
        self.alarms.store(Arc::new(alarms.clone()));
    }

    pub(crate) fn publish_applied(&self, (index, term): (Index, Term)) {
        self.applied_term.store(term, Ordering::Release);
        self.applied_index.store(index, Ordering::Release);
    }
}

fn lease_info(lease: &lease::Lease) -> LeaseInfo {
    LeaseInfo { id: lease.id, ttl: lease.ttl, remaining_ttl: lease.remaining_ttl }
}
