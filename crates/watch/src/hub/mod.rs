//! The hub: topics, watchers, streams, and its public calls; `dispatch`, `catch_up` and `progress` do the work.

mod catch_up;
mod dispatch;
mod progress;

use crate::index::Index;
use crate::ring::Ring;
use crate::{Limits, Refusal, Response, Round, Spec};
use dispatch::Dispatch;
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Identifies a watch stream, which carries one client's responses in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKey {
    at: usize,
    /// Distinguishes it from a later stream in the same slot.
    serial: u64,
}

impl StreamKey {
    /// A small number, unique among open streams.
    pub fn number(self) -> usize {
        self.at
    }
}

/// A request to create a watcher.
#[derive(Clone, Debug)]
pub struct Create {
    /// Its ID; 0 = the stream's next free one, from 0 up.
    pub id: i64,
    /// The events it asks for.
    pub spec: Spec,
    /// The first revision it asks for; 0 = the next event.
    pub start: i64,
    /// Whether its responses may be fragmented.
    pub fragment: bool,
    /// Whether it asks for periodic progress.
    pub notify: bool,
}

/// The result of [`Hub::step`].
#[derive(Debug)]
pub enum Step {
    /// There is nothing to do.
    Idle,
    /// Something was done, and there may be more.
    Again,
    /// Read this and pass it to [`Hub::finish`]. There is one round at a time.
    Read(Round),
}

/// Sizes of the hub, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The number of open streams.
    pub streams: usize,
    /// Watchers that have not ended.
    pub watchers: usize,
    /// Those of them that lag behind.
    pub slow: usize,
    /// Events waiting in queues.
    pub pending: usize,
    /// Events taken from queues since the start.
    pub events: u64,
}

/// All watchers of one member.
#[derive(Debug)]
pub struct Hub {
    /// All events up to this revision are in the ring or in the history.
    revision: i64,
    ring: Ring,
    dispatch: Dispatch,
    topics: Slab<Topic>,
    by_spec: HashMap<Spec, usize>,
    index: Index,
    watchers: Slab<Watcher>,
    streams: Slab<Stream>,
    /// Watchers to be caught up, by the revision they need next.
    behind: BTreeSet<(i64, usize)>,
    /// Those of them that were synced until there were too many events to dispatch, likewise.
    missed: BTreeSet<(i64, usize)>,
    /// The start of the next round: rounds sweep, so that no watcher waits for another's whole backlog.
    sweep: i64,
    reading: bool,
    awaiting_progress: BTreeSet<usize>,
    ready: Vec<StreamKey>,
    serial: u64,
    counts: Counts,
    limits: Limits,
}

/// What watchers with equal [`Spec`]s share.
#[derive(Debug)]
struct Topic {
    spec: Spec,
    /// Its watchers, in any state.
    members: usize,
    synced: Vec<usize>,
    /// Ring numbers of the events to dispatch to them.
    matched: Vec<usize>,
}

#[derive(Debug)]
struct Watcher {
    serial: u64,
    stream: usize,
    id: i64,
    topic: usize,
    /// The first revision that its client asked for; 0 = the next event.
    start: i64,
    /// It was sent all events before this revision, and none from it on.
    next: i64,
    fragment: bool,
    /// Whether progress is due at the next tick; `None` = not wanted.
    notify: Option<bool>,
    state: WatcherState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WatcherState {
    /// New events are dispatched to it; its place among the topic's synced watchers.
    Synced {
        place: usize,
    },
    /// It waits for a step to catch it up.
    Behind,
    Reading,
    /// It waits for room in its stream's queue.
    Blocked,
    /// It has ended, but its client has not cancelled it yet.
    Ended,
}

#[derive(Debug, Default)]
struct Stream {
    serial: u64,
    watchers: BTreeMap<i64, usize>,
    next_id: i64,
    queue: VecDeque<Response>,
    bytes: usize,
    /// Responses in the queue without events.
    controls: usize,
    /// Watchers held back because the queue was full, in order.
    blocked: VecDeque<(usize, u64)>,
    live: usize,
    /// Those of them that lag behind.
    lagging: usize,
    /// An upper bound of the watchers' start revisions.
    latest_start: i64,
    wants_progress: bool,
    /// Whether an interval has passed, so that per-watcher progress may be due.
    ticked: bool,
    /// Whether the owner waits for [`Hub::take_ready`] to report the stream.
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

    /// [`Hub::new`] with other limits.
    pub fn within(revision: i64, limits: Limits) -> Self {
        Self {
            revision,
            ring: Ring::starting(revision + 1),
            dispatch: Dispatch::new(revision),
            topics: Slab::new(),
            by_spec: HashMap::new(),
            index: Index::default(),
            watchers: Slab::new(),
            streams: Slab::new(),
            behind: BTreeSet::new(),
            missed: BTreeSet::new(),
            sweep: 0,
            reading: false,
            awaiting_progress: BTreeSet::new(),
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

    /// The revision up to which watchers that keep up have received everything; the owner preserves the history after
    /// it. Those that lag only because too many events came at once count as keeping up.
    pub fn settled(&self) -> i64 {
        let missed = self.missed.first().map(|(next, _)| next - 1);
        missed.map_or(self.dispatched(), |missed| missed.min(self.dispatched()))
    }

    /// The hub's sizes, for metrics.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Opens a watch stream.
    pub fn open(&mut self) -> StreamKey {
        self.counts.streams += 1;
        let serial = self.next_serial();
        let at = self.streams.insert(Stream { serial, ..Stream::default() });
        StreamKey { at, serial }
    }

    /// Closes a stream: its watchers end and its queue is dropped. Later calls for it have no effect.
    pub fn close(&mut self, key: StreamKey) {
        if self.stream(key).is_none() {
            return;
        }
        self.end_watchers(key.at);
        let stream = self.streams.remove(key.at);
        self.counts.streams -= 1;
        self.counts.pending -= stream.queue.iter().map(Response::count).sum::<usize>();
    }

    /// Creates a watcher, or queues the reason why not. `compacted` is the oldest readable revision.
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
            state: WatcherState::Ended,
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
        self.watchers[at].state = WatcherState::Behind;
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

    /// Ends a watcher and frees its ID. Unknown IDs are ignored.
    pub fn cancel(&mut self, key: StreamKey, id: i64) {
        let Some(stream) = self.stream(key) else { return };
        let Some(at) = stream.watchers.remove(&id) else { return };
        self.end(at);
        let watcher = self.watchers.remove(at);
        self.leave_topic(watcher.topic);
        let revision = self.revision;
        self.push(key.at, Response::Canceled { id, revision });
        // Others may have waited for its room, or for it to catch up.
        self.unblock(key.at);
        self.announce(key.at);
    }

    /// The stream's next response. After `None`, [`Hub::take_ready`] reports the stream once it has one again.
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

    /// The responses without events in the stream's queue: while there are many, stop reading the client's requests.
    pub fn controls(&mut self, key: StreamKey) -> usize {
        self.stream(key).map_or(0, |stream| stream.controls)
    }

    /// Moves the streams that have responses again to `into`.
    pub fn take_ready(&mut self, into: &mut Vec<StreamKey>) {
        into.append(&mut self.ready);
    }

    /// Whether [`Hub::step`] may have something to do.
    pub fn has_work(&self) -> bool {
        let near = self.behind.last().is_some_and(|(next, _)| *next >= self.ring.first());
        near || self.is_dispatching() || !(self.reading || self.behind.is_empty())
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
            self.dispatch.forget(at);
        }
    }

    fn sync(&mut self, at: usize) {
        let watcher = &mut self.watchers[at];
        let synced = &mut self.topics[watcher.topic].synced;
        watcher.state = WatcherState::Synced { place: synced.len() };
        synced.push(at);
    }

    fn unsync(&mut self, at: usize, place: usize) {
        let synced = &mut self.topics[self.watchers[at].topic].synced;
        synced.swap_remove(place);
        if let Some(moved) = synced.get(place) {
            self.watchers[*moved].state = WatcherState::Synced { place };
        }
    }

    /// Records that a lagging watcher needs this revision next, and syncs it if it needs no older event.
    fn advance(&mut self, at: usize, next: i64) {
        self.needs(at, next);
        if next <= self.revision {
            self.watchers[at].state = WatcherState::Behind;
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

    fn needs(&mut self, at: usize, next: i64) {
        let before = std::mem::replace(&mut self.watchers[at].next, next);
        if self.missed.remove(&(before, at)) {
            self.missed.insert((next, at));
        }
    }

    fn block(&mut self, at: usize, next: i64) {
        self.needs(at, next);
        let watcher = &mut self.watchers[at];
        watcher.state = WatcherState::Blocked;
        self.streams[watcher.stream].blocked.push_back((at, watcher.serial));
    }

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
            if watcher.state == WatcherState::Blocked {
                watcher.state = WatcherState::Behind;
                self.behind.insert((watcher.next, at));
                left -= 1;
            }
        }
    }

    /// Ends a watcher in any state. It keeps its slot and its ID.
    fn end(&mut self, at: usize) {
        let (state, stream) = (self.watchers[at].state, self.watchers[at].stream);
        match state {
            WatcherState::Ended => return,
            WatcherState::Synced { place } => self.unsync(at, place),
            WatcherState::Behind => {
                self.behind.remove(&(self.watchers[at].next, at));
            }
            // Its round, or the queue, will find it ended.
            WatcherState::Reading | WatcherState::Blocked => {}
        }
        self.missed.remove(&(self.watchers[at].next, at));
        self.watchers[at].state = WatcherState::Ended;
        self.counts.watchers -= 1;
        let is_lagging = !matches!(state, WatcherState::Synced { .. });
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
        self.awaiting_progress.remove(&stream);
    }

    /// Ends a stream because the history cannot be read; its client must reconnect.
    fn fail(&mut self, stream: usize, reason: &str) {
        if self.streams[stream].live > 0 {
            self.end_watchers(stream);
            self.push(stream, Response::Failed { reason: reason.to_owned() });
        }
    }
}
