//! `etcdserverpb.Watch`: the shell around crate `watch`'s hub.
//!
//! ```text
//! client ─▶ requests: create, cancel, progress ─▶ ┌────── Watches ──────┐ ─▶ feed: responses of a stream, in frames
//! node's applied index ─▶ follow ─ tap, View ───▶ │ Hub, under one lock │
//! a blocking thread ─ a round's events ─────────▶ └─────────────────────┘
//! ```
//!
//! Everything but the rounds runs on the runtime's thread, so the lock is never waited for by those who serve others: what
//! a round found is given to the hub by the task that asked for it. The
//! store's tap is open only while somebody watches. Before any call the hub is brought up to date: what was answered to a
//! client is behind a watcher that the client creates next.

mod feed;
mod local;
mod requests;
mod wire;

pub(crate) use local::Local;
pub(crate) use requests::{PROGRESS_INTERVAL_MIN, start};

use crate::Api;
use ::watch::{Chunk, Counts, Gone, Hub, Round, Step, StreamKey};
use machine::{
    Shared,
    history::{self, History, Taken, Written},
};
use mvcc::View;
use std::{
    sync::{Arc, Mutex, MutexGuard},
    task::Waker,
    time::{Duration, Instant},
};
use tokio::{
    sync::Notify,
    task::{JoinError, JoinHandle, spawn_blocking},
};

/// The bounds of what watching takes of the runtime's thread and of compaction; how large its queues may become is the
/// hub's ([`::watch::Limits`]).
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// Events that the hub is given in one go, in events. Default 4,096: a millisecond of the runtime's thread. What is more
    /// of them (a delete of a large range, groups that came while the thread was busy) is read as history, on another thread.
    pub publish_events: usize,
    /// How long compaction waits for watchers that keep up and were not told of everything yet. Default ten seconds: a slow
    /// client must not hold it up, and who reads at all has a group of any size by then.
    pub untold_kept: Duration,
    /// Steps of telling and catching up in one turn of the task, in steps; at least 1. Default 8, each some tens of
    /// microseconds.
    pub turn_steps: usize,
    /// Answers of a stream to its requests that wait for the client, in answers; then its next requests wait. Default 1,024:
    /// more than a client creates at once without reading would have to fit into HTTP/2's window instead.
    pub unread_answers: usize,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self {
            publish_events: 4_096,
            untold_kept: Duration::from_secs(10),
            turn_steps: 8,
            unread_answers: 1_024,
        }
    }
}

/// All watchers of this member.
pub(crate) struct Watches {
    inner: Mutex<Inner>,
    /// Somebody begins to watch, or the hub has something to do.
    work: Notify,
}

struct Inner {
    hub: Hub,
    /// Who waits for a stream's responses, by the stream's number.
    wakers: Vec<Option<Waker>>,
    /// Whether the tap is open.
    following: bool,
    /// A View, and since when, from before any compaction of what a watcher that keeps up was not told of yet. As long as it
    /// is held, nothing of that is removed.
    kept: Option<(Arc<View>, Instant)>,
    limits: WatchLimits,
    /// Scratch.
    ready: Vec<StreamKey>,
}

impl Watches {
    /// Without watchers.
    pub(crate) fn new(limits: WatchLimits) -> Self {
        let (hub, wakers, ready) = (Hub::new(0), Vec::new(), Vec::new());
        let inner = Inner { hub, wakers, following: false, kept: None, limits, ready };
        Self { inner: Mutex::new(inner), work: Notify::new() }
    }

    /// How much there is.
    pub(crate) fn counts(&self) -> Counts {
        self.lock().hub.counts()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Better no watcher than one that is told wrong things: then their streams end, each with this panic.
        self.inner.lock().expect("no call has left the hub halfway")
    }

    /// Calls the hub, up to date, and wakes whoever has responses now.
    fn call<T>(&self, shared: &Shared, call: impl FnOnce(&mut Hub) -> T) -> T {
        let mut inner = self.lock();
        inner.refresh(shared);
        let result = call(&mut inner.hub);
        let watched = inner.hub.counts().watchers > 0;
        if watched && !inner.following {
            inner.follow(shared);
            self.work.notify_one();
        } else if !watched && inner.following {
            inner.following = false;
            shared.tap().close();
        }
        inner.keep(shared);
        inner.wake();
        if inner.hub.has_work() {
            self.work.notify_one();
        }
        result
    }
}

impl Inner {
    /// Brings the hub up to date.
    fn refresh(&mut self, shared: &Shared) {
        if self.following {
            self.publish(shared);
        } else {
            let view = shared.view();
            self.hub.skip(view.revision());
            // Until it is known whether anybody watches.
            self.kept = Some((view, Instant::now()));
        }
    }

    /// Keeps the newest View that still has all that must be told to those who keep up.
    fn keep(&mut self, shared: &Shared) {
        if !self.following {
            self.kept = None;
            return;
        }
        let (newest, now) = (shared.view(), Instant::now());
        let is_enough = newest.compact_revision() <= self.hub.settled() + 1;
        let is_late = |since: Instant| now.duration_since(since) >= self.limits.untold_kept;
        if is_enough || self.kept.as_ref().is_none_or(|(_, since)| is_late(*since)) {
            self.kept = Some((newest, now));
        }
    }

    /// The history, with what was compacted before those who keep up were told of it.
    fn history(&self, shared: &Shared) -> History {
        match &self.kept {
            Some((kept, _)) => History::reaching_back(shared.view(), kept),
            None => History::new(shared.view()),
        }
    }

    /// Opens the tap. What came between the hub's revision and now is history to the first watcher.
    fn follow(&mut self, shared: &Shared) {
        shared.tap().open();
        self.following = true;
        self.hub.skip(shared.view().revision());
    }

    /// Publishes what was written since the last time.
    fn publish(&mut self, shared: &Shared) {
        let Taken { dropped, written } = shared.tap().take();
        if let Some(last) = dropped {
            self.hub.skip(last);
        }
        let Some(newest) = written.last().map(Written::last) else { return };
        let (begun, mut left) = (self.hub.revision(), self.limits.publish_events);
        for group in written.iter().filter(|group| group.last() > begun) {
            if group.first() != self.hub.revision() + 1 || group.len() > left {
                break;
            }
            let Ok(events) = history::events(group) else { break };
            left -= group.len();
            self.hub.publish(events, group.last());
        }
        // The rest is history.
        self.hub.skip(newest);
    }

    fn wake(&mut self) {
        self.hub.take_ready(&mut self.ready);
        for key in self.ready.drain(..) {
            if let Some(waker) = self.wakers.get_mut(key.number()).and_then(Option::take) {
                waker.wake();
            }
        }
    }

    fn forget(&mut self, key: StreamKey) {
        if let Some(waker) = self.wakers.get_mut(key.number()) {
            *waker = None;
        }
    }

    fn wait(&mut self, key: StreamKey, waker: Waker) {
        let number = key.number();
        if self.wakers.len() <= number {
            self.wakers.resize_with(number + 1, || None);
        }
        self.wakers[number] = Some(waker);
    }
}

/// Feeds the hub with what is applied, and catches up with those who are behind. One task for a member, as long as its
/// node lives.
pub(crate) async fn follow(api: Arc<Api>) {
    let mut applied = api.node.watch_applied();
    let mut ended = api.node.watch_ended();
    let (mut reading, mut more) = (Reading::default(), false);
    loop {
        let following = api.watches.lock().following;
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => return,
            (round, result) = reading.done() => api.watches.lock().hub.finish(&round, result),
            () = tokio::task::yield_now(), if more => {}
            changed = applied.changed(), if following && !more => if changed.is_err() { return },
            () = api.watches.work.notified(), if !more => {}
        }
        more = turn(&api, &mut reading);
    }
}

/// What is read on another thread, if anything is.
#[derive(Default)]
struct Reading(Option<Read>);

struct Read {
    round: Arc<Round>,
    result: JoinHandle<Result<Chunk, Gone>>,
}

impl Reading {
    fn begin(&mut self, round: Round, history: History) {
        let round = Arc::new(round);
        let own = Arc::clone(&round);
        // With the closure its View goes: compaction waits for those.
        self.0 = Some(Read { round, result: spawn_blocking(move || own.read(&history)) });
    }

    /// The round and what it found; for ever where none is read. Nothing is lost when this is dropped.
    async fn done(&mut self) -> (Arc<Round>, Result<Chunk, Gone>) {
        let Some(read) = &mut self.0 else { return std::future::pending().await };
        let result = (&mut read.result).await;
        let round = Arc::clone(&read.round);
        self.0 = None;
        // Who waited for it has to begin anew; the others go on.
        let failed = |error: JoinError| Err(Gone::Failed(format!("reading the history failed: {error}")));
        (round, result.unwrap_or_else(failed))
    }
}

/// A bounded piece of work; whether there may be more.
fn turn(api: &Arc<Api>, reading: &mut Reading) -> bool {
    let mut inner = api.watches.lock();
    // What came before is told first, so that those behind have their turn however much comes.
    if !inner.hub.is_telling() {
        inner.refresh(&api.shared);
    }
    let history = inner.history(&api.shared);
    let mut more = true;
    for _ in 0..inner.limits.turn_steps.max(1) {
        match inner.hub.step(&history) {
            Step::Again => {}
            Step::Idle => {
                more = false;
                break;
            }
            Step::Read(round) => reading.begin(round, history.clone()),
        }
    }
    inner.keep(&api.shared);
    inner.wake();
    more
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::watch::{Create, Event, Spec};
    use std::ops::ControlFlow;
    use types::KeyRange;

    struct Nothing;

    impl ::watch::History for Nothing {
        fn compact_revision(&self) -> i64 {
            -1
        }

        fn events(&self, _: i64, _: i64, _: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<(), Gone> {
            Ok(())
        }

        fn with_previous(&self, event: &Event) -> Result<bytes::Bytes, Gone> {
            Ok(event.bytes.clone())
        }
    }

    #[tokio::test]
    async fn a_round_that_panics_ends_those_who_waited_for_it_and_the_next_one_is_read() {
        let mut hub = Hub::new(5);
        let key = hub.open();
        let spec = Spec { range: KeyRange::all(), puts: true, deletes: true, previous: false };
        let create = Create { id: 0, spec, start: 2, fragment: false, notify: false };
        hub.create(key, create.clone(), -1);
        let Step::Read(round) = hub.step(&Nothing) else { panic!("there is history to be read") };
        let result = spawn_blocking(|| panic!("as a defect of the store would"));
        let mut reading = Reading(Some(Read { round: Arc::new(round), result }));
        let (round, result) = reading.done().await;
        assert!(matches!(&result, Err(Gone::Failed(reason)) if reason.contains("panicked")), "{result:?}");
        hub.finish(&round, result);
        assert!(matches!(hub.pop(key), Some(::watch::Response::Created { .. })));
        assert!(matches!(hub.pop(key), Some(::watch::Response::Failed { .. })));
        let key = hub.open();
        hub.create(key, create, -1);
        assert!(matches!(hub.step(&Nothing), Step::Read(_)), "others are caught up");
    }
}
