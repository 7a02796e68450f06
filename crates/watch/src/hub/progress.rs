//! Progress: tells a stream up to which revision it has seen everything.

use super::{Hub, StreamKey, WatcherState};
use crate::Response;

impl Hub {
    /// Announces progress once all watchers of the stream have caught up; never without any. Requests are merged.
    pub fn request_progress(&mut self, key: StreamKey) {
        let Some(stream) = self.stream(key) else { return };
        if stream.live > 0 {
            stream.wants_progress = true;
            self.awaiting_progress.insert(key.at);
            self.announce(key.at);
        }
    }

    /// An interval has passed: progress for those of the stream's watchers that want it, are synced and got nothing.
    pub fn tick(&mut self, key: StreamKey) {
        let Some(stream) = self.stream(key) else { return };
        stream.ticked = true;
        self.awaiting_progress.insert(key.at);
        self.announce(key.at);
    }

    pub(super) fn announce(&mut self, at: usize) {
        if self.is_dispatching() {
            return;
        }
        if std::mem::take(&mut self.streams[at].ticked) {
            self.announce_each(at);
        }
        let revision = self.revision;
        let stream = &mut self.streams[at];
        if !stream.wants_progress {
            self.awaiting_progress.remove(&at);
            return;
        }
        if stream.lagging > 0 {
            return;
        }
        if stream.latest_start > revision {
            let live = stream.watchers.values().map(|at| &self.watchers[*at]);
            let starts =
                live.filter(|watcher| watcher.state != WatcherState::Ended).map(|watcher| watcher.start);
            stream.latest_start = starts.max().unwrap_or(0);
            if stream.latest_start > revision {
                return;
            }
        }
        stream.wants_progress = false;
        self.awaiting_progress.remove(&at);
        if stream.live > 0 {
            self.push(at, Response::Progress { id: None, revision });
        }
    }

    fn announce_each(&mut self, stream: usize) {
        let watchers: Vec<(i64, usize)> =
            self.streams[stream].watchers.iter().map(|(id, at)| (*id, *at)).collect();
        for (id, at) in watchers {
            let watcher = &mut self.watchers[at];
            let Some(due) = watcher.notify.replace(true) else {
                watcher.notify = None;
                continue;
            };
            let is_synced =
                matches!(watcher.state, WatcherState::Synced { .. }) && watcher.start <= self.revision;
            // A client that does not read needs no progress.
            if due && is_synced && self.streams[stream].has_room(&self.limits) {
                self.push(stream, Response::Progress { id: Some(id), revision: self.revision });
            }
        }
    }

    pub(super) fn announce_all(&mut self) {
        if self.awaiting_progress.is_empty() {
            return;
        }
        for stream in self.awaiting_progress.clone() {
            self.announce(stream);
        }
    }
}
