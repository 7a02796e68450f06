//! What is new is told to those who have seen everything else.

use super::{Hub, State};
use crate::ring::Ring;
use crate::round::join;
use crate::{Event, History, RESPONSE_BYTES_MAX, Response};
use bytes::Bytes;

impl Hub {
    /// Publishes the events after the hub's revision up to `to`, all of them, in order.
    pub fn publish(&mut self, events: Vec<Event>, to: i64, history: &dyn History) {
        debug_assert!(events.iter().all(|event| (self.revision + 1..=to).contains(&event.at.main)));
        debug_assert!(events.is_sorted_by_key(|event| event.at));
        let begin = self.ring.push(events);
        self.revision = to;
        let mut touched = std::mem::take(&mut self.touched);
        for at in begin..self.ring.len() {
            let event = self.ring.event(at);
            self.index.visit(&event.key, &mut |number| {
                let topic = &mut self.topics[number];
                if topic.synced.is_empty() || !topic.spec.wants(event) {
                    return;
                }
                if topic.matched.is_empty() {
                    touched.push(number);
                }
                topic.matched.push(at);
            });
        }
        for topic in touched.drain(..) {
            self.deliver(topic, history);
        }
        self.touched = touched;
        self.ring.trim();
        self.announce_all();
    }

    /// Moves to a revision without the events before it: there are too many of them to be looked at here, or they were
    /// missed. Whoever watches is behind now.
    pub fn skip(&mut self, to: i64) {
        if to <= self.revision {
            return;
        }
        let next = self.revision + 1;
        self.revision = to;
        self.ring = Ring::starting(to + 1);
        let topics: Vec<usize> = self.topics.iter().map(|(at, _)| at).collect();
        for topic in topics {
            self.fall_behind(topic, next);
        }
    }

    fn fall_behind(&mut self, topic: usize, next: i64) {
        let mut place = 0;
        while let Some(&at) = self.topics[topic].synced.get(place) {
            let next = next.max(self.watchers[at].start);
            if next > self.revision {
                place += 1;
                continue;
            }
            self.unsync(at, place);
            self.lag(at);
            self.advance(at, next);
        }
    }

    /// A watcher is not synced any more.
    fn lag(&mut self, at: usize) {
        self.counts.slow += 1;
        self.streams[self.watchers[at].stream].lagging += 1;
    }

    /// Tells the topic's synced watchers of the events that it matched.
    fn deliver(&mut self, topic: usize, history: &dyn History) {
        let mut matched = std::mem::take(&mut self.topics[topic].matched);
        let previous = self.topics[topic].spec.previous;
        let first = self.ring.event(matched[0]).at.main;
        let mut events = Vec::with_capacity(matched.len());
        for at in matched.drain(..) {
            let Ok(bytes) = self.ring.bytes(at, previous, history) else {
                // Whether that is for good is found out when the history itself is read.
                return self.fall_behind(topic, first);
            };
            events.push((self.ring.event(at).at.main, bytes));
        }
        self.topics[topic].matched = matched;
        let mut rest = &events[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_len(rest));
            self.tell_synced(topic, piece);
            rest = after;
        }
    }

    fn tell_synced(&mut self, topic: usize, piece: &[(i64, Bytes)]) {
        let (first, last) = (piece[0].0, piece[piece.len() - 1].0);
        let all = join(piece);
        let mut place = 0;
        while let Some(&at) = self.topics[topic].synced.get(place) {
            let watcher = &mut self.watchers[at];
            let (mut events, mut count) = (all.clone(), piece.len());
            if watcher.start > first {
                let begin = piece.partition_point(|(main, _)| *main < watcher.start);
                (events, count) = (join(&piece[begin..]), piece.len() - begin);
            }
            if count == 0 {
                place += 1;
                continue;
            }
            let stream = watcher.stream;
            if self.streams[stream].has_room() {
                if watcher.notify.is_some() {
                    watcher.notify = Some(false);
                }
                let (id, fragment) = (watcher.id, watcher.fragment);
                self.push(stream, Response::Events { id, revision: last, fragment, count, events });
                place += 1;
            } else {
                let next = first.max(watcher.start);
                self.unsync(at, place);
                self.lag(at);
                self.block(at, next);
            }
        }
    }

    /// Streams that wanted to announce progress may do so at a later revision.
    pub(super) fn announce_all(&mut self) {
        if self.hopeful.is_empty() {
            return;
        }
        for stream in self.hopeful.clone() {
            self.announce(stream);
        }
    }

    /// Whether every watcher is where its state says it is. For tests.
    #[doc(hidden)]
    pub fn check(&self) {
        for (at, watcher) in &self.watchers {
            let topic = &self.topics[watcher.topic];
            match watcher.state {
                State::Synced { place } => assert_eq!(topic.synced[place], at),
                State::Behind { next } => assert!(self.behind.contains(&(next, at)) && next <= self.revision),
                State::Reading { .. } => assert!(self.reading),
                State::Blocked { .. } => {
                    assert!(self.streams[watcher.stream].blocked.contains(&(at, watcher.serial)));
                }
                State::Ended => {}
            }
        }
        for (_, stream) in &self.streams {
            let states = || stream.watchers.values().map(|at| self.watchers[*at].state);
            let live = states().filter(|state| *state != State::Ended).count();
            let synced = states().filter(|state| matches!(state, State::Synced { .. })).count();
            assert_eq!((stream.live, stream.lagging), (live, live - synced));
            assert_eq!(stream.bytes, stream.queue.iter().map(Response::cost).sum::<usize>());
        }
        let synced: usize = self.topics.iter().map(|(_, topic)| topic.synced.len()).sum();
        assert_eq!(self.counts.watchers - self.counts.slow, synced);
    }
}

/// How many events make the next response: as many whole revisions as fit, at least one.
fn piece_len(events: &[(i64, Bytes)]) -> usize {
    let mut bytes = 0;
    for (at, (main, event)) in events.iter().enumerate() {
        if at > 0 && *main != events[at - 1].0 && bytes + event.len() > RESPONSE_BYTES_MAX {
            return at;
        }
        bytes += event.len();
    }
    events.len()
}
