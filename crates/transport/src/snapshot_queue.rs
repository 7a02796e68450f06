//! The snapshot that raft asks to send to one peer. At most one waits, and none beside one that is under way: raft hears how
//! that ends, and asks again.

use std::{
    mem,
    sync::{Mutex, MutexGuard},
};

use proto::raftpb;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct SnapshotQueue {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: Option<raftpb::Message>,
    is_sending: bool,
}

impl SnapshotQueue {
    /// Queues a `MsgSnap` in place of one that waits; drops it if one is being sent.
    pub(crate) fn push(&self, message: raftpb::Message) {
        let mut state = self.lock();
        if !state.is_sending {
            state.waiting = Some(message);
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// Returns once a message waits.
    pub(crate) async fn wait(&self) {
        while self.lock().waiting.is_none() {
            self.arrived.notified().await;
        }
    }

    /// The newest message, which counts as being sent until [`SnapshotQueue::done`].
    pub(crate) fn take(&self) -> Option<raftpb::Message> {
        let mut state = self.lock();
        state.is_sending = state.waiting.is_some();
        mem::take(&mut state.waiting)
    }

    /// Call it before raft is told, which may ask for the next one at once.
    pub(crate) fn done(&self) {
        self.lock().is_sending = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the queue is held")
    }
}
