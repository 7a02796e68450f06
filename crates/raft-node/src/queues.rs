//! The queues between the runtime and the consensus thread. Requests collect in [`crate::pending`], from where a task
//! hands them over to the [`Inbox`] once a turn. Results come back as one list per batch ([`Outbox`]), and waiters are
//! woken inside the runtime, because waking a task from another thread costs a system call each.

use crate::member::{Batch, Done};
use crate::pending::Replies;
use crate::{ProposeError, ReadError, TransferError};
use machine::Response;
use std::sync::{Mutex, OnceLock};
use std::thread::Thread;
use tokio::sync::{Notify, oneshot};
use types::lock;

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    inner: Mutex<InboxInner>,
    thread: OnceLock<Thread>,
}

#[derive(Debug, Default)]
struct InboxInner {
    batch: Batch,
    parked: bool,
}

impl Inbox {
    pub(crate) fn set_thread(&self, thread: Thread) {
        // Set once, at the start; a second call would name the same thread.
        let _ = self.thread.set(thread);
    }

    /// Adds a batch; wakes the consensus thread only if it sleeps.
    pub(crate) fn hand_over(&self, batch: &mut Batch) {
        let wake = {
            let mut inner = lock(&self.inner);
            inner.batch.take_from(batch);
            std::mem::take(&mut inner.parked)
        };
        if wake && let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Takes everything queued. If there is nothing, notes that the caller is about to park.
    pub(crate) fn take(&self, into: &mut Batch, about_to_park: bool) -> bool {
        let mut inner = lock(&self.inner);
        if inner.batch.is_empty() {
            inner.parked = about_to_park;
            return false;
        }
        inner.parked = false;
        into.take_from(&mut inner.batch);
        true
    }
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    done: Mutex<Vec<Done>>,
    notify: Notify,
}

impl Outbox {
    /// Adds results, with at most one notification.
    pub(crate) fn hand_back(&self, answers: &mut Vec<Done>) {
        if answers.is_empty() {
            return;
        }
        let first = {
            let mut done = lock(&self.done);
            let first = done.is_empty();
            if first {
                std::mem::swap(&mut *done, answers);
            } else {
                done.append(answers);
            }
            first
        };
        if first {
            self.notify.notify_one();
        }
    }

    pub(crate) async fn take(&self, into: &mut Vec<Done>) {
        loop {
            self.notify.notified().await;
            std::mem::swap(&mut *lock(&self.done), into);
            if !into.is_empty() {
                return;
            }
        }
    }
}

#[derive(Debug)]
pub(crate) enum Reply {
    Request(oneshot::Sender<Result<Response, ProposeError>>),
    Change(oneshot::Sender<Result<(), ProposeError>>),
}

impl Reply {
    pub(crate) fn fail(self, error: ProposeError) {
        // If the receiver is gone, nobody waits.
        match self {
            Self::Request(reply) => drop(reply.send(Err(error))),
            Self::Change(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// The replies of a process.
#[derive(Debug)]
pub(crate) struct Channels;

impl Replies for Channels {
    type Request = Reply;
    type Read = oneshot::Sender<Result<(), ReadError>>;
    type Transfer = oneshot::Sender<Result<(), TransferError>>;
}
