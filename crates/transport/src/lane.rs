//! A lane is the bounded queue between the router and one kind of stream to one peer.
//!
//! A stream *attaches* when the peer's GET arrives and *detaches* when its response ends; only meanwhile does the lane
//! accept messages. A new stream replaces the old one, whose queued messages are discarded (etcd `streamWriter`).

use std::{
    collections::VecDeque,
    mem,
    sync::{Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use crate::limits::Limits;
use proto::raftpb;

/// The number of an attached stream; 0 is none.
pub(crate) type Attachment = u64;

#[derive(Debug)]
pub(crate) struct Lane {
    state: Mutex<State>,
    messages_max: usize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Counts attachments; `attached` tells whether the newest is still there.
    newest: Attachment,
    attached: bool,
    closed: bool,
    messages: VecDeque<raftpb::Message>,
    bytes: usize,
    waker: Option<Waker>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "taken apart at once")]
pub(crate) enum Push {
    Queued,
    Full,
    /// No stream is attached: returns the message.
    Detached(raftpb::Message),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) id: Attachment,
    pub(crate) replaced: bool,
    pub(crate) discarded: bool,
}

impl Lane {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            state: Mutex::default(),
            messages_max: limits.lane_messages.max(1),
            bytes_max: limits.lane_bytes,
        }
    }

    /// `None` once the lane is closed.
    pub(crate) fn attach(&self) -> Option<Attached> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let (replaced, discarded) = (state.attached, state.discard());
        state.newest += 1;
        state.attached = true;
        let (id, waker) = (state.newest, state.waker.take());
        drop(state);
        wake(waker); // the older stream sees that it is no longer the newest
        Some(Attached { id, replaced, discarded })
    }

    /// Returns whether it was the newest stream, and whether messages were discarded.
    pub(crate) fn detach(&self, id: Attachment) -> (bool, bool) {
        let mut state = self.lock();
        if !state.attached || state.newest != id {
            return (false, false);
        }
        state.attached = false;
        (true, state.discard())
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.attached = false;
        state.discard();
        let waker = state.waker.take();
        drop(state);
        wake(waker);
    }

    #[cfg(test)]
    pub(crate) fn is_attached(&self) -> bool {
        self.lock().attached
    }

    /// Queues a message without waking the stream, see [`Lane::wake`].
    pub(crate) fn push(&self, message: raftpb::Message) -> Push {
        let mut state = self.lock();
        if !state.attached {
            return Push::Detached(message);
        }
        let weight = weight(&message);
        let full = state.messages.len() >= self.messages_max || state.bytes + weight > self.bytes_max;
        // An empty lane takes a message of any size.
        if full && !state.messages.is_empty() {
            return Push::Full;
        }
        state.bytes += weight;
        state.messages.push_back(message);
        Push::Queued
    }

    /// Wakes the stream. Called once for a batch of pushes.
    pub(crate) fn wake(&self) {
        let waker = self.lock().waker.take();
        wake(waker);
    }

    /// Moves all messages to `into`, which is empty. `Ready(false)` if the stream is detached.
    pub(crate) fn poll_take(
        &self,
        id: Attachment,
        cx: &mut Context<'_>,
        into: &mut VecDeque<raftpb::Message>,
    ) -> Poll<bool> {
        let mut state = self.lock();
        if !state.attached || state.newest != id {
            return Poll::Ready(false);
        }
        if state.messages.is_empty() {
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                empty => *empty = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        mem::swap(&mut state.messages, into);
        state.bytes = 0;
        Poll::Ready(true)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lane is held")
    }
}

impl State {
    fn discard(&mut self) -> bool {
        let any = !self.messages.is_empty();
        self.messages.clear();
        self.bytes = 0;
        any
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The approximate memory of a message, in bytes.
fn weight(message: &raftpb::Message) -> usize {
    const FIXED: usize = 64;
    let entries: usize =
        message.entries.iter().map(|e| FIXED + e.data.as_ref().map_or(0, bytes::Bytes::len)).sum();
    FIXED + entries + message.context.as_ref().map_or(0, bytes::Bytes::len)
}
