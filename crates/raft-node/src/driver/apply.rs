//! Where committed entries are applied.
//!
//! ```text
//! committed ─▶ few keys ─▶ applied here, before the next tick
//!          └─▶ many keys ─▶ the machine goes to a thread of its own, and comes back as a command
//!                           meanwhile ticks, appends and votes go on; what is committed waits in the log
//! ```
//!
//! A delete of a few bytes may remove a million keys, and takes seconds. A leader that is silent meanwhile would not lead
//! for long. The other thread is paid for only there: a batch that changes threads costs microseconds more
//! (docs/adr/001-threads.md).

use super::Driver;
use crate::NodeFault;
use crate::front::{Command, Done};
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
    /// Whether it may go away.
    lends: bool,
    jobs: SyncSender<(Machine, Vec<Entry>)>,
    thread: JoinHandle<()>,
    /// The newest entry that was handed out to be applied.
    committed: Index,
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
        Ok(Self { machine: Some(machine), lends: false, jobs, thread, committed: 0, applies })
    }

    /// The machine, unless it is away.
    pub(super) fn machine(&mut self) -> Option<&mut Machine> {
        self.machine.as_mut()
    }

    /// From now on there are ticks to be kept.
    pub(super) fn lend(&mut self) {
        self.lends = true;
    }

    /// Waits for what is under way: nobody may write when the engine closes.
    pub(super) fn finish(self) {
        drop(self.jobs);
        let _ = self.thread.join();
    }
}

fn work(todo: &Receiver<(Machine, Vec<Entry>)>, shared: &Shared) {
    while let Ok((mut machine, entries)) = todo.recv() {
        let begun = Instant::now();
        let applied = std::panic::catch_unwind(AssertUnwindSafe(|| machine.apply(&entries)));
        let outcomes = match applied {
            Ok(outcomes) => outcomes.map_err(|fault| NodeFault::Engine(fault.to_string())),
            Err(_) => Err(NodeFault::Panicked),
        };
        let back = Back { machine, entries, outcomes, took: begun.elapsed() };
        shared.command(Command::Applied(Box::new(back)));
    }
}

impl Driver {
    /// Applies what was committed, in order: now, or when the machine is back.
    pub(super) fn committed(&mut self, now: Instant, entries: Vec<Entry>) -> Result<(), NodeFault> {
        let Some(last) = entries.last() else { return Ok(()) };
        self.applier.committed = last.index;
        self.apply(now, entries)
    }

    /// While the machine is away the entries go: the log has them.
    fn apply(&mut self, now: Instant, mut entries: Vec<Entry>) -> Result<(), NodeFault> {
        let Applier { machine: Some(machine), lends, .. } = &mut self.applier else { return Ok(()) };
        let begun = Instant::now();
        let short = if *lends {
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

    /// The machine is back: what was committed meanwhile is applied.
    pub(super) fn machine_back(&mut self, now: Instant, back: Back) -> Result<(), NodeFault> {
        let Back { machine, entries, outcomes, took } = back;
        self.applier.machine = Some(machine);
        self.applied(now, took, &entries, outcomes?)?;
        while !self.core.is_removed()
            && let Some(machine) = self.applier.machine()
        {
            let entries = self.core.committed(machine.applied().0, self.applier.committed)?;
            if entries.is_empty() {
                break;
            }
            self.apply(now, entries)?;
        }
        Ok(())
    }

    fn applied(
        &mut self,
        now: Instant,
        took: Duration,
        entries: &[Entry],
        mut outcomes: Vec<Outcome>,
    ) -> Result<(), NodeFault> {
        let Some(last) = entries.last().map(|entry| entry.index) else { return Ok(()) };
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
