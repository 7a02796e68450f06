//! What readers see, from any thread, without waiting for the machine.

use crate::kv::{self, Leases, Reading, Reads};
use crate::{Alarms, Membership, Quota, Stop, Unread};
use arc_swap::ArcSwap;
use bytes::Bytes;
use lease::Info as LeaseInfo;
use mvcc::{Cost, Effort, Outline, Published, Sizes, Tap, View};
use proto::etcdserverpb::{RangeRequest, RangeResponse, TxnRequest, TxnResponse};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use types::{Index, LeaseId, Term};

/// What readers see. Each part is published when the group that changed it is in the engine, the applied index last:
/// who has waited for an index sees everything up to it.
pub struct Shared {
    view: Published,
    tap: Tap,
    membership: ArcSwap<Membership>,
    alarms: ArcSwap<Alarms>,
    leases: Leases,
    quota: Quota,
    applied_index: AtomicU64,
    applied_term: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        view: Published,
        tap: Tap,
        membership: Membership,
        alarms: Alarms,
        leases: Leases,
        quota: Quota,
    ) -> Self {
        Self {
            view,
            tap,
            membership: ArcSwap::from_pointee(membership),
            alarms: ArcSwap::from_pointee(alarms),
            leases,
            quota,
            applied_index: AtomicU64::new(0),
            applied_term: AtomicU64::new(0),
        }
    }

    /// The newest published state of the keys.
    pub fn view(&self) -> Arc<View> {
        self.view.view()
    }

    /// What is written, for whoever follows.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// Who is in the cluster.
    pub fn membership(&self) -> Arc<Membership> {
        self.membership.load_full()
    }

    /// The raised alarms.
    pub fn alarms(&self) -> Arc<Alarms> {
        self.alarms.load_full()
    }

    /// The newest entry whose effect readers see.
    pub fn applied_index(&self) -> Index {
        self.applied_index.load(Ordering::Acquire)
    }

    /// The term of an entry at or after [`Shared::applied_index`].
    pub fn applied_term(&self) -> Term {
        self.applied_term.load(Ordering::Acquire)
    }

    /// The lease, if it was granted and not revoked. May run ahead of [`Shared::applied_index`] by one group.
    pub fn lease(&self, id: LeaseId) -> Option<LeaseInfo> {
        self.leases.read().get(id).map(lease_info)
    }

    /// At most so many of the keys that hang on a lease, in order, from behind this one on; `None` without the lease. What is
    /// applied waits for whoever reads the table: who wants many takes them in pieces.
    pub fn lease_keys(&self, id: LeaseId, after: Option<&[u8]>, limit: usize) -> Option<Vec<Bytes>> {
        let leases = self.leases.read();
        leases.get(id).map(|lease| lease.keys_after(after).take(limit).cloned().collect())
    }

    /// At most so many IDs of leases, in order, from behind this one on. What is applied waits for whoever reads the table:
    /// who lists many does it in pieces.
    pub fn lease_ids(&self, after: Option<LeaseId>, limit: usize) -> Vec<LeaseId> {
        self.leases.read().ids_after(after).take(limit).collect()
    }

    /// All leases, in order of ID. For the thread that applies.
    pub fn leases(&self) -> Vec<LeaseInfo> {
        self.leases.read().iter().map(lease_info).collect()
    }

    /// How much is stored.
    pub fn sizes(&self) -> Sizes {
        self.view.view().sizes()
    }

    /// This member's space quota.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Whether a request of this cost (see [`crate::cost`]) may be proposed. etcd's check before it proposes: where it
    /// fails, the API raises the NOSPACE alarm and refuses.
    pub fn has_room_for(&self, cost: u64) -> bool {
        cost == 0 || self.quota.fits(self.view.view().total_bytes(), cost)
    }

    /// Answers a range from one View, whatever it takes; the header says that View's revision.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Stop> {
        self.range_within(request, &Effort::within(Cost::MAX))
    }

    /// Answers a range from one View, or ends as [`Stop::GivenUp`] where it costs more than it may.
    pub fn range_within(&self, request: &RangeRequest, effort: &Effort<'_>) -> Result<RangeResponse, Stop> {
        let view = self.view.view();
        kv::range(&Reading { view: &view, effort }, request, &mut Reads::default())
    }

    /// Answers a read-only transaction (see [`kv::is_read_only`]) from one View, whatever it takes.
    pub fn read_txn(&self, request: &TxnRequest) -> Result<TxnResponse, Stop> {
        self.read_txn_within(request, &Effort::within(Cost::MAX))
    }

    /// The same, or ends as [`Stop::GivenUp`] where it costs more than it may.
    pub fn read_txn_within(&self, request: &TxnRequest, effort: &Effort<'_>) -> Result<TxnResponse, Stop> {
        let view = self.view.view();
        kv::txn(&mut Reading { view: &view, effort }, request, &mut Reads::default())
    }

    /// What [`Shared::range_within`] would answer, its first rows up to `first_bytes` of them, and the View that the others
    /// are read from.
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

    /// What [`Shared::read_txn_within`] would answer, without its rows; its conditions are looked at.
    pub fn unread_txn(&self, request: &TxnRequest, effort: &Effort<'_>) -> Result<Unread, Stop> {
        kv::unread_txn(&self.view.view(), effort, request)
    }

    /// Returns the space of what is gone to the file system. Blocks the caller, for seconds where there is much; neither
    /// readers nor the machine.
    pub fn defragment(&self) -> Result<(), engine::Fault> {
        let engine = self.view.view().engine();
        engine.compact()
    }

    /// Every row as an applied group left it: everything that is replicated.
    pub fn moment(&self) -> Box<engine::Moment> {
        self.view.view().engine().moment()
    }

    pub(crate) fn leases_table(&self) -> &Leases {
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
