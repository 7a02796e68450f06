//! The machine itself: open, apply, idle.

use crate::apply::{Applying, Keys};
use crate::kv::{Leases, attach_keys};
use crate::shared::Shared;
use crate::{Alarms, Fault, Limits, Membership, Outcome, Quota, rows};
use engine::Engine;
use mvcc::Store;
use std::sync::Arc;
use types::{ConfState, Entry, Index, MemberId, Term};

/// Rows visited by one step of a background compaction: etcd's `--compaction-batch-limit`, about a millisecond, which a
/// put may have to wait for.
const COMPACT_STEP_ROWS: usize = 1000;

/// What may differ between machines. The first three must be equal on all members of a cluster, as in etcd.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Who this is: decides whose ranges are answered, and nothing else.
    pub member: MemberId,
    /// The shortest lease granted, in seconds: `ceil(1.5 × election timeout)`.
    pub lease_ttl_min: i64,
    /// etcd's `--max-learners`.
    pub max_learners: usize,
    /// etcd's `--quota-backend-bytes`: 0 = 2 GiB, negative = none. Changes answers and alarms, never effects.
    pub quota_bytes: i64,
    /// What one call may cost. Changes no effect and no answer.
    pub limits: Limits,
}

impl Settings {
    /// etcd's defaults for the rest.
    pub fn new(member: MemberId, lease_ttl_min: i64) -> Self {
        Self { member, lease_ttl_min, max_learners: 1, quota_bytes: 0, limits: Limits::default() }
    }
}

/// The replicated state. One owner; readers use [`Machine::shared`].
pub struct Machine {
    store: Store,
    state: State,
    settings: Settings,
    shared: Arc<Shared>,
}

/// What is not in the key space: the newest state, ahead of what readers see by the group being applied.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) applied: (Index, Term),
    pub(crate) conf: ConfState,
    pub(crate) membership: Membership,
    pub(crate) alarms: Alarms,
    /// See [`Machine::replays_up_to`].
    pub(crate) replay_end: Index,
    /// See [`Machine::lease_changes`].
    pub(crate) lease_changes: Vec<lease::Change>,
}

impl Machine {
    /// Reads what was stored. Replaying the log from anywhere up to the applied index is safe.
    pub fn open(engine: Arc<dyn Engine>, settings: Settings) -> Result<Machine, Fault> {
        let stored = rows::load(&*engine)?;
        let mut store = Store::open(engine)?;
        let mut leases = lease::Table::new(settings.lease_ttl_min);
        for lease in stored.leases {
            leases.restore(lease);
        }
        attach_keys(&mut store, &mut leases);
        let state = State {
            applied: stored.applied,
            conf: stored.conf_state,
            membership: stored.membership,
            alarms: stored.alarms,
            replay_end: 0,
            lease_changes: Vec::new(),
        };
        let shared = Shared::new(
            store.published(),
            store.tap(),
            state.membership.clone(),
            state.alarms.clone(),
            Leases::new(leases),
            Quota::new(settings.quota_bytes),
        );
        shared.publish_applied(state.applied);
        Ok(Machine { store, state, settings, shared: Arc::new(shared) })
    }

    /// What readers see.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The newest applied entry; (0, 0) before any.
    pub fn applied(&self) -> (Index, Term) {
        self.state.applied
    }

    /// Says that entries up to this one are from an earlier life of this member, which may have applied them already:
    /// their compactions leave no hashes, as etcd's do not outlive it.
    pub fn replays_up_to(&mut self, index: Index) {
        self.state.replay_end = index;
    }

    /// Who takes part, as of the applied entry.
    pub fn conf_state(&self) -> ConfState {
        self.state.conf.clone()
    }

    /// What the last [`Machine::apply`] did to the leases, in order.
    pub fn lease_changes(&self) -> &[lease::Change] {
        &self.state.lease_changes
    }

    /// Applies committed entries, in one engine batch, and publishes the result. Entries at or below the applied index
    /// are skipped and have no outcome; the others have one each.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, Fault> {
        Ok(self.apply_within(entries, Keys::Any)?.0)
    }

    /// The same up to the entry that brings the keys they touch above [`Limits::group_keys`], which may be the first. Says
    /// also how many entries are done with.
    pub fn apply_short(&mut self, entries: &[Entry]) -> Result<(Vec<Outcome>, usize), Fault> {
        self.apply_within(entries, Keys::Within(self.settings.limits.group_keys))
    }

    /// The same, where there is time: the first entry that touches keys may touch any number. At least one is done with.
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

    /// Lets compaction go on although readers hold Views from before it; they are refused as compacted where they need
    /// what it removes. For whoever has a clock, when [`Machine::idle`] has been waiting for such readers for too long.
    pub fn expire_views(&mut self) {
        self.store.expire_views();
    }

    /// One step of background work, for when there is nothing to apply; `true` = there is more to do now. While it waits
    /// for readers there is not: ask again later.
    pub fn idle(&mut self) -> Result<bool, Fault> {
        Ok(self.store.compact_step(COMPACT_STEP_ROWS)? && !self.waits_for_readers())
    }

    /// Whether readers hold compaction up.
    pub fn waits_for_readers(&self) -> bool {
        self.store.compaction_waits()
    }
}
