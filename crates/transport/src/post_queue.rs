//! The messages that wait for a POST to one peer.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use proto::raftpb;
use tokio::sync::Notify;

use crate::limits::Limits;

#[derive(Debug)]
pub(crate) struct PostQueue {
    messages: Mutex<VecDeque<raftpb::Message>>,
    messages_max: usize,
    arrived: Notify,
}

impl PostQueue {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { messages: Mutex::default(), messages_max: limits.post_messages.max(1), arrived: Notify::new() }
    }

    /// Returns false, and drops the message, if the queue is full.
    pub(crate) fn push(&self, message: raftpb::Message) -> bool {
        let mut messages = self.lock();
        if messages.len() >= self.messages_max {
            return false;
        }
        messages.push_back(message);
        drop(messages);
        self.arrived.notify_one();
        true
    }

    pub(crate) fn wake(&self) {
        self.arrived.notify_waiters();
    }

    /// `None` once the peer is retired: the rest is for the workers of its successor.
    pub(crate) async fn pop(&self, is_retired: &AtomicBool) -> Option<raftpb::Message> {
        loop {
            let arrived = self.arrived.notified();
            if is_retired.load(Ordering::Acquire) {
                // This worker may have been woken for a message: wake another.
                self.arrived.notify_one();
                return None;
            }
            if let Some(message) = self.lock().pop_front() {
                return Some(message);
            }
            arrived.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<raftpb::Message>> {
        self.messages.lock().expect("no panic while the queue is held")
    }
}
