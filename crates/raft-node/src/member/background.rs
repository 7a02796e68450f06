//! Background work of the machine: compaction, in bounded steps between groups.
//!
//! When idle, step follows step; under load one is due every [`Limits::background_every`], or history would pile up.
//! While readers hold views of the rows, it waits for the next tick, for at most [`Limits::readers_wait`].

use crate::{Limits, Meters, NodeFault};
use machine::Machine;
use std::time::{Duration, Instant};

pub(super) struct Background {
    due: bool,
    not_before: Instant,
    readers_since: Option<Instant>,
    compacting_since: Option<Instant>,
    every: Duration,
    readers_wait: Duration,
    meters: Meters,
}

impl Background {
    pub(super) fn new(now: Instant, meters: Meters, limits: &Limits) -> Self {
        Self {
            due: true,
            not_before: now,
            readers_since: None,
            compacting_since: None,
            every: limits.background_every,
            readers_wait: limits.readers_wait,
            meters,
        }
    }

    pub(super) fn wake(&mut self) {
        self.due = true;
    }

    /// Does one step if due; returns whether there is more to do at once, if idle. `clock` returns the time.
    pub(super) fn step(
        &mut self,
        mut clock: impl FnMut() -> Instant,
        machine: &mut Machine,
        is_idle: bool,
    ) -> Result<bool, NodeFault> {
        if !self.due {
            return Ok(false);
        }
        let now = clock();
        if !is_idle && now < self.not_before {
            return Ok(false);
        }
        self.not_before = now + self.every;
        let before = machine.shared().view().compaction_done();
        self.due = machine.idle()?;
        self.measure(now, clock(), machine, before);
        if !machine.waits_for_readers() {
            self.readers_since = None;
        } else if now.duration_since(*self.readers_since.get_or_insert(now)) >= self.readers_wait {
            machine.expire_views();
            self.readers_since = None;
            self.due = true;
        }
        Ok(self.due)
    }

    fn measure(&mut self, begin: Instant, end: Instant, machine: &Machine, before: i64) {
        let view = machine.shared().view();
        let done = view.compaction_done();
        if before < view.compact_revision() && !machine.waits_for_readers() {
            self.compacting_since.get_or_insert(begin);
            self.meters.compaction_step(end.saturating_duration_since(begin));
        }
        if before < done
            && let Some(since) = self.compacting_since.take()
        {
            self.meters.compaction_done(end.saturating_duration_since(since));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::MemoryEngine;
    use machine::{Command, Settings};
    use proto::etcdserverpb as pb;
    use std::sync::Arc;
    use types::{Entry, EntryKind};

    fn machine() -> Machine {
        let settings = Settings::new(1, 2);
        Machine::open(Arc::new(MemoryEngine::default()), settings).unwrap()
    }

    fn apply(machine: &mut Machine, command: impl Into<Command>) {
        let index = machine.applied().0 + 1;
        let data = command.into().encode(index);
        machine.apply(&[Entry { term: 1, index, kind: EntryKind::Normal, data }]).unwrap();
    }

    /// Writes 2,500 versions of a key, and compacts all but the last.
    fn compacted(machine: &mut Machine) {
        for _ in 0..2_500 {
            let put = pb::PutRequest { key: "k".into(), ..Default::default() };
            apply(machine, put);
        }
        let compaction = pb::CompactionRequest { revision: 2_501, ..Default::default() };
        apply(machine, compaction);
    }

    #[test]
    fn compaction_goes_on_under_load_a_step_at_a_time() {
        let (mut machine, begun) = (machine(), Instant::now());
        compacted(&mut machine);
        let mut background = Background::new(begun, Meters::default(), &Limits::default());
        let mut steps = 0;
        for millis in 0..100 {
            let now = begun + Duration::from_millis(millis);
            let before = background.not_before;
            background.step(|| now, &mut machine, false).unwrap();
            steps += usize::from(background.not_before != before);
        }
        // Two walks over the same rows, one to hash and one to remove: only the last step of each knows that it is
        // done.
        assert_eq!((steps, machine.shared().view().compaction_done()), (5, 2_501));
    }

    #[test]
    fn readers_hold_compaction_up_without_a_loop_that_spins_and_not_for_ever() {
        let (mut machine, begun) = (machine(), Instant::now());
        compacted(&mut machine);
        machine.idle().unwrap();
        let put = pb::PutRequest { key: "k".into(), ..Default::default() };
        apply(&mut machine, put);
        while machine.idle().unwrap() {}
        let reader = machine.shared().view();
        let compaction = pb::CompactionRequest { revision: 2_502, ..Default::default() };
        apply(&mut machine, compaction);
        let mut background = Background::new(begun, Meters::default(), &Limits::default());
        assert!(!background.step(|| begun, &mut machine, true).unwrap(), "nothing to do at once");
        background.wake();
        let late = begun + Limits::default().readers_wait;
        assert!(background.step(|| late, &mut machine, true).unwrap());
        assert!(!background.step(|| late, &mut machine, true).unwrap());
        assert_eq!((reader.revision(), machine.shared().view().compaction_done()), (2_502, 2_502));
    }
}
