//! Progress: what a stream is told when nothing else is to be told.

use super::{Hub, State, StreamKey};
use crate::Response;

impl Hub {
    /// Announces progress once all watchers of the stream have seen everything that there is then; without watchers,
    /// never. Several wishes that wait are one.
    pub fn request_progress(&mut self, key: StreamKey) {
        let Some(stream) = self.stream(key) else { return };
        if stream.live > 0 {
            stream.wants_progress = true;
            self.hopeful.insert(key.at);
            self.announce(key.at);
        }
    }

    /// An interval has passed: announces progress to those watchers of the stream that want it, are synced and were
    /// told nothing since the last one.
    pub fn tick(&mut self, key: StreamKey) {
        let Some(stream) = self.stream(key) else { return };
        stream.ticked = true;
        self.hopeful.insert(key.at);
        self.announce(key.at);
    }

    /// Announces progress where it is due or was asked for, and the moment has come: all is told.
    pub(super) fn announce(&mut self, at: usize) {
        if self.is_telling() {
            return;
        }
        if std::mem::take(&mut self.streams[at].ticked) {
            self.announce_each(at);
        }
        let revision = self.revision;
        let stream = &mut self.streams[at];
        if !stream.wants_progress {
            self.hopeful.remove(&at);
            return;
        }
        if stream.lagging > 0 {
            return;
        }
        if stream.latest_start > revision {
            let live = stream.watchers.values().map(|at| &self.watchers[*at]);
            let starts = live.filter(|watcher| watcher.state != State::Ended).map(|watcher| watcher.start);
            stream.latest_start = starts.max().unwrap_or(0);
            if stream.latest_start > revision {
                return;
            }
        }
        stream.wants_progress = false;
        self.hopeful.remove(&at);
        if stream.live > 0 {
            self.push(at, Response::Progress { id: None, revision });
        }
    }

    /// Announces progress of each watcher where it is due.
    fn announce_each(&mut self, stream: usize) {
        let watchers: Vec<(i64, usize)> =
            self.streams[stream].watchers.iter().map(|(id, at)| (*id, *at)).collect();
        for (id, at) in watchers {
            let watcher = &mut self.watchers[at];
            let Some(due) = watcher.notify.replace(true) else {
                watcher.notify = None;
                continue;
            };
            let is_synced = matches!(watcher.state, State::Synced { .. }) && watcher.start <= self.revision;
            // A client that does not read is owed no news of nothing.
            if due && is_synced && self.streams[stream].has_room(&self.limits) {
                self.push(stream, Response::Progress { id: Some(id), revision: self.revision });
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
}
