//! Dispatch: new events go to synced watchers, in bounded steps, since one event may concern 100,000 of them.
//!
//! A batch of whole revisions is matched with topics; then each topic's events go to each of its watchers. Each watcher
//! records what it was sent, so those that come, go, lag or catch up between steps receive nothing twice and miss
//! nothing.

use super::{Hub, WatcherState};
use crate::ring::Ring;
use crate::round::join;
use crate::{Event, History, READ_COST, Response};
use bytes::Bytes;

/// How far events are dispatched, and the batch in progress.
#[derive(Debug, Default)]
pub(super) struct Dispatch {
    dispatched: i64,
    /// The ring number of the next event to match.
    next: usize,
    /// The last revision of the batch, once it is fully matched.
    end: Option<i64>,
    matches: usize,
    touched: Vec<usize>,
    /// Whether the batch is history: nothing is sent here, all watchers fall behind.
    missed: bool,
    now: Option<Delivery>,
}

#[derive(Debug)]
struct Delivery {
    topic: usize,
    matched: Vec<usize>,
    /// The matched events whose bytes are ready.
    events: Vec<(i64, Bytes)>,
    done: usize,
    /// Events in the current piece, and their bytes.
    piece: usize,
    bytes: Bytes,
    /// Whether nothing is sent and the topic's watchers fall behind.
    falls: bool,
    /// Synced watchers at lower places are still to be served. Counts down: a watcher that leaves is replaced by the
    /// last one, which was served already, or else all are still to be served.
    places: usize,
}

impl Dispatch {
    pub(super) fn new(revision: i64) -> Self {
        Self { dispatched: revision, ..Self::default() }
    }

    pub(super) fn forget(&mut self, topic: usize) {
        self.now.take_if(|now| now.topic == topic);
    }
}

impl Delivery {
    fn new(topic: usize, matched: Vec<usize>) -> Self {
        let events = Vec::with_capacity(matched.len());
        Self { topic, matched, events, done: 0, piece: 0, bytes: Bytes::new(), falls: false, places: 0 }
    }

    fn fall(&mut self, places: usize) {
        *self = Self { falls: true, places, ..Self::new(self.topic, Vec::new()) };
    }
}

impl Hub {
    /// Publishes all events after the hub's revision up to `to`, in order. Steps dispatch them.
    pub fn publish(&mut self, events: Vec<Event>, to: i64) {
        debug_assert!(events.iter().all(|event| (self.revision + 1..=to).contains(&event.at.main)));
        debug_assert!(events.is_sorted_by_key(|event| event.at));
        self.ring.push(events);
        self.revision = to;
        self.bound();
    }

    /// Moves to a revision without its events, because they were missed or are too many. All watchers fall behind.
    pub fn skip(&mut self, to: i64) {
        if to > self.revision {
            self.revision = to;
            self.miss();
        }
    }

    pub(super) fn dispatched(&self) -> i64 {
        self.dispatch.dispatched
    }

    /// Whether some events are not dispatched yet.
    pub fn is_dispatching(&self) -> bool {
        self.dispatch.dispatched < self.revision
    }

    /// Bounds the ring. If the undispatched events do not fit, they become history.
    pub(super) fn bound(&mut self) {
        self.ring.trim(self.dispatch.dispatched, self.limits.ring_bytes);
        if self.ring.bytes_held() > self.limits.undispatched_bytes {
            self.miss();
        }
    }

    fn miss(&mut self) {
        for topic in self.dispatch.touched.drain(..) {
            if let Some(topic) = self.topics.get_mut(topic) {
                topic.matched.clear();
            }
        }
        self.ring = Ring::starting(self.revision + 1);
        self.dispatch = Dispatch {
            end: Some(self.revision),
            touched: self.topics.iter().map(|(at, _)| at).collect(),
            missed: true,
            ..Dispatch::new(self.dispatch.dispatched)
        };
    }

    pub(super) fn dispatch(&mut self, history: &dyn History) {
        let mut left = self.limits.dispatch_cost;
        while left > 0 && self.is_dispatching() {
            if let Some(mut now) = self.dispatch.now.take() {
                if !self.deliver(&mut now, &mut left, history) {
                    self.dispatch.now = Some(now);
                }
            } else if self.dispatch.end.is_none() {
                self.match_events(&mut left);
            } else if let Some(topic) = self.dispatch.touched.pop() {
                self.begin(topic);
                left -= 1;
            } else {
                self.end_batch();
            }
        }
        self.bound();
    }

    fn match_events(&mut self, left: &mut usize) {
        let Dispatch { next, matches, touched, end, .. } = &mut self.dispatch;
        while *next < self.ring.end() {
            let event = self.ring.event(*next);
            if *matches >= self.limits.batch_matches && self.ring.event(*next - 1).at.main < event.at.main {
                *end = Some(event.at.main - 1);
                break;
            }
            if *left == 0 {
                return;
            }
            *left -= 1;
            self.index.visit(&event.key, &mut |number| {
                *left = left.saturating_sub(1);
                let topic = &mut self.topics[number];
                if topic.synced.is_empty() || !topic.spec.wants(event) {
                    return;
                }
                if topic.matched.is_empty() {
                    touched.push(number);
                }
                topic.matched.push(*next);
                *matches += 1;
            });
            *next += 1;
        }
        end.get_or_insert(self.revision);
        // Topics are popped from the end.
        touched.reverse();
    }

    fn begin(&mut self, topic: usize) {
        // The topic may be gone, or its slot reused.
        let Some(known) = self.topics.get_mut(topic) else { return };
        let matched = std::mem::take(&mut known.matched);
        if self.dispatch.missed || !matched.is_empty() {
            let mut now = Delivery::new(topic, matched);
            if self.dispatch.missed {
                now.fall(known.synced.len());
            }
            self.dispatch.now = Some(now);
        }
    }

    fn end_batch(&mut self) {
        let Some(end) = self.dispatch.end.take() else { return };
        self.dispatch.dispatched = end;
        self.dispatch.matches = 0;
        self.dispatch.missed = false;
        if !self.is_dispatching() {
            self.announce_all();
        }
    }

    /// Continues with a topic; returns whether it is done.
    fn deliver(&mut self, now: &mut Delivery, left: &mut usize, history: &dyn History) -> bool {
        while now.events.len() < now.matched.len() {
            if *left == 0 {
                return false;
            }
            let (number, previous) = (now.matched[now.events.len()], self.topics[now.topic].spec.previous);
            let cost = if self.ring.lacks(number, previous) { READ_COST } else { 1 };
            *left = left.saturating_sub(cost);
            match self.ring.bytes(number, previous, history) {
                Ok(bytes) => now.events.push((self.ring.event(number).at.main, bytes)),
                // Reading the history itself will show whether this is permanent.
                Err(_) => now.fall(self.topics[now.topic].synced.len()),
            }
        }
        loop {
            // Some watchers may have left meanwhile.
            now.places = now.places.min(self.topics[now.topic].synced.len());
            while now.places > 0 {
                if *left == 0 {
                    return false;
                }
                *left -= 1;
                now.places -= 1;
                if now.falls { self.fall_behind(now, now.places) } else { self.send_one(now, now.places) }
            }
            if !self.next_piece(now, left) {
                now.matched.clear();
                // Keep the buffer for the next batch.
                std::mem::swap(&mut self.topics[now.topic].matched, &mut now.matched);
                return true;
            }
        }
    }

    /// Makes a piece of as many whole revisions as fit into a response; returns whether there are any.
    fn next_piece(&mut self, now: &mut Delivery, left: &mut usize) -> bool {
        now.done += now.piece;
        now.places = self.topics[now.topic].synced.len();
        let rest = &now.events[now.done..];
        if rest.is_empty() || now.places == 0 {
            return false;
        }
        now.piece = piece_len(rest, self.limits.response_bytes);
        now.bytes = join(&rest[..now.piece]);
        *left = left.saturating_sub(now.bytes.len() / self.limits.join_bytes);
        true
    }

    fn send_one(&mut self, now: &Delivery, place: usize) {
        let at = self.topics[now.topic].synced[place];
        let watcher = &mut self.watchers[at];
        let piece = &now.events[now.done..now.done + now.piece];
        let (first, last) = (piece[0].0, piece[piece.len() - 1].0);
        let (mut events, mut count) = (now.bytes.clone(), piece.len());
        if watcher.next > first {
            let begin = piece.partition_point(|(main, _)| *main < watcher.next);
            (events, count) = (join(&piece[begin..]), piece.len() - begin);
        }
        if count == 0 {
            return;
        }
        let stream = watcher.stream;
        if self.streams[stream].has_room(&self.limits) {
            watcher.next = last + 1;
            if watcher.notify.is_some() {
                watcher.notify = Some(false);
            }
            let (id, fragment) = (watcher.id, watcher.fragment);
            self.push(stream, Response::Events { id, revision: last, fragment, count, events });
        } else {
            let next = first.max(watcher.next);
            self.unsync(at, place);
            self.lag(at);
            self.block(at, next);
        }
    }

    /// Sends a watcher to the history for the batch's events.
    fn fall_behind(&mut self, now: &Delivery, place: usize) {
        let at = self.topics[now.topic].synced[place];
        let next = self.watchers[at].next.max(self.dispatch.dispatched + 1);
        if self.dispatch.end.is_some_and(|end| next <= end) {
            self.unsync(at, place);
            self.lag(at);
            self.missed.insert((self.watchers[at].next, at));
            self.advance(at, next);
        }
    }

    fn lag(&mut self, at: usize) {
        self.counts.slow += 1;
        self.streams[self.watchers[at].stream].lagging += 1;
    }

    /// Checks that every watcher is where its state says. For tests.
    #[doc(hidden)]
    pub fn check(&self) {
        for (at, watcher) in &self.watchers {
            let topic = &self.topics[watcher.topic];
            let is_behind = !matches!(watcher.state, WatcherState::Synced { .. } | WatcherState::Ended);
            assert!(is_behind || !self.missed.contains(&(watcher.next, at)));
            match watcher.state {
                WatcherState::Synced { place } => assert_eq!(topic.synced[place], at),
                WatcherState::Behind => {
                    assert!(self.behind.contains(&(watcher.next, at)) && watcher.next <= self.revision);
                }
                WatcherState::Reading => assert!(self.reading),
                WatcherState::Blocked => {
                    assert!(self.streams[watcher.stream].blocked.contains(&(at, watcher.serial)));
                }
                WatcherState::Ended => {}
            }
        }
        for (next, at) in &self.missed {
            assert_eq!(self.watchers[*at].next, *next);
        }
        for (_, stream) in &self.streams {
            let states = || stream.watchers.values().map(|at| self.watchers[*at].state);
            let live = states().filter(|state| *state != WatcherState::Ended).count();
            let synced = states().filter(|state| matches!(state, WatcherState::Synced { .. })).count();
            assert_eq!((stream.live, stream.lagging), (live, live - synced));
            assert_eq!(stream.bytes, stream.queue.iter().map(Response::cost).sum::<usize>());
        }
        let synced: usize = self.topics.iter().map(|(_, topic)| topic.synced.len()).sum();
        assert_eq!(self.counts.watchers - self.counts.slow, synced);
    }
}

/// The number of events in the next response: as many whole revisions as fit, at least one.
fn piece_len(events: &[(i64, Bytes)], bytes_max: usize) -> usize {
    let mut bytes = 0;
    for (at, (main, event)) in events.iter().enumerate() {
        if at > 0 && *main != events[at - 1].0 && bytes + event.len() > bytes_max {
            return at;
        }
        bytes += event.len();
    }
    events.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Create, HistoryError, Limits, Spec, Step, StreamKey};
    use std::{cell::Cell, ops::ControlFlow};
    use types::{KeyRange, RangeEnd, Revision};

    /// Counts the reads of the history.
    #[derive(Default)]
    struct Counting(Cell<usize>);

    impl History for Counting {
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
            self.0.set(self.0.get() + 1);
            Ok("with the version before".into())
        }
    }

    fn event(main: i64) -> Event {
        let previous = Some(Revision::new(1, 0));
        Event { at: Revision::new(main, 0), delete: false, key: "k".into(), previous, bytes: "event".into() }
    }

    fn watch(hub: &mut Hub, previous: bool, start: i64) -> StreamKey {
        let key = hub.open();
        let range = KeyRange { start: "k".into(), end: RangeEnd::Point };
        let spec = Spec { range, puts: true, deletes: true, previous };
        hub.create(key, Create { id: 0, spec, start, fragment: false, notify: false }, -1);
        assert!(matches!(hub.pop(key), Some(Response::Created { .. })));
        key
    }

    fn dispatched(hub: &mut Hub, key: StreamKey) -> Vec<i64> {
        let main = |response| match response {
            Response::Events { revision, .. } => revision,
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(|| hub.pop(key)).map(main).collect()
    }

    #[test]
    fn many_watchers_are_told_by_steps_with_calls_between_and_each_of_them_once() {
        let mut hub = Hub::new(1);
        let mut keys: Vec<StreamKey> = (0..10_000).map(|_| watch(&mut hub, false, 0)).collect();
        hub.request_progress(keys[0]);
        assert!(matches!(hub.pop(keys[0]), Some(Response::Progress { revision: 1, .. })));
        hub.publish(vec![event(2)], 2);
        let mut waiting = 0;
        for step in 0.. {
            if matches!(hub.step(&Counting::default()), Step::Idle) {
                break;
            }
            assert!(
                hub.counts().pending - waiting <= Limits::default().dispatch_cost,
                "{}",
                hub.counts().pending - waiting
            );
            // Some watchers leave; others come, and receive what follows.
            for gone in [keys.swap_remove(step * 7), keys.swap_remove(keys.len() / 2)] {
                hub.close(gone);
            }
            let late = watch(&mut hub, false, 0);
            hub.request_progress(late);
            waiting = hub.counts().pending;
            if hub.is_dispatching() {
                assert_eq!(hub.pop(late), None, "progress once all is dispatched");
            }
            hub.close(late);
        }
        assert!(waiting > 9_000, "{waiting} are dispatched");
        for key in keys {
            assert_eq!(dispatched(&mut hub, key), [2]);
        }
    }

    #[test]
    fn a_step_reads_few_versions_before() {
        let most = Limits::default().dispatch_cost / READ_COST + 1;
        let history = Counting::default();
        let steps_of = |hub: &mut Hub| {
            let (begun, mut steps) = (history.0.get(), 0);
            while matches!(hub.step(&history), Step::Again) {
                steps += 1;
                assert!(
                    history.0.get() - begun <= steps * most,
                    "{} in {steps} steps",
                    history.0.get() - begun
                );
            }
        };
        let mut hub = Hub::new(1);
        let key = watch(&mut hub, true, 0);
        hub.publish((2..=1_001).map(event).collect(), 1_001);
        steps_of(&mut hub);
        assert_eq!(history.0.get(), 1_000);
        assert_eq!(dispatched(&mut hub, key), [1_001], "one response, as all fit in it");
        // From the ring, for a watcher that starts late.
        let mut hub = Hub::new(1);
        hub.publish((2..=1_001).map(event).collect(), 1_001);
        let key = watch(&mut hub, true, 2);
        steps_of(&mut hub);
        assert_eq!(history.0.get(), 2_000);
        assert_eq!(dispatched(&mut hub, key).last(), Some(&1_001));
    }

    #[test]
    fn what_waits_to_be_told_is_bounded_and_the_rest_is_history() {
        let mut hub = Hub::new(1);
        watch(&mut hub, false, 0);
        for main in 2..=20 {
            hub.publish(vec![Event { bytes: vec![0; 1 << 20].into(), ..event(main) }], main);
            assert!(
                hub.ring.bytes_held() <= Limits::default().undispatched_bytes,
                "{}",
                hub.ring.bytes_held()
            );
        }
        while hub.is_dispatching() {
            assert!(matches!(hub.step(&Counting::default()), Step::Again));
        }
        assert_eq!(hub.counts().slow, 1);
        let Step::Read(round) = hub.step(&Counting::default()) else { panic!("it is behind") };
        assert_eq!((round.from, round.to), (2, 20));
    }
}
