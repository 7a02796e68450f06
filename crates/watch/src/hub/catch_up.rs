//! Catching up: brings lagging watchers forward, from the ring at once or from the history in rounds.

use super::{Hub, Step, WatcherState};
use crate::round::{Collector, Participant, Wanted};
use crate::{Chunk, History, HistoryError, Limits, READ_COST, Response, Round};
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::ControlFlow;

impl Hub {
    /// Does a bounded part of the work: dispatches new events, catches up lagging watchers, or returns a round to read.
    pub fn step(&mut self, history: &dyn History) -> Step {
        if self.is_dispatching() {
            self.dispatch(history);
            return Step::Again;
        }
        let first = self.ring.first();
        if let Some(&(from, _)) = self.behind.range((first, 0)..).next() {
            self.catch_up(from, history);
            return Step::Again;
        }
        let compacted = history.compact_revision();
        while let Some(&(next, at)) = self.behind.first()
            && next < compacted
        {
            self.end_compacted(at, compacted);
        }
        if self.reading {
            return Step::Idle;
        }
        let ahead = self.behind.range((self.sweep, 0)..).next();
        let Some(&(from, _)) = ahead.or(self.behind.first()) else { return Step::Idle };
        self.reading = true;
        let (participants, wanted) = self.gather(from);
        let Limits { round_rows: rows_max, round_bytes: bytes_max, .. } = self.limits;
        Step::Read(Round { from, to: self.revision, participants, wanted, rows_max, bytes_max })
    }

    /// Takes the result of a round. `HistoryError::Compacted` is found again in the next step, for each watcher.
    pub fn finish(&mut self, round: &Round, result: Result<Chunk, HistoryError>) {
        self.reading = false;
        match result {
            Ok(chunk) => {
                self.sweep = chunk.end + 1;
                self.take(&round.participants, &chunk);
            }
            Err(HistoryError::Compacted) => {
                for participant in &round.participants {
                    if let Some(next) = self.reading_next(participant) {
                        self.advance(participant.watcher, next);
                    }
                }
            }
            Err(HistoryError::Failed(reason)) => {
                for participant in &round.participants {
                    if self.reading_next(participant).is_some() {
                        self.fail(self.watchers[participant.watcher].stream, &reason);
                    }
                }
            }
        }
        self.announce_all();
    }

    /// Catches up watchers that need `from`, from the ring.
    fn catch_up(&mut self, from: i64, history: &dyn History) {
        let (participants, wanted) = self.gather(from);
        let mut collector = Collector::new(&wanted, self.limits.ring_step_events, self.limits.round_bytes);
        for at in self.ring.position(from)..self.ring.end() {
            let event = self.ring.event(at).clone();
            let (ring, mut reads) = (&mut self.ring, 0);
            let taken = collector.take(&event, &mut |previous| {
                reads += usize::from(ring.lacks(at, previous));
                ring.bytes(at, previous, history)
            });
            collector.spend(reads * READ_COST);
            match taken {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                Err(gone) => {
                    let reason = match gone {
                        HistoryError::Failed(reason) => reason,
                        HistoryError::Compacted => "a version was compacted while it was read".to_owned(),
                    };
                    for participant in &participants {
                        if self.reading_next(participant).is_some() {
                            self.fail(self.watchers[participant.watcher].stream, &reason);
                        }
                    }
                    return;
                }
            }
        }
        let chunk = collector.finish(self.revision);
        self.take(&participants, &chunk);
        // Reading previous versions, which may be large, has grown the ring.
        self.bound();
    }

    fn gather(&mut self, from: i64) -> (Vec<Participant>, Wanted) {
        let chosen: Vec<(i64, usize)> =
            self.behind.range((from, 0)..).take(self.limits.round_watchers).copied().collect();
        let (mut specs, mut places) = (Vec::new(), HashMap::new());
        let mut participants = Vec::with_capacity(chosen.len());
        for (next, at) in chosen {
            self.behind.remove(&(next, at));
            let watcher = &mut self.watchers[at];
            watcher.state = WatcherState::Reading;
            let topic = *places.entry(watcher.topic).or_insert_with(|| {
                specs.push(self.topics[watcher.topic].spec.clone());
                specs.len() - 1
            });
            participants.push(Participant { watcher: at, serial: watcher.serial, topic });
        }
        (participants, Wanted::new(specs))
    }

    /// The revision that a participant needs next, if it still exists and waits for its round.
    fn reading_next(&self, participant: &Participant) -> Option<i64> {
        let watcher = self.watchers.get(participant.watcher)?;
        match watcher.state {
            WatcherState::Reading if watcher.serial == participant.serial => Some(watcher.next),
            _ => None,
        }
    }

    fn take(&mut self, participants: &[Participant], chunk: &Chunk) {
        // Most watchers of a topic need the same events: join them once.
        let mut joined: Vec<Option<(i64, Bytes, usize)>> = vec![None; chunk.found.len()];
        for participant in participants {
            let Some(next) = self.reading_next(participant) else { continue };
            if next > chunk.end {
                self.advance(participant.watcher, next);
                continue;
            }
            let found = &chunk.found[participant.topic];
            let first = found.events.iter().map(|(main, _)| *main).find(|main| *main >= next);
            let Some(first) = first else {
                self.advance(participant.watcher, chunk.end + 1);
                continue;
            };
            let watcher = &mut self.watchers[participant.watcher];
            if !self.streams[watcher.stream].has_room(&self.limits) {
                self.block(participant.watcher, next);
                continue;
            }
            let known = joined[participant.topic].take().filter(|(from, ..)| *from == first);
            let (_, events, count) = known.unwrap_or_else(|| {
                let (events, count) = found.joined(first);
                (first, events, count)
            });
            joined[participant.topic] = Some((first, events.clone(), count));
            if watcher.notify.is_some() {
                watcher.notify = Some(false);
            }
            let (id, fragment, stream) = (watcher.id, watcher.fragment, watcher.stream);
            self.push(stream, Response::Events { id, revision: chunk.end, fragment, count, events });
            self.advance(participant.watcher, chunk.end + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Create, Event, Spec};
    use types::{KeyRange, Revision};

    const PREVIOUS_BYTES: usize = 100 << 10;

    struct LargeBefore;

    impl History for LargeBefore {
        fn compact_revision(&self) -> i64 {
            -1
        }

        fn events(
            &self,
            _: i64,
            _: i64,
            _: &mut dyn FnMut(Event) -> ControlFlow<()>,
        ) -> Result<(), HistoryError> {
            Ok(())
        }

        fn with_previous(&self, _: &Event) -> Result<Bytes, HistoryError> {
            Ok(vec![0; PREVIOUS_BYTES].into())
        }
    }

    #[test]
    fn versions_before_do_not_outgrow_the_ring_while_nothing_is_published() {
        let mut hub = Hub::new(0);
        let event = |main| Event {
            at: Revision::new(main, 0),
            delete: true,
            key: "k".into(),
            previous: Some(Revision::new(1, 0)),
            bytes: "event".into(),
        };
        hub.publish((1..=200).map(event).collect(), 200);
        let key = hub.open();
        let spec = Spec { range: KeyRange::all(), puts: true, deletes: true, previous: true };
        hub.create(key, Create { id: 0, spec, start: 1, fragment: false, notify: false }, -1);
        let mut steps = 0;
        while matches!(hub.step(&LargeBefore), Step::Again) {
            steps += 1;
            while hub.pop(key).is_some() {}
            let Limits { ring_bytes, round_bytes, .. } = Limits::default();
            assert!(hub.ring.bytes_held() <= ring_bytes + round_bytes, "{}", hub.ring.bytes_held());
        }
        assert!(steps > 10, "{steps}");
    }

    #[test]
    fn nothing_is_settled_that_a_watcher_that_keeps_up_was_not_told_and_who_began_late_is_not_waited_for() {
        let mut hub = Hub::new(5);
        let spec = Spec { range: KeyRange::all(), puts: true, deletes: true, previous: false };
        let create = |start| Create { id: 0, spec: spec.clone(), start, fragment: false, notify: false };
        let (key, late) = (hub.open(), hub.open());
        hub.create(key, create(0), -1);
        hub.skip(10);
        assert_eq!(hub.settled(), 5, "too much to be dispatched at once");
        hub.create(late, create(2), -1);
        let mut rounds = Vec::new();
        loop {
            hub.check();
            match hub.step(&LargeBefore) {
                Step::Again => {}
                Step::Idle => break,
                Step::Read(round) => {
                    rounds.push((round.from, hub.settled()));
                    let found = round.read(&LargeBefore);
                    hub.finish(&round, found);
                }
            }
        }
        assert!(rounds.iter().all(|(_, settled)| *settled >= 5) && rounds.contains(&(2, 5)), "{rounds:?}");
        assert_eq!((hub.settled(), hub.counts().slow), (10, 0));
        // The client disconnects, so nobody waits for it.
        hub.skip(20);
        hub.close(key);
        hub.close(late);
        while !matches!(hub.step(&LargeBefore), Step::Idle) {}
        assert_eq!(hub.settled(), 20);
    }
}
