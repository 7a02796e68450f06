//! All watchers of this member: the hub of crate `watch` under one lock, and the streams that wait for its responses.
//! The store's change feed is open only while there are watchers. The hub is brought up to date before every call, so a new
//! watcher never sees an event that was answered before.

use ::watch::{Counts, Hub, StreamKey};
use machine::{
    Shared,
    history::{self, Changes, GroupChanges, History},
};
use mvcc::View;
use std::{
    sync::{Arc, Mutex, MutexGuard},
    task::Waker,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// The shortest progress interval: etcd's `minWatchProgressInterval`.
pub(crate) const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// How much watching may take of the runtime's thread, and delay compaction. The hub has its own ([`::watch::Limits`]).
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// Events published to the hub at once. Default 4,096: a millisecond. More are read as history on another thread.
    pub publish_events: usize,
    /// How long compaction waits for synced watchers with undelivered events. Default 10 s: enough if they read at all.
    pub undelivered_kept: Duration,
    /// Steps of delivery and catching up in one turn, at least 1. Default 8, each some tens of microseconds.
    pub turn_steps: usize,
    /// Responses to a stream's requests that wait for the client; beyond, its next requests wait. Default 1,024.
    pub unread_answers: usize,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self {
            publish_events: 4_096,
            undelivered_kept: Duration::from_secs(10),
            turn_steps: 8,
            unread_answers: 1_024,
        }
    }
}

pub(crate) struct Watches {
    inner: Mutex<Inner>,
    /// Notified when there is a first watcher, or work for the hub.
    pub(crate) work: Notify,
}

pub(crate) struct Inner {
    pub(crate) hub: Hub,
    /// The tasks waiting for responses, by stream number.
    wakers: Vec<Option<Waker>>,
    pub(crate) following: bool,
    /// A View that still has all undelivered events of synced watchers, which keeps compaction from them; since when.
    kept: Option<(Arc<View>, Instant)>,
    pub(crate) limits: WatchLimits,
    /// Reused by `wake`, to save an allocation.
    ready: Vec<StreamKey>,
}

impl Watches {
    pub(crate) fn new(limits: WatchLimits) -> Self {
        let (hub, wakers, ready) = (Hub::new(0), Vec::new(), Vec::new());
        let inner = Inner { hub, wakers, following: false, kept: None, limits, ready };
        Self { inner: Mutex::new(inner), work: Notify::new() }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().hub.counts()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // After a panic the hub may be inconsistent: every stream ends with this panic.
        self.inner.lock().expect("no call has left the hub halfway")
    }

    /// Calls the hub after bringing it up to date, and wakes streams that have responses.
    pub(crate) fn call<T>(&self, shared: &Shared, call: impl FnOnce(&mut Hub) -> T) -> T {
        let mut inner = self.lock();
        inner.refresh(shared);
        let result = call(&mut inner.hub);
        let watched = inner.hub.counts().watchers > 0;
        if watched && !inner.following {
            inner.follow(shared);
            self.work.notify_one();
        } else if !watched && inner.following {
            inner.following = false;
            shared.change_feed().close();
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
    pub(crate) fn refresh(&mut self, shared: &Shared) {
        if self.following {
            self.publish(shared);
        } else {
            let view = shared.view();
            self.hub.skip(view.revision());
            // Held until it is known whether there is a watcher.
            self.kept = Some((view, Instant::now()));
        }
    }

    /// Keeps the newest View that has all undelivered events of synced watchers.
    pub(crate) fn keep(&mut self, shared: &Shared) {
        if !self.following {
            self.kept = None;
            return;
        }
        let (newest, now) = (shared.view(), Instant::now());
        let is_enough = newest.compact_revision() <= self.hub.settled() + 1;
        let is_late = |since: Instant| now.duration_since(since) >= self.limits.undelivered_kept;
        // One of a store that was replaced protects nothing, and keeps an engine that nobody needs.
        let is_useless =
            |(kept, since): &(Arc<View>, Instant)| is_late(*since) || !kept.shares_engine_with(&newest);
        if is_enough || self.kept.as_ref().is_none_or(is_useless) {
            self.kept = Some((newest, now));
        }
    }

    /// The history, including compacted events that synced watchers have not received.
    pub(crate) fn history(&self, shared: &Shared) -> History {
        match &self.kept {
            Some((kept, _)) => History::reaching_back(shared.view(), kept),
            None => History::new(shared.view()),
        }
    }

    /// Opens the change feed. To the first watcher, earlier revisions are history.
    fn follow(&mut self, shared: &Shared) {
        shared.change_feed().open();
        self.following = true;
        self.hub.skip(shared.view().revision());
    }

    fn publish(&mut self, shared: &Shared) {
        let Changes { dropped, groups } = shared.change_feed().take();
        if let Some(last) = dropped {
            self.hub.skip(last);
        }
        let Some(newest) = groups.last().map(GroupChanges::last) else { return };
        let (begun, mut left) = (self.hub.revision(), self.limits.publish_events);
        for group in groups.iter().filter(|group| group.last() > begun) {
            if group.first() != self.hub.revision() + 1 || group.len() > left {
                break;
            }
            let Ok(events) = history::events(group) else { break };
            left -= group.len();
            self.hub.publish(events, group.last());
        }
        // The hub reads skipped events as history.
        self.hub.skip(newest);
    }

    pub(crate) fn wake(&mut self) {
        self.hub.take_ready(&mut self.ready);
        let mut ready = std::mem::take(&mut self.ready);
        for key in ready.drain(..) {
            self.wake_one(key);
        }
        self.ready = ready;
    }

    pub(crate) fn wake_one(&mut self, key: StreamKey) {
        if let Some(waker) = self.wakers.get_mut(key.number()).and_then(Option::take) {
            waker.wake();
        }
    }

    pub(crate) fn forget(&mut self, key: StreamKey) {
        if let Some(waker) = self.wakers.get_mut(key.number()) {
            *waker = None;
        }
    }

    pub(crate) fn wait(&mut self, key: StreamKey, waker: Waker) {
        let number = key.number();
        if self.wakers.len() <= number {
            self.wakers.resize_with(number + 1, || None);
        }
        self.wakers[number] = Some(waker);
    }
}

#[cfg(test)]
#[path = "tests/watches.rs"]
mod tests;
