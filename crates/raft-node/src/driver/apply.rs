//! Where committed entries are applied.
//!
//! ```text
//! committed ─▶ few keys ─▶ applied here, before the next tick
//!          └─▶ many keys ─▶ the machine goes to a thread of its own, and comes back as a command
//!                           meanwhile ticks, appends and votes go on; what is committed waits in the log
//! in the log ─▶ a group a turn, with a tick between two of them
//! ```
//!
//! A delete of a few bytes may remove a million keys, and takes seconds. A leader that is silent meanwhile would not lead
//! for long. The other thread is paid for only there: a batch that changes threads costs microseconds more
//! (docs/adr/001-threads.md).

use super::Driver;
use crate::NodeFault;
use crate::front::{Batch, Command, Done};
use crate::handle::Shared;
use crate::meters::Applies;
use machine::{Effect, Machine, Outcome, Response};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use types::{Entry, Index};

/// The machine, or the way to it.
pub(super) struct Applier {
    /// Nothing while it is away.
    machine: Option<Machine>,
    /// Whether there are ticks to be kept: then it may go away, and applies one group a turn.
    keeps_ticks: bool,
    /// Whether this turn has had its group.
    has_applied: bool,
    jobs: SyncSender<(Machine, Vec<Entry>)>,
    thread: JoinHandle<()>,
    /// The newest entry that was handed out to be applied, and the newest that is; 0 before any.
    committed: Index,
    applied: Index,
    /// Bytes of what was handed out and is not applied.
    backlog_bytes: usize,
    applies: Applies,
}

/// A machine on its way back.
pub(crate) struct Back {
    machine: Machine,
    entries: Vec<Entry>,
    outcomes: Result<Vec<Outcome>, NodeFault>,
    took: Duration,
}

impl fmt::Debug for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Back").field("took", &self.took).finish_non_exhaustive()
    }
}

impl Applier {
    pub(super) fn start(machine: Machine, shared: Arc<Shared>) -> std::io::Result<Self> {
        let applies = Applies::new(shared.meters.clone());
        let (jobs, todo) = sync_channel(1);
        let thread =
            std::thread::Builder::new().name("apply".to_owned()).spawn(move || work(&todo, &shared))?;
        Ok(Self {
            machine: Some(machine),
            keeps_ticks: false,
            has_applied: false,
            jobs,
            thread,
            committed: 0,
            applied: 0,
            backlog_bytes: 0,
            applies,
        })
    }

    /// The machine, unless it is away.
    pub(super) fn machine(&mut self) -> Option<&mut Machine> {
        self.machine.as_mut()
    }

    /// A turn begins: there is a tick between two of them.
    pub(super) fn begin_turn(&mut self) {
        (self.keeps_ticks, self.has_applied) = (true, false);
    }

    /// Bytes of committed entries that are not applied yet.
    pub(super) fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    fn is_behind(&self) -> bool {
        self.applied < self.committed
    }

    /// Whether something waits in the log for a machine that is there.
    pub(super) fn may_catch_up(&self) -> bool {
        self.machine.is_some() && self.is_behind()
    }

    /// Waits for what is under way: nobody may write when the engine closes.
    pub(super) fn finish(self) {
        drop(self.jobs);
        let _ = self.thread.join();
    }
}

fn work(todo: &Receiver<(Machine, Vec<Entry>)>, shared: &Shared) {
    while let Ok((mut machine, mut entries)) = todo.recv() {
        let begun = Instant::now();
        let applied = std::panic::catch_unwind(AssertUnwindSafe(|| machine.apply_long(&entries)));
        let outcomes = match applied {
            Ok(Ok((outcomes, done))) => {
                entries.truncate(done);
                Ok(outcomes)
            }
            Ok(Err(fault)) => Err(NodeFault::Engine(fault.to_string())),
            Err(_) => Err(NodeFault::Panicked),
        };
        let back = Back { machine, entries, outcomes, took: begun.elapsed() };
        // Not by way of the runtime, which may be busy.
        let commands = vec![Command::Applied(Box::new(back))];
        shared.inbox.hand_over(&mut Batch { commands, ..Batch::default() });
    }
}

impl Driver {
    /// Applies what was committed, in order: now, or, where there is something before it, in its turn.
    pub(super) fn committed(&mut self, now: Instant, entries: Vec<Entry>) -> Result<(), NodeFault> {
        let Some(last) = entries.last() else { return Ok(()) };
        let waits = self.applier.is_behind() || (self.applier.keeps_ticks && self.applier.has_applied);
        self.applier.committed = last.index;
        self.applier.backlog_bytes += bytes(&entries);
        // What waits goes: the log has it.
        if waits { Ok(()) } else { self.apply(now, entries) }
    }

    /// Applies a group of what waits in the log, unless this turn has had one; whether there was any.
    pub(super) fn catch_up(&mut self, now: Instant) -> Result<bool, NodeFault> {
        if !self.applier.may_catch_up() || self.applier.has_applied || self.core.is_removed() {
            return Ok(false);
        }
        let entries = self.core.committed(self.applier.applied, self.applier.committed)?;
        self.apply(now, entries)?;
        Ok(true)
    }

    fn apply(&mut self, now: Instant, mut entries: Vec<Entry>) -> Result<(), NodeFault> {
        let Applier { machine: Some(machine), keeps_ticks, has_applied, .. } = &mut self.applier else {
            return Ok(());
        };
        *has_applied = true;
        let begun = Instant::now();
        let short = if *keeps_ticks {
            machine.apply_short(&entries)
        } else {
            machine.apply(&entries).map(|outcomes| (outcomes, entries.len()))
        };
        let (outcomes, done) = short.map_err(|fault| NodeFault::Engine(fault.to_string()))?;
        let rest = entries.split_off(done);
        self.applied(now, begun.elapsed(), &entries, outcomes)?;
        if !rest.is_empty()
            && !self.core.is_removed()
            && let Some(machine) = self.applier.machine.take()
        {
            let sent = self.applier.jobs.try_send((machine, rest));
            sent.map_err(|_| NodeFault::Engine("the applying thread is gone".to_owned()))?;
        }
        Ok(())
    }

    /// The machine is back.
    pub(super) fn machine_back(&mut self, now: Instant, back: Back) -> Result<(), NodeFault> {
        let Back { machine, entries, outcomes, took } = back;
        self.applier.machine = Some(machine);
        self.applied(now, took, &entries, outcomes?)?;
        // It may go away again before there is rest.
        self.in_background(false).map(drop)
    }

    fn applied(
        &mut self,
        now: Instant,
        took: Duration,
        entries: &[Entry],
        mut outcomes: Vec<Outcome>,
    ) -> Result<(), NodeFault> {
        let Some(last) = entries.last().map(|entry| entry.index) else { return Ok(()) };
        self.applier.applied = last;
        self.applier.backlog_bytes -= bytes(entries);
        self.applier.applies.group(took, entries, &outcomes);
        self.core.applied(now, last, &outcomes)?;
        self.shared.cells.applied.store(last, Relaxed);
        let accepted = |outcome: &Outcome| matches!(outcome.effect, Effect::Conf { accepted: true, .. });
        if outcomes.iter().any(accepted) {
            self.note_members();
        }
        if outcomes.iter().any(|o| matches!(o.effect, Effect::Answer(Ok(Response::Compaction(_))))) {
            self.background.wake();
        }
        self.leases_applied();
        let ids = &self.shared.ids;
        outcomes.retain(|outcome| ids.is_own(outcome.request_id) || outcome.over_quota);
        self.done.push(Done::Outcomes(outcomes));
        self.act_on_effects();
        // Who has an answer sees its index in the status.
        self.publish_status();
        self.shared.outbox.hand_back(&mut self.done);
        Ok(())
    }
}

fn bytes(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.data.len()).sum()
}
