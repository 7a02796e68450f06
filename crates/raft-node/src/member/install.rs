//! Going on from a leader's snapshot.
//!
//! ```text
//! its state: received, read, opened ─▶ Control::Install ─ waits for the machine, and for a leader
//!   ─▶ stepped ─▶ raft goes on from it ─▶ in the log, synced ─▶ the machine gets the state ─▶ the old one may be removed
//!             └─▶ raft has come further: the state is dropped
//! ```

use super::{Done, Member, Step, Stop, Turn, World};
use crate::core::Input;
use crate::{NodeFault, SnapshotHead};
use machine::Machine;
use std::fmt;
use std::time::Instant;
use types::Index;
use types::mutant::{Mutant, is};

/// A leader's snapshot with its state, ready to go on from.
pub struct Install {
    head: SnapshotHead,
    state: Machine,
}

impl Install {
    /// A state of this snapshot, opened on an engine that is durable.
    pub fn new(head: SnapshotHead, state: Machine) -> Self {
        Self { head, state }
    }
}

impl fmt::Debug for Install {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Install").field(&self.head).finish()
    }
}

impl Member {
    /// A state has arrived. The newest one waits.
    pub(super) fn arrived(&mut self, install: Install) {
        let index = |install: &Install| install.head.point().0;
        if self.arrived.as_ref().is_none_or(|waiting| index(waiting) < index(&install)) {
            self.arrived = Some(install);
        }
    }

    /// Steps the snapshot that waits, unless another thread has the machine, or there is no leader to answer.
    pub(super) fn step_arrived<W: World>(&mut self, now: Instant, world: &mut W) -> Turn<W> {
        let leader = self.core.leadership().leader;
        if self.applier.machine().is_none() || leader == 0 {
            return Ok(());
        }
        let Some(install) = self.arrived.take() else { return Ok(()) };
        let (index, term) = install.head.point();
        self.core.step(now, Input::Snapshot(install.head));
        if !self.core.is_restoring() {
            slog::info!(self.log, "ignored a snapshot: this member has come further by itself"; "index" => index);
            return self.process(now, world);
        }
        slog::info!(self.log, "installing a snapshot"; "index" => index, "term" => term);
        self.installing = Some(install.state);
        if is(Mutant::SwitchBeforeRecord) {
            self.switch(index, world)?;
        }
        self.process(now, world)
    }

    /// The log goes on from the snapshot of this index: so does the machine.
    pub(super) fn installed<W: World>(&mut self, now: Instant, index: Index, world: &mut W) -> Turn<W> {
        if !is(Mutant::SwitchBeforeRecord) {
            self.switch(index, world)?;
        }
        self.core.applied(now, index, &[])?;
        self.note_members(world);
        self.background.wake();
        // Nobody waits for an outcome, but who waits for the applied index is woken with them.
        self.done.push(Done::Outcomes(Vec::new()));
        self.act_on_effects(world);
        world.status_changed(&self.status());
        self.at(Step::Installed, world)?;
        self.hand_back(world)
    }

    fn switch<W: World>(&mut self, index: Index, world: &mut W) -> Turn<W> {
        let state = self.installing.take().filter(|state| state.applied().0 == index);
        let state = state.ok_or(NodeFault::NoState(index))?;
        let former = self.applier.replace(state)?;
        self.retention.installed(index);
        world.installed(index, former).map_err(Stop::Halt)
    }
}
