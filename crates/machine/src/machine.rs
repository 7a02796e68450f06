//! The state machine: opening, applying, background work.

use crate::apply::{Applying, Keys};
use crate::kv::{LeaseTable, attach_keys};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::state::AppliedState;
use crate::{Fault, Outcome, Quota, rows};
use engine::Engine;
use mvcc::Store;
use std::sync::Arc;
use types::{ConfState, Entry, Index, Term};

/// Rows of one background step, a millisecond, which a put may have to wait: etcd's `--compaction-batch-limit`.
const COMPACT_STEP_ROWS: usize = 1000;

/// The replicated state. One owner; readers use [`Machine::shared`].
pub struct Machine {
    store: Store,
    state: AppliedState,
    settings: Settings,
    shared: Arc<Shared>,
}

impl Machine {
    /// Opens the stored state. The log may be replayed from any point up to the applied index.
    pub fn open(engine: Arc<dyn Engine>, settings: Settings) -> Result<Machine, Fault> {
        let stored = rows::load(&*engine)?;
        let mut store = Store::open(engine)?;
        let mut leases = lease::Table::new(settings.lease_ttl_min);
        for lease in stored.leases {
            leases.restore(lease);
        }
        attach_keys(&mut store, &mut leases);
        let state = AppliedState {
            applied: stored.applied,
            conf: stored.conf_state,
            membership: stored.membership,
            alarms: stored.alarms,
            replay_end: 0,
            lease_changes: Vec::new(),
        };
        let shared = Shared::new(
            store.view_handle(),
            store.change_feed(),
            state.membership.clone(),
            state.alarms.clone(),
            LeaseTable::new(leases),
            Quota::new(settings.quota_bytes),
        );
        shared.publish_applied(state.applied);
        Ok(Machine { store, state, settings, shared: Arc::new(shared) })
    }

    /// Takes over the whole state of another machine, opened on the rows of a leader's snapshot, and returns its own
    /// former one. Drop that on a thread with time: its index may be large, and its engine closes with its last reader.
    ///
    /// [`Machine::shared`] stays the same: it shows the new state whole once it shows the new applied index. Settings
    /// stay; the other machine's should be equal. Lease changes are none: who keeps deadlines begins anew.
    ///
    /// A state that is not newer is the caller's mistake, and a fault, because readers never go back. Then nothing has
    /// changed.
    pub fn replace(&mut self, mut other: Machine) -> Result<Machine, Fault> {
        if other.state.applied.0 <= self.state.applied.0 {
            return Err(Fault::Broken("a snapshot is not newer than what is applied"));
        }
        // Leases may be ahead of the applied index, as while a group is applied.
        let (mine, theirs) = (self.shared.leases_table(), other.shared.leases_table());
        theirs.replace(mine.replace(theirs.replace(lease::Table::default())));
        other.store = self.store.replace(other.store);
        std::mem::swap(&mut self.state, &mut other.state);
        self.shared.publish_membership(&self.state.membership);
        self.shared.publish_alarms(&self.state.alarms);
        self.shared.publish_applied(self.state.applied);
        Ok(other)
    }

    /// What readers see, from any thread.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Index and term of the last applied entry; (0, 0) before any.
    pub fn applied(&self) -> (Index, Term) {
        self.state.applied
    }

    /// Entries up to this one are replayed: their compactions leave no hashes, as etcd's do not survive a restart.
    pub fn replays_up_to(&mut self, index: Index) {
        self.state.replay_end = index;
    }

    /// The voters and learners as of the applied entry.
    pub fn conf_state(&self) -> ConfState {
        self.state.conf.clone()
    }

    /// The lease changes of the last [`Machine::apply`], in order; none after [`Machine::replace`].
    pub fn lease_changes(&self) -> &[lease::Change] {
        &self.state.lease_changes
    }

    /// Applies committed entries in one engine batch, and publishes it. An outcome per entry, none for applied ones.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, Fault> {
        Ok(self.apply_within(entries, Keys::Any)?.0)
    }

    /// [`Machine::apply`] up to the entry, perhaps the first, beyond [`Limits::group_keys`]; returns how many are done.
    pub fn apply_short(&mut self, entries: &[Entry]) -> Result<(Vec<Outcome>, usize), Fault> {
        self.apply_within(entries, Keys::Within(self.settings.limits.group_keys))
    }

    /// [`Machine::apply_short`] for callers with time: the first entry that touches keys is exempt from the limit, so
    /// at least one entry is done.
    pub fn apply_long(&mut self, entries: &[Entry]) -> Result<(Vec<Outcome>, usize), Fault> {
        self.apply_within(entries, Keys::OneAndWithin(self.settings.limits.group_keys))
    }

    fn apply_within(&mut self, entries: &[Entry], keys: Keys) -> Result<(Vec<Outcome>, usize), Fault> {
        self.state.lease_changes.clear();
        let known = entries.partition_point(|entry| entry.index <= self.state.applied.0);
        let entries = &entries[known..];
        let mut outcomes = Vec::with_capacity(entries.len());
        if entries.is_empty() {
            return Ok((outcomes, known));
        }
        let mut applying =
            Applying::begin(&mut self.store, &mut self.state, &self.settings, &self.shared, keys);
        for entry in entries {
            let Some(outcome) = applying.entry(entry)? else { break };
            outcomes.push(outcome);
        }
        if !outcomes.is_empty() {
            applying.commit()?;
        }
        let done = known + outcomes.len();
        Ok((outcomes, done))
    }

    /// Expires views from before the compaction, when [`Machine::idle`] has waited too long. For callers with a clock.
    pub fn expire_views(&mut self) {
        self.store.expire_views();
    }

    /// Does one step of background work; returns whether there is more now. While it waits for readers: false.
    pub fn idle(&mut self) -> Result<bool, Fault> {
        Ok(self.store.compact_step(COMPACT_STEP_ROWS)? && !self.waits_for_readers())
    }

    /// Whether compaction waits for readers.
    pub fn waits_for_readers(&self) -> bool {
        self.store.compaction_waits()
    }
}
