//! What the machine does for nobody in particular: compaction, a bounded step at a time, between the groups.
//!
//! With nothing else to do step follows step. Under load the thread never rests, so a step is due every
//! [`Limits::background_every`] all the same: history would pile up as long as the load lasts. While readers hold Views that
//! compaction would take rows from, it waits for the next tick, and for them no longer than [`Limits::readers_wait`].

use crate::{Limits, Meters, NodeFault};
use machine::Machine;
use std::time::{Duration, Instant};

pub(super) struct Background {
    due: bool,
    not_before: Instant,
    readers_since: Option<Instant>,
    /// When the compaction under way took its first step.
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

    /// The machine may have something to do.
    pub(super) fn wake(&mut self) {
        self.due = true;
    }

    /// One step, if it is due; `true` = there is more to do at once, if there is nothing else.
    pub(super) fn step(
        &mut self,
        now: Instant,
        machine: &mut Machine,
        is_idle: bool,
    ) -> Result<bool, NodeFault> {
        if !self.due || !(is_idle || now >= self.not_before) {
            return Ok(false);
        }
        self.not_before = now + self.every;
        let before = machine.shared().view().compaction_done();
        self.due = machine.idle().map_err(|fault| NodeFault::Engine(fault.to_string()))?;
        self.measure(now, machine, before);
        if !machine.waits_for_readers() {
            self.readers_since = None;
        } else if now.duration_since(*self.readers_since.get_or_insert(now)) >= self.readers_wait {
            machine.expire_views();
            self.readers_since = None;
            self.due = true;
        }
        Ok(self.due)
    }

    /// Notes a step that began at `now`, and the compaction's end.
    fn measure(&mut self, now: Instant, machine: &Machine, before: i64) {
        let view = machine.shared().view();
        let done = view.compaction_done();
        if before < view.compact_revision() && !machine.waits_for_readers() {
            self.compacting_since.get_or_insert(now);
            self.meters.compaction_step(now.elapsed());
        }
        if before < done
            && let Some(since) = self.compacting_since.take()
        {
            self.meters.compaction_done(since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::MemoryEngine;
    use machine::Settings;
    use prost::Message as _;
    use proto::etcdserverpb as pb;
    use std::sync::Arc;
    use types::{Entry, EntryKind, MemberId};

    fn machine() -> Machine {
        let settings = Settings::new(MemberId(1), 2);
        Machine::open(Arc::new(MemoryEngine::default()), settings).unwrap()
    }

    fn apply(machine: &mut Machine, request: pb::InternalRaftRequest) {
        let index = machine.applied().0 + 1;
        let header = Some(pb::RequestHeader { id: index, ..Default::default() });
        let data = pb::InternalRaftRequest { header, ..request }.encode_to_vec().into();
        machine.apply(&[Entry { term: 1, index, kind: EntryKind::Normal, data }]).unwrap();
    }

    /// 2,500 versions of one key, all but the last of them compacted.
    fn compacted(machine: &mut Machine) {
        for _ in 0..2_500 {
            let put = pb::PutRequest { key: "k".into(), ..Default::default() };
            apply(machine, pb::InternalRaftRequest { put: Some(put), ..Default::default() });
        }
        let compaction = pb::CompactionRequest { revision: 2_501, ..Default::default() };
        apply(machine, pb::InternalRaftRequest { compaction: Some(compaction), ..Default::default() });
    }

    #[test]
    fn compaction_goes_on_under_load_a_step_at_a_time() {
        let (mut machine, begun) = (machine(), Instant::now());
        compacted(&mut machine);
        let mut background = Background::new(begun, Meters::new(), &Limits::default());
        let mut steps = 0;
        for millis in 0..100 {
            let now = begun + Duration::from_millis(millis);
            let before = background.not_before;
            background.step(now, &mut machine, false).unwrap();
            steps += usize::from(background.not_before != before);
        }
        // Two walks over the same rows, one to hash and one to remove: the last step of each tells that it is done.
        assert_eq!((steps, machine.shared().view().compaction_done()), (5, 2_501));
    }

    #[test]
    fn readers_hold_compaction_up_without_a_loop_that_spins_and_not_for_ever() {
        let (mut machine, begun) = (machine(), Instant::now());
        compacted(&mut machine);
        machine.idle().unwrap();
        let put = pb::PutRequest { key: "k".into(), ..Default::default() };
        apply(&mut machine, pb::InternalRaftRequest { put: Some(put), ..Default::default() });
        while machine.idle().unwrap() {}
        let reader = machine.shared().view();
        let compaction = pb::CompactionRequest { revision: 2_502, ..Default::default() };
        apply(&mut machine, pb::InternalRaftRequest { compaction: Some(compaction), ..Default::default() });
        let mut background = Background::new(begun, Meters::new(), &Limits::default());
        assert!(!background.step(begun, &mut machine, true).unwrap(), "nothing to do at once");
        background.wake();
        let late = begun + Limits::default().readers_wait;
        assert!(background.step(late, &mut machine, true).unwrap());
        assert!(!background.step(late, &mut machine, true).unwrap());
        assert_eq!((reader.revision(), machine.shared().view().compaction_done()), (2_502, 2_502));
    }
}
