//! The hub: topics, watchers and streams, and the calls of their owners. Telling what is new is in `tell`, catching up in
//! `catch_up`, progress in `progress`.

mod catch_up;
mod progress;
mod tell;

use crate::index::Index;
use crate::ring::Ring;
use crate::{Limits, Refusal, Response, Round, Spec};
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use tell::Telling;

/// A stream: what one client gets its responses through, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKey {
    at: usize,
    /// Tells it from a later stream in the same place.
    serial: u64,
}

impl StreamKey {
    /// A small number, unlike that of every other open stream.
    pub fn number(self) -> usize {
        self.at
    }
}

/// A watcher to be created.
#[derive(Clone, Debug)]
pub struct Create {
    /// Its ID; 0 = the stream's next free one, from 0 up.
    pub id: i64,
    /// What it wants.
    pub spec: Spec,
    /// The first revision it wants; 0 = what comes next.
    pub start: i64,
    /// Whether its responses may be cut.
    pub fragment: bool,
    /// Whether it wants progress announced in intervals.
    pub notify: bool,
}

/// What [`Hub::step`] came to.
#[derive(Debug)]
pub enum Step {
    /// There is nothing to do now.
    Idle,
    /// Something was done, and there may be more.
    Again,
    /// This is to be read, and given to [`Hub::finish`]. There is one round at a time.
    Read(Round),
}

/// How much there is, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open streams.
    pub streams: usize,
    /// Watchers that have not ended.
    pub watchers: usize,
    /// Those of them that have not seen everything.
    pub slow: usize,
    /// Events that wait in queues.
    pub pending: usize,
    /// Events that were taken from queues, ever.
    pub events: u64,
}

/// All watchers of one member.
#[derive(Debug)]
pub struct Hub {
    /// All events up to here are in the ring or are history.
    revision: i64,
    ring: Ring,
    /// How far synced watchers have been told of them.
    telling: Telling,
    topics: Slab<Topic>,
    by_spec: HashMap<Spec, usize>,
    index: Index,
    watchers: Slab<Watcher>,
    streams: Slab<Stream>,
    /// Watchers to be caught up, by the revision they need next.
    behind: BTreeSet<(i64, usize)>,
    /// Those of the watchers that are behind who had seen everything until events came that were too many to be told at
    /// once, by the revision they need next.
    missed: BTreeSet<(i64, usize)>,
    /// Where the next round begins: rounds sweep over the history, so that no watcher waits for another's whole way.
    sweep: i64,
    reading: bool,
    /// Streams that wait for the right moment to announce progress.
    hopeful: BTreeSet<usize>,
    ready: Vec<StreamKey>,
    serial: u64,
    counts: Counts,
    limits: Limits,
}

/// What watchers with the same wishes share.
#[derive(Debug)]
struct Topic {
    spec: Spec,
    /// Watchers of it, in any state.
    members: usize,
    synced: Vec<usize>,
    /// The ring's numbers of events that they are to be told of.
    matched: Vec<usize>,
}

#[derive(Debug)]
struct Watcher {
    serial: u64,
    stream: usize,
    id: i64,
    topic: usize,
    /// The first revision that its client asked for; 0 = what comes next.
    start: i64,
    /// It has been told of all before this revision, and of nothing from it on.
    next: i64,
    fragment: bool,
    /// Whether progress is due at the next tick; `None` = it is not wanted.
    notify: Option<bool>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is told of what is new; its place among the topic's synced.
    Synced { place: usize },
    /// It waits for a step.
    Behind,
    /// It takes part in the round under way.
    Reading,
    /// It waits for room in its stream's queue.
    Blocked,
    /// It has ended; its client has not cancelled it yet.
    Ended,
}

#[derive(Debug)]
struct Stream {
    serial: u64,
    watchers: BTreeMap<i64, usize>,
    next_id: i64,
    queue: VecDeque<Response>,
    /// What is in the queue.
    bytes: usize,
    /// Responses in the queue that tell of no events.
    controls: usize,
    /// Watchers for whose events there was no room, in the order in which they were held back.
    blocked: VecDeque<(usize, u64)>,
    /// Watchers that have not ended.
    live: usize,
    /// Those of them that are not synced.
    lagging: usize,
    /// No watcher starts later.
    latest_start: i64,
    /// Whether progress of all watchers is to be announced.
    wants_progress: bool,
    /// Whether an interval has passed: progress of each watcher may be due.
    ticked: bool,
    /// Whether the owner waits to be told that there is something in the queue.
    listening: bool,
}

impl Stream {
    fn has_room(&self, limits: &Limits) -> bool {
        self.bytes < limits.stream_bytes
    }

    fn takes_blocked(&self, limits: &Limits) -> bool {
        self.bytes <= limits.stream_bytes / 2 && !self.blocked.is_empty()
    }
}

impl Hub {
    /// A hub without watchers, at the newest revision.
    pub fn new(revision: i64) -> Self {
        Self::within(revision, Limits::default())
    }

    /// The same with bounds of its own.
    pub fn within(revision: i64, limits: Limits) -> Self {
        Self {
            revision,
            ring: Ring::starting(revision + 1),
            telling: Telling::new(revision),
            topics: Slab::new(),
            by_spec: HashMap::new(),
            index: Index::default(),
            watchers: Slab::new(),
            streams: Slab::new(),
            behind: BTreeSet::new(),
            missed: BTreeSet::new(),
            sweep: 0,
            reading: false,
            hopeful: BTreeSet::new(),
            ready: Vec::new(),
            serial: 0,
            counts: Counts::default(),
            limits,
        }
    }

    /// The revision up to which events were published.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Everybody who keeps up has been told of all before this revision, or has no need to be. Those who fall behind because
    /// there is too much at once keep up: whoever owns the hub keeps the history after this revision for them.
    pub fn settled(&self) -> i64 {
        let missed = self.missed.first().map(|(next, _)| next - 1);
        missed.map_or(self.told(), |missed| missed.min(self.told()))
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Opens a stream.
    pub fn open(&mut self) -> StreamKey {
        self.counts.streams += 1;
        let serial = self.next_serial();
        let at = self.streams.insert(Stream {
            serial,
            watchers: BTreeMap::new(),
            next_id: 0,
            queue: VecDeque::new(),
            bytes: 0,
            controls: 0,
            blocked: VecDeque::new(),
            live: 0,
            lagging: 0,
            latest_start: 0,
            wants_progress: false,
            ticked: false,
            listening: false,
        });
        StreamKey { at, serial }
    }

    /// Closes a stream: its watchers end, and what is in its queue is forgotten. Later calls for it do nothing.
    pub fn close(&mut self, key: StreamKey) {
        if self.stream(key).is_none() {
            return;
        }
        self.end_watchers(key.at);
        let stream = self.streams.remove(key.at);
        self.counts.streams -= 1;
        self.counts.pending -= stream.queue.iter().map(Response::count).sum::<usize>();
    }

    /// Creates a watcher, or says in the stream why not. `compacted` is the oldest revision to be had.
    pub fn create(&mut self, key: StreamKey, create: Create, compacted: i64) {
        if self.stream(key).is_none() {
            return;
        }
        let revision = self.revision;
        let id = match self.choose_id(key.at, &create) {
            Ok(id) => id,
            Err(refusal) => return self.push(key.at, Response::Refused { refusal, revision }),
        };
        self.push(key.at, Response::Created { id, revision });
        let next = if create.start == 0 { revision + 1 } else { create.start };
        let watcher = Watcher {
            serial: self.next_serial(),
            stream: key.at,
            id,
            topic: self.join_topic(create.spec),
            start: create.start,
            next,
            fragment: create.fragment,
            notify: create.notify.then_some(true),
            state: State::Ended,
        };
        let at = self.watchers.insert(watcher);
        self.counts.watchers += 1;
        let stream = &mut self.streams[key.at];
        stream.watchers.insert(id, at);
        stream.live += 1;
        stream.latest_start = stream.latest_start.max(create.start);
        if next > revision {
            self.sync(at);
            return;
        }
        stream.lagging += 1;
        self.counts.slow += 1;
        self.watchers[at].state = State::Behind;
        self.behind.insert((next, at));
        if next < compacted {
            self.end_compacted(at, compacted);
        }
    }

    fn choose_id(&mut self, stream: usize, create: &Create) -> Result<i64, Refusal> {
        if create.start < 0 {
            return Err(Refusal::NegativeStart);
        }
        if create.spec.range.is_empty() {
            return Err(Refusal::EmptyRange);
        }
        let stream = &mut self.streams[stream];
        if create.id != 0 {
            let taken = stream.watchers.contains_key(&create.id);
            return if taken { Err(Refusal::DuplicateId) } else { Ok(create.id) };
        }
        while stream.watchers.contains_key(&stream.next_id) {
            stream.next_id += 1;
        }
        stream.next_id += 1;
        Ok(stream.next_id - 1)
    }

    /// Ends a watcher and frees its ID. One that is not there is none.
    pub fn cancel(&mut self, key: StreamKey, id: i64) {
        let Some(stream) = self.stream(key) else { return };
        let Some(at) = stream.watchers.remove(&id) else { return };
        self.end(at);
        let watcher = self.watchers.remove(at);
        self.leave_topic(watcher.topic);
        let revision = self.revision;
        self.push(key.at, Response::Canceled { id, revision });
        // Others may have waited for its place, or for it to catch up.
        self.unblock(key.at);
        self.announce(key.at);
    }

    /// The stream's next response. After `None` the stream is among the [`Hub::take_ready`] when there is one again.
    pub fn pop(&mut self, key: StreamKey) -> Option<Response> {
        let stream = self.stream(key)?;
        let Some(response) = stream.queue.pop_front() else {
            stream.listening = true;
            return None;
        };
        stream.bytes -= response.cost();
        let count = response.count();
        stream.controls -= usize::from(count == 0);
        self.counts.pending -= count;
        self.counts.events += count as u64;
        self.unblock(key.at);
        Some(response)
    }

    /// Responses in the stream's queue that tell of no events: whoever takes a client's requests waits while they are
    /// many.
    pub fn controls(&mut self, key: StreamKey) -> usize {
        self.stream(key).map_or(0, |stream| stream.controls)
    }

    /// Streams in whose queues there is something again.
    pub fn take_ready(&mut self, into: &mut Vec<StreamKey>) {
        into.append(&mut self.ready);
    }

    /// Whether [`Hub::step`] may have something to do.
    pub fn has_work(&self) -> bool {
        let near = self.behind.last().is_some_and(|(next, _)| *next >= self.ring.first());
        near || self.is_telling() || !(self.reading || self.behind.is_empty())
    }

    fn stream(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.streams.get_mut(key.at).filter(|stream| stream.serial == key.serial)
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn push(&mut self, at: usize, response: Response) {
        let stream = &mut self.streams[at];
        let count = response.count();
        stream.bytes += response.cost();
        stream.controls += usize::from(count == 0);
        self.counts.pending += count;
        stream.queue.push_back(response);
        if std::mem::take(&mut stream.listening) {
            self.ready.push(StreamKey { at, serial: stream.serial });
        }
    }

    fn join_topic(&mut self, spec: Spec) -> usize {
        let at = self.by_spec.get(&spec).copied().unwrap_or_else(|| {
            let topic = Topic { spec: spec.clone(), members: 0, synced: Vec::new(), matched: Vec::new() };
            let at = self.topics.insert(topic);
            self.index.insert(&spec.range, at);
            self.by_spec.insert(spec, at);
            at
        });
        self.topics[at].members += 1;
        at
    }

    fn leave_topic(&mut self, at: usize) {
        let topic = &mut self.topics[at];
        topic.members -= 1;
        if topic.members == 0 {
            let topic = self.topics.remove(at);
            self.index.remove(&topic.spec.range, at);
            self.by_spec.remove(&topic.spec);
            self.telling.forget(at);
        }
    }

    /// Puts a watcher among the synced of its topic.
    fn sync(&mut self, at: usize) {
        let watcher = &mut self.watchers[at];
        let synced = &mut self.topics[watcher.topic].synced;
        watcher.state = State::Synced { place: synced.len() };
        synced.push(at);
    }

    /// Takes a watcher out of the synced of its topic.
    fn unsync(&mut self, at: usize, place: usize) {
        let synced = &mut self.topics[self.watchers[at].topic].synced;
        synced.swap_remove(place);
        if let Some(moved) = synced.get(place) {
            self.watchers[*moved].state = State::Synced { place };
        }
    }

    /// A lagging watcher needs this revision next.
    fn advance(&mut self, at: usize, next: i64) {
        self.needs(at, next);
        if next <= self.revision {
            self.watchers[at].state = State::Behind;
            self.behind.insert((next, at));
            return;
        }
        self.missed.remove(&(next, at));
        self.sync(at);
        self.counts.slow -= 1;
        let stream = self.watchers[at].stream;
        self.streams[stream].lagging -= 1;
        self.announce(stream);
    }

    /// A watcher needs this revision next.
    fn needs(&mut self, at: usize, next: i64) {
        let before = std::mem::replace(&mut self.watchers[at].next, next);
        if self.missed.remove(&(before, at)) {
            self.missed.insert((next, at));
        }
    }

    /// A watcher has events, and its stream no room for them.
    fn block(&mut self, at: usize, next: i64) {
        self.needs(at, next);
        let watcher = &mut self.watchers[at];
        watcher.state = State::Blocked;
        self.streams[watcher.stream].blocked.push_back((at, watcher.serial));
    }

    /// Lets blocked watchers try again, when the queue has room for some of them.
    fn unblock(&mut self, stream: usize) {
        if !self.streams[stream].takes_blocked(&self.limits) {
            return;
        }
        let mut left = self.limits.unblock;
        while left > 0
            && let Some((at, serial)) = self.streams[stream].blocked.pop_front()
        {
            let Some(watcher) = self.watchers.get_mut(at).filter(|known| known.serial == serial) else {
                continue;
            };
            if watcher.state == State::Blocked {
                watcher.state = State::Behind;
                self.behind.insert((watcher.next, at));
                left -= 1;
            }
        }
    }

    /// Ends a watcher, whatever it is doing. It keeps its place and its ID.
    fn end(&mut self, at: usize) {
        let (state, stream) = (self.watchers[at].state, self.watchers[at].stream);
        match state {
            State::Ended => return,
            State::Synced { place } => self.unsync(at, place),
            State::Behind => {
                self.behind.remove(&(self.watchers[at].next, at));
            }
            // Its round, or the queue, finds it ended.
            State::Reading | State::Blocked => {}
        }
        self.missed.remove(&(self.watchers[at].next, at));
        self.watchers[at].state = State::Ended;
        self.counts.watchers -= 1;
        let is_lagging = !matches!(state, State::Synced { .. });
        self.counts.slow -= usize::from(is_lagging);
        let stream = &mut self.streams[stream];
        stream.live -= 1;
        stream.lagging -= usize::from(is_lagging);
    }

    fn end_compacted(&mut self, at: usize, compact_revision: i64) {
        self.end(at);
        let (id, stream) = (self.watchers[at].id, self.watchers[at].stream);
        self.push(stream, Response::Compacted { id, compact_revision });
        self.announce(stream);
    }

    fn end_watchers(&mut self, stream: usize) {
        for (_, at) in std::mem::take(&mut self.streams[stream].watchers) {
            self.end(at);
            let watcher = self.watchers.remove(at);
            self.leave_topic(watcher.topic);
        }
        self.hopeful.remove(&stream);
    }

    /// History cannot be read: the stream ends, and its client has to begin anew.
    fn fail(&mut self, stream: usize, reason: &str) {
        if self.streams[stream].live > 0 {
            self.end_watchers(stream);
            self.push(stream, Response::Failed { reason: reason.to_owned() });
        }
    }
}
