//! The queues between the runtime and the consensus thread. Requests collect in [`PendingRequests`], which a
//! task hands over to the [`Inbox`] once a turn. Results come back as one list per batch ([`Outbox`]), and waiters are
//! woken inside the runtime, because waking a task from another thread costs a system call each.

use crate::member::{Batch, Done};
use crate::room::Permit;
use crate::waiters::Waiters;
use crate::{ProposeError, ReadError, TransferError};
use machine::Response;
use std::collections::{HashMap, VecDeque};
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

/// A read that waits for its round, and its room among those that wait.
#[derive(Debug)]
pub(crate) struct ReadWaiter {
    pub reply: oneshot::Sender<Result<(), ReadError>>,
    pub _permit: Permit,
}

/// The runtime's side: requests collected for the next hand-over, and the waiters.
#[derive(Debug, Default)]
pub(crate) struct PendingRequests {
    pub gathered: Batch,
    /// Reads since the last hand-over: they will share one round.
    pub reads: Vec<ReadWaiter>,
    pub waiters: Waiters<Reply>,
    pub rounds: VecDeque<(u64, Vec<ReadWaiter>)>,
    pub transfers: HashMap<u64, oneshot::Sender<Result<(), TransferError>>>,
    /// Set when the node has ended: every request is refused.
    pub ended: Option<ProposeError>,
    /// Whether the task that hands over was notified.
    pub hand_over_due: bool,
    next_round: u64,
}

impl PendingRequests {
    /// Turns the collected reads into a round, and takes everything collected.
    pub(crate) fn take_gathered(&mut self, into: &mut Batch) {
        self.hand_over_due = false;
        if !self.reads.is_empty() {
            self.next_round += 1;
            self.rounds.push_back((self.next_round, std::mem::take(&mut self.reads)));
            self.gathered.reads.push(self.next_round);
        }
        into.take_from(&mut self.gathered);
    }
}
