//! Applying committed entries, here or on another thread.
//!
//! ```text
//! committed ─┬─▶ few keys  ─▶ applied here, before the next tick
//!            └─▶ many keys ─▶ another thread borrows the machine and returns it as a control;
//!                             meanwhile ticks, appends and votes go on, and later entries wait in the log
//! waiting in the log ─▶ one group a turn, with a tick between two of them
//! ```
//!
//! A small delete request may remove a million keys, which takes seconds; a leader silent for that long would be
//! replaced. Only such groups change threads, because that costs a batch some microseconds (docs/adr/001-threads.md).

use super::{AppliedGroup, ApplyJob, Done, Job, Member, Step, Stop, Turn, World};
use crate::meters::Applies;
use crate::{Meters, NodeFault};
use bytes::Bytes;
use machine::{Effect, Machine, Outcome, Response};
use std::time::{Duration, Instant};
use types::mutant::{Mutant, is};
use types::{Entry, EntryKind, Index};

pub(super) struct Applier {
    /// `None` while another thread has it.
    machine: Option<Machine>,
    /// Whether ticks must be kept: then large groups go to another thread, and each turn applies one group.
    keeps_ticks: bool,
    has_applied: bool,
    /// The newest entry committed for applying, and the newest one applied.
    committed: Index,
    applied: Index,
    /// Bytes of committed entries that are not applied.
    backlog_bytes: usize,
    applies: Applies,
}

impl Applier {
    pub(super) fn new(machine: Machine, meters: Meters) -> Self {
        let applied = machine.applied().0;
        Self {
            machine: Some(machine),
            keeps_ticks: false,
            has_applied: false,
            committed: applied,
            applied,
            backlog_bytes: 0,
            applies: Applies::new(meters),
        }
    }

    pub(super) fn machine(&mut self) -> Option<&mut Machine> {
        self.machine.as_mut()
    }

    /// Begins a turn: there is a tick between two of them.
    pub(super) fn begin_turn(&mut self) {
        (self.keeps_ticks, self.has_applied) = (true, false);
    }

    pub(super) fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    pub(super) fn applied(&self) -> Index {
        self.applied
    }

    /// Goes on from another state, later than everything committed so far; returns the former one.
    pub(super) fn replace(&mut self, state: Machine) -> Result<Machine, NodeFault> {
        let index = state.applied().0;
        let former = self.machine.as_mut().ok_or(NodeFault::ThreadGone)?.replace(state)?;
        (self.committed, self.applied, self.backlog_bytes) = (index, index, 0);
        Ok(former)
    }

    fn is_behind(&self) -> bool {
        self.applied < self.committed
    }

    pub(super) fn may_catch_up(&self) -> bool {
        self.machine.is_some() && self.is_behind()
    }
}

impl Member {
    /// Applies committed entries in order: now, or in a later turn if others wait before them.
    pub(super) fn committed<W: World>(
        &mut self,
        now: Instant,
        entries: Vec<Entry>,
        world: &mut W,
    ) -> Turn<W> {
        let Some(last) = entries.last() else { return Ok(()) };
        let waits = self.applier.is_behind() || (self.applier.keeps_ticks && self.applier.has_applied);
        self.applier.committed = last.index;
        self.applier.backlog_bytes += bytes(&entries);
        // They can be dropped: the log has them.
        if waits { Ok(()) } else { self.apply(now, entries, world) }
    }

    /// Applies one group of entries waiting in the log, if this turn has applied none; returns whether it did.
    pub(super) fn catch_up<W: World>(&mut self, now: Instant, world: &mut W) -> Result<bool, Stop<W::Halt>> {
        if !self.applier.may_catch_up() || self.applier.has_applied || self.core.is_removed() {
            return Ok(false);
        }
        let entries = self.core.committed(self.applier.applied, self.applier.committed)?;
        self.apply(now, entries, world)?;
        Ok(true)
    }

    fn apply<W: World>(&mut self, now: Instant, mut entries: Vec<Entry>, world: &mut W) -> Turn<W> {
        // What the world leaves out waits in the log for a later group.
        world.group(&mut entries);
        world.at(Step::BeforeApply, self.core.log()).map_err(Stop::Halt)?;
        let Applier { machine: Some(machine), keeps_ticks, has_applied, .. } = &mut self.applier else {
            return Ok(());
        };
        *has_applied = true;
        let begun = world.now();
        let broken = is(Mutant::SkipEntry).then(|| skip_some(&entries, self.options.member));
        let given = broken.as_ref().unwrap_or(&entries);
        let short = if *keeps_ticks {
            machine.apply_short(given)
        } else {
            machine.apply(given).map(|outcomes| (outcomes, entries.len()))
        };
        let (outcomes, done) = short.map_err(NodeFault::from)?;
        let took = world.now().saturating_duration_since(begun);
        let rest = entries.split_off(done);
        self.applied(now, took, &entries, outcomes, world)?;
        if !rest.is_empty()
            && !self.core.is_removed()
            && let Some(machine) = self.applier.machine.take()
        {
            let job = Box::new(ApplyJob { machine, entries: rest });
            world.start(Job::Apply(job)).map_err(|_| NodeFault::ThreadGone)?;
        }
        Ok(())
    }

    pub(super) fn machine_back<W: World>(
        &mut self,
        now: Instant,
        back: AppliedGroup,
        world: &mut W,
    ) -> Turn<W> {
        let AppliedGroup { machine, entries, outcomes, took } = back;
        self.applier.machine = Some(machine);
        self.applied(now, took, &entries, outcomes?, world)?;
        // It may be lent out again before the member rests.
        self.in_background(false, world)?;
        Ok(())
    }

    fn applied<W: World>(
        &mut self,
        now: Instant,
        took: Duration,
        entries: &[Entry],
        mut outcomes: Vec<Outcome>,
        world: &mut W,
    ) -> Turn<W> {
        let Some(last) = entries.last().map(|entry| entry.index) else { return Ok(()) };
        self.applier.applied = last;
        self.applier.backlog_bytes -= bytes(entries);
        self.applier.applies.group(took, entries, &outcomes);
        if let Some(machine) = self.applier.machine() {
            world.applied(entries, &outcomes, machine).map_err(Stop::Halt)?;
        }
        self.core.applied(now, last, &outcomes)?;
        let accepted = |outcome: &Outcome| matches!(outcome.effect, Effect::Conf { accepted: true, .. });
        if outcomes.iter().any(accepted) {
            self.note_members(world);
        }
        if outcomes.iter().any(|o| matches!(o.effect, Effect::Answer(Ok(Response::Compaction(_))))) {
            self.background.wake();
        }
        self.leases_applied(world);
        outcomes.retain(|outcome| self.ids.is_own(outcome.request_id) || outcome.over_quota);
        self.done.push(Done::Outcomes(outcomes));
        self.act_on_effects(world);
        // Publish the index before the answers.
        world.status_changed(&self.status());
        self.hand_back(world)
    }
}

/// Drops some entries, for [`Mutant::SkipEntry`].
fn skip_some(entries: &[Entry], member: u64) -> Vec<Entry> {
    let skips = |entry: &Entry| member == 2 && entry.index % 97 == 96 && entry.kind == EntryKind::Normal;
    let skip =
        |entry: &Entry| if skips(entry) { Entry { data: Bytes::new(), ..*entry } } else { entry.clone() };
    entries.iter().map(skip).collect()
}

fn bytes(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.data.len()).sum()
}
