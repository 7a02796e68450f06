//! Jobs on other threads, because they take long: flushes, groups of many keys, the deadlines of many leases.

use super::inbox::Control;
use crate::NodeFault;
use lease::{Deadlines, Pace};
use machine::{Machine, Outcome};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::mutant::{Mutant, is};
use types::{Entry, Index, Term};

/// A job for another thread. Its result is a control in a later turn.
pub enum Job {
    /// Flush the engine that these readers see; it has applied up to this index.
    Flush(Index, Arc<machine::Shared>),
    /// Apply a group, or a first part of it.
    Apply(Box<ApplyJob>),
    /// Build the deadlines of a new leader's leases.
    Deadlines(Box<DeadlinesJob>),
}

/// A machine and the entries that it is to apply.
pub struct ApplyJob {
    pub(super) machine: Machine,
    pub(super) entries: Vec<Entry>,
}

/// A machine on its way back.
pub struct AppliedGroup {
    pub(super) machine: Machine,
    pub(super) entries: Vec<Entry>,
    pub(super) outcomes: Result<Vec<Outcome>, NodeFault>,
    pub(super) took: Duration,
}

/// The leases whose deadlines a term needs.
#[derive(Debug)]
pub struct DeadlinesJob {
    pub(super) pace: Pace,
    pub(super) now: Instant,
    pub(super) term: Term,
    pub(super) leases: Vec<lease::Info>,
}

impl Job {
    /// Runs the job. `now` reads the clock. A panic becomes a fault.
    pub fn run(self, now: impl Fn() -> Instant) -> Control {
        let run = AssertUnwindSafe(|| match self {
            Self::Flush(index, _) if is(Mutant::SkipFlush) => Control::Flushed(Ok(index)),
            Self::Flush(index, shared) => {
                Control::Flushed(shared.flush().map(|()| index).map_err(NodeFault::from))
            }
            Self::Apply(job) => Control::Applied(Box::new(job.apply(now))),
            Self::Deadlines(building) => Control::Deadlines(Box::new(building.build())),
        });
        catch_unwind(run).unwrap_or(Control::Failed(NodeFault::Panicked))
    }
}

impl ApplyJob {
    fn apply(self, now: impl Fn() -> Instant) -> AppliedGroup {
        let Self { mut machine, mut entries } = self;
        let begun = now();
        let applied = machine.apply_long(&entries).map_err(NodeFault::from);
        let outcomes = applied.map(|(outcomes, done)| {
            entries.truncate(done);
            outcomes
        });
        AppliedGroup { machine, entries, outcomes, took: now().saturating_duration_since(begun) }
    }
}

impl AppliedGroup {
    /// The applied entries, their outcomes and the machine; `None` if that failed.
    pub fn group(&self) -> Option<(&[Entry], &[Outcome], &Machine)> {
        let outcomes = self.outcomes.as_ref().ok()?;
        Some((&self.entries, outcomes, &self.machine))
    }
}

impl DeadlinesJob {
    pub(super) fn build(&self) -> Deadlines {
        Deadlines::new(self.pace, self.now, self.term, self.leases.iter().copied())
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flush(index, _) => f.debug_tuple("Flush").field(index).finish(),
            Self::Apply(job) => job.fmt(f),
            Self::Deadlines(job) => job.fmt(f),
        }
    }
}

impl fmt::Debug for ApplyJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApplyJob").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for AppliedGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppliedGroup").field("took", &self.took).finish_non_exhaustive()
    }
}
