//! Between the runtime and the consensus thread: what waits, and the two boxes they exchange batches through.
//!
//! Requests are gathered on the runtime's side ([`Front`]) and handed over once a turn by the flusher task; answers come
//! back as one list a batch ([`Outbox`]), and waiters are completed inside the runtime, because waking a task from
//! another thread costs a system call each.

use crate::convert::Checked;
use crate::core::Proposal;
use crate::driver::Back;
use crate::{ProposeError, ReadError, TransferError};
use lease::Deadlines;
use machine::{Outcome, Response};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Instant;
use tokio::sync::{Notify, oneshot};
use types::Term;

/// Locks, whatever a panic elsewhere may have left: every critical section here leaves whole values behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something to be done on the consensus thread, apart from the daily work.
#[derive(Debug)]
pub(crate) enum Command {
    SnapshotDone {
        member: u64,
        ok: bool,
    },
    Transfer {
        to: u64,
        deadline: Instant,
        reply: oneshot::Sender<Result<(), TransferError>>,
    },
    AdvanceTicks(usize),
    /// An entry for the log of this term's leader, which is to be this member, or for nobody's.
    ProposeInTerm {
        term: Term,
        proposal: Proposal,
    },
    /// The machine comes back from the applying thread.
    Applied(Box<Back>),
    Flushed(Result<u64, String>),
    /// A new leader's, made elsewhere.
    Deadlines(Box<Deadlines>),
    Stop,
}

/// What the runtime hands to the consensus thread.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub proposals: Vec<Proposal>,
    pub messages: Vec<Checked>,
    pub reads: Vec<u64>,
    /// Members to whom messages do not arrive, each once however often that was told.
    pub unreachable: BTreeSet<u64>,
    pub commands: Vec<Command>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.proposals.is_empty()
            && self.messages.is_empty()
            && self.reads.is_empty()
            && self.unreachable.is_empty()
            && self.commands.is_empty()
    }

    /// Takes all of the other, keeping the larger buffers in use.
    pub(crate) fn take_from(&mut self, other: &mut Batch) {
        fn merge<T>(into: &mut Vec<T>, from: &mut Vec<T>) {
            if into.is_empty() {
                std::mem::swap(into, from);
            } else {
                into.append(from);
            }
        }
        merge(&mut self.proposals, &mut other.proposals);
        merge(&mut self.messages, &mut other.messages);
        merge(&mut self.reads, &mut other.reads);
        self.unreachable.append(&mut other.unreachable);
        merge(&mut self.commands, &mut other.commands);
    }
}

/// How full the way to the log is. A proposal counts from [`crate::Handle::propose`] until raft has it.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub entries: AtomicUsize,
    pub bytes: AtomicUsize,
    pub messages: AtomicUsize,
    pub message_bytes: AtomicUsize,
}

impl Load {
    pub(crate) fn add(&self, bytes: usize) {
        self.entries.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn sub(&self, entries: usize, bytes: usize) {
        self.entries.fetch_sub(entries, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}

/// The box towards the consensus thread.
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
    /// Says whom to wake.
    pub(crate) fn set_thread(&self, thread: Thread) {
        // Set once, at start; a second call would be the same thread.
        let _ = self.thread.set(thread);
    }

    /// Hands a batch over; wakes the consensus thread only if it sleeps.
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

    /// Takes what is there. When nothing is, notes that the caller is about to park.
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

/// What the consensus thread hands back.
#[derive(Debug)]
pub(crate) enum Done {
    /// Applied entries that somebody here may wait for, or that pass the quota.
    Outcomes(Vec<Outcome>),
    /// Rounds of reads that ended.
    Reads(Vec<u64>, Result<(), ReadError>),
    /// Proposals that ended before they were logged.
    Failed(u64, ProposeError),
    /// The node does nothing any more.
    Ended(ProposeError),
}

/// The box towards the runtime.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    done: Mutex<Vec<Done>>,
    notify: Notify,
}

impl Outbox {
    /// Hands answers back with at most one notify.
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

    /// Waits for answers.
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

/// Who waits for an entry.
#[derive(Debug)]
pub(crate) enum Waiter {
    Request { reply: oneshot::Sender<Result<Response, ProposeError>>, since: Instant, deadline: Instant },
    Change { reply: oneshot::Sender<Result<(), ProposeError>>, since: Instant, deadline: Instant },
}

impl Waiter {
    pub(crate) fn deadline(&self) -> Instant {
        match self {
            Waiter::Request { deadline, .. } | Waiter::Change { deadline, .. } => *deadline,
        }
    }

    pub(crate) fn since(&self) -> Instant {
        match self {
            Waiter::Request { since, .. } | Waiter::Change { since, .. } => *since,
        }
    }

    pub(crate) fn fail(self, error: ProposeError) {
        // The other end may have gone away: then nobody waits.
        match self {
            Waiter::Request { reply, .. } => drop(reply.send(Err(error))),
            Waiter::Change { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// A read that waits for its round.
pub(crate) type ReadWaiter = oneshot::Sender<Result<(), ReadError>>;

/// The runtime's side: what is gathered for the next hand-over, and who waits for what.
#[derive(Debug)]
pub(crate) struct Front {
    pub gathered: Batch,
    /// Reads that came since the last hand-over: they share one round.
    pub reads: Vec<ReadWaiter>,
    /// Those, and those of the rounds under way.
    pub reads_waiting: usize,
    pub waiters: HashMap<u64, Waiter, BuildHasherDefault<IdHasher>>,
    pub rounds: VecDeque<(u64, Vec<ReadWaiter>)>,
    /// No waiter ends before this; `None` while nobody waits. May be too early, never too late.
    pub first_deadline: Option<Instant>,
    /// Set when the node has ended: nothing is taken any more.
    pub ended: Option<ProposeError>,
    /// Whether the flusher has been told that something is gathered.
    pub flush_due: bool,
    next_round: u64,
}

impl Front {
    pub(crate) fn new() -> Self {
        Self {
            gathered: Batch::default(),
            reads: Vec::new(),
            reads_waiting: 0,
            waiters: HashMap::default(),
            rounds: VecDeque::new(),
            first_deadline: None,
            ended: None,
            flush_due: false,
            next_round: 0,
        }
    }

    /// Turns the reads gathered into a round, and takes all that is gathered.
    pub(crate) fn take_gathered(&mut self, into: &mut Batch) {
        self.flush_due = false;
        if !self.reads.is_empty() {
            self.next_round += 1;
            self.rounds.push_back((self.next_round, std::mem::take(&mut self.reads)));
            self.gathered.reads.push(self.next_round);
        }
        into.take_from(&mut self.gathered);
    }
}

/// Request IDs are already unlike each other: one multiplication spreads them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}
