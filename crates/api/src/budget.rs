//! Bytes in flight: requests that are half here or wait for their turn, answers that nobody has read yet.
//!
//! Either can be made to grow by a client that only stops: puts of a megabyte whose last byte never comes, lists of a
//! hundred that wait for a window that never opens. So they are counted, for each connection and in all, and bounded.
//!
//! ```text
//! requests: piece ─▶ Meter::hold ─┬ fits ─▶ … ─▶ whole: Meter::keep ─▶ waits ─▶ the inbox, or the read
//!                                 └ full ─▶ etcdserver: too many requests, and its bytes go
//! answers:  Share::large (before a large read) ─▶ the read ─▶ Share::hold ─▶ Held (pieces) ─▶ HTTP
//!             ▲ waits while it is full, and ends whoever crawls ──────────────┘ bytes go as it ends
//! long ones: the same room ─▶ a piece is read ─▶ Feeder ─▶ Held (that piece) ─▶ HTTP, and then the next one
//! values:   Share::room (waits for this connection alone) ─▶ the read ─▶ Share::count ─▶ HTTP
//! ```
//!
//! Answers are what is read away from the runtime's thread, lists above all. Values are what is read on it: a few
//! kilobytes each, but a client may ask for any number of them, so a connection that does not read waits for itself.
//!
//! Invariants:
//! * What is small is never counted ([`Options::free_bytes`]): a put, a keepalive and most gets cost a comparison. It never
//!   waits for other clients.
//! * A charge lives exactly as long as its bytes: with the last field of a request that somebody has, with the last piece
//!   of an answer that HTTP holds.
//! * No connection is given a large answer while it holds more of them than it leaves to all others.
//! * Whoever holds bytes and does not move gives them back when others wait: a request within [`Options::stall`], an
//!   answer that is not taken at [`Options::pace_bytes`] in that time.

mod held;

use crate::{lock, long::Long, status::Known};
use bytes::Bytes;
use held::Slot;
pub(crate) use held::{Feeder, Held, Late};
use std::{
    future::Future as _,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, Sleep, sleep, timeout_at},
};
use tonic::Status;

/// Bounds of one kind of bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// In all, in bytes. Default 96 MiB: fifty of the largest puts, or a list of a hundred thousand keys and then its next
    /// one.
    pub total_bytes: usize,
    /// For each connection, in bytes. Default 48 MiB.
    pub connection_bytes: usize,
    /// Requests and answers up to this size are not counted, in bytes. Default 64 KiB; 2 KiB for values.
    pub free_bytes: usize,
    /// How long bytes may be held without moving while others wait for room. Default 10 s.
    pub stall: Duration,
    /// What an answer must move in that time, in bytes. Default 4 MiB: 400 KiB a second.
    pub pace_bytes: usize,
    /// How long a large read without a deadline of its own waits for room. Default one minute.
    pub wait: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            total_bytes: 96 << 20,
            connection_bytes: 48 << 20,
            free_bytes: 64 << 10,
            stall: Duration::from_secs(10),
            pace_bytes: 4 << 20,
            wait: Duration::from_mins(1),
        }
    }
}

impl Options {
    /// Those of values.
    pub fn values() -> Self {
        Self { free_bytes: 2 << 10, ..Self::default() }
    }
}

/// When all connections together hold too much, each of them may hold this part of its share.
const CROWDED_SHARE: usize = 64;

/// What could be read again is kept while less than this part of the room is used.
const MUCH_ROOM: usize = 8;

/// What a client is told whose bytes are one too many.
pub(crate) fn exhausted() -> Status {
    Status::resource_exhausted(Known::TooManyRequests.text())
}

/// Bytes of one kind, of all connections.
#[derive(Debug)]
pub(crate) struct Budget {
    options: Options,
    used: AtomicUsize,
    /// Requests that were refused and answers that were taken back.
    refused: AtomicUsize,
    /// Tells those who wait that bytes went; also bytes of the kind beside.
    freed: Arc<Notify>,
    /// Answers on their way out.
    held: Mutex<Vec<Weak<Slot>>>,
    /// Another kind, which goes first.
    beside: Option<Arc<Self>>,
}

impl Budget {
    pub(crate) fn new(options: Options) -> Arc<Self> {
        Self::of(options, None)
    }

    /// One that leaves room to the other: what that holds is taken from its own, up to half of it. Answers are beside
    /// requests: a read can wait, where a request would be refused.
    pub(crate) fn beside(other: &Arc<Self>, options: Options) -> Arc<Self> {
        Self::of(options, Some(Arc::clone(other)))
    }

    fn of(options: Options, beside: Option<Arc<Self>>) -> Arc<Self> {
        let freed = beside.as_ref().map_or_else(Arc::default, |other| Arc::clone(&other.freed));
        let (used, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { options, used, refused, freed, held: Mutex::default(), beside })
    }

    /// A connection's share.
    pub(crate) fn share(self: &Arc<Self>) -> Arc<Share> {
        Arc::new(Share { budget: Arc::clone(self), used: AtomicUsize::new(0), cut: Arc::default() })
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Refusals so far.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }

    /// What there is for this kind now.
    fn total(&self) -> usize {
        let total = self.options.total_bytes;
        let others = self.beside.as_ref().map_or(0, |other| other.used());
        total - others.min(total / 2)
    }

    /// Whether those who do not move are in the way of others.
    pub(crate) fn is_crowded(&self) -> bool {
        self.used() > self.total() / 2
    }

    /// Whether there is room for what could be read again as well.
    pub(crate) fn has_much_room(&self) -> bool {
        self.used() < self.total() / MUCH_ROOM
    }

    /// What is left of it.
    fn free(&self) -> usize {
        self.total().saturating_sub(self.used())
    }

    /// Whether there is room in all.
    pub(crate) fn has_room(&self) -> bool {
        self.free() > 0
    }

    async fn wait(
        &self,
        deadline: Option<std::time::Instant>,
        has_room: impl Fn() -> bool,
    ) -> Result<(), Status> {
        let last = deadline.map_or_else(|| Instant::now() + self.options.wait, Instant::from);
        // What was slow before anybody waited is not held against it.
        self.begin_pace();
        let mut pace = Instant::now() + self.options.stall;
        loop {
            let freed = self.freed.notified();
            if has_room() {
                return Ok(());
            }
            if timeout_at(last.min(pace), freed).await.is_ok() {
                continue;
            }
            if Instant::now() >= last {
                self.refused.fetch_add(1, Relaxed);
                return Err(match deadline {
                    Some(_) => Status::deadline_exceeded("context deadline exceeded"),
                    None => exhausted(),
                });
            }
            if !self.has_room() {
                self.take_back();
            }
            pace = Instant::now() + self.options.stall;
        }
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        let mut held = lock(&self.held);
        held.retain(|slot| slot.strong_count() > 0);
        held.iter().filter_map(Weak::upgrade).collect()
    }

    /// From now on the answers that are held are to move.
    fn begin_pace(&self) {
        self.slots().iter().for_each(|slot| slot.begin_pace(self));
    }

    /// Takes back what did not move as it should.
    fn take_back(&self) {
        self.slots().iter().for_each(|slot| slot.take_back(self));
    }
}

/// What a call answers, by how its bytes are bounded.
pub(crate) enum Answer {
    /// A read's: where it is large, there was room for it before it was made.
    Read(Bytes),
    /// The same of a write that was done, whatever becomes of its answer.
    Done(Bytes),
    /// A read's of which only pieces are ever held.
    Long(Box<Long>),
    /// Anything else: a connection that holds too many of these waits for itself.
    Other(Bytes),
}

/// Room for a large answer, and how long its caller waits for it.
#[derive(Clone, Copy)]
pub(crate) struct Room<'a> {
    pub(crate) answers: &'a Share,
    pub(crate) deadline: Option<std::time::Instant>,
}

impl Room<'_> {
    /// Waits until there is some.
    pub(crate) async fn wait(&self) -> Result<(), Status> {
        self.answers.large(self.deadline).await
    }

    pub(crate) fn is_there(&self) -> bool {
        self.answers.has_room()
    }
}

/// What a connection holds of answers.
#[derive(Clone, Copy)]
pub(crate) struct Shares<'a> {
    pub(crate) answers: &'a Arc<Share>,
    pub(crate) values: &'a Arc<Share>,
}

/// What one connection holds of a budget.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    used: AtomicUsize,
    /// Told when the connection is to end.
    cut: Arc<Notify>,
}

impl Share {
    /// What is small, in bytes, and not counted.
    pub(crate) fn free_bytes(&self) -> usize {
        self.budget.options.free_bytes
    }

    /// Whether this connection is to read first.
    fn is_full(&self) -> bool {
        let (used, most) = (self.used.load(Relaxed), self.budget.options.connection_bytes);
        used >= most || (used >= most / CROWDED_SHARE && !self.budget.has_room())
    }

    /// Whether this connection may be given one more large answer: none holds more than it leaves to all others, so a few
    /// that do not read are in nobody's way.
    fn has_room(&self) -> bool {
        self.used.load(Relaxed) < self.budget.options.connection_bytes.min(self.budget.free())
    }

    /// Waits until it may: before work whose answer will be large.
    pub(crate) async fn large(&self, deadline: Option<std::time::Instant>) -> Result<(), Status> {
        self.until(deadline, Self::has_room).await
    }

    /// Waits, rarely, until this connection has read enough of what it holds.
    pub(crate) async fn turn(&self, deadline: Option<std::time::Instant>) -> Result<(), Status> {
        if self.is_full() {
            // Boxed: it is in the task of every call.
            Box::pin(self.room(deadline)).await?;
        }
        Ok(())
    }

    /// Waits until this connection has read enough of what it holds.
    pub(crate) async fn room(&self, deadline: Option<std::time::Instant>) -> Result<(), Status> {
        self.until(deadline, |share| !share.is_full()).await
    }

    async fn until(
        &self,
        deadline: Option<std::time::Instant>,
        may: fn(&Self) -> bool,
    ) -> Result<(), Status> {
        if may(self) {
            return Ok(());
        }
        self.budget.wait(deadline, || may(self)).await
    }

    /// An answer whose bytes are counted as long as HTTP has them, unless it is small.
    pub(crate) fn count(self: &Arc<Self>, answer: Bytes) -> Bytes {
        if answer.len() <= self.budget.options.free_bytes {
            return answer;
        }
        let charge = self.charge(answer.len());
        Bytes::from_owner(Charged { bytes: answer, _charge: charge })
    }

    /// Tells whoever runs the connection to end it, for it holds what it does not read.
    pub(crate) fn cut(&self) -> Arc<Notify> {
        Arc::clone(&self.cut)
    }

    /// Counts what waits to become an answer, unless it is small.
    pub(crate) fn keep(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        (bytes > self.free_bytes()).then(|| self.charge(bytes))
    }

    /// Counts bytes that are there already.
    fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        let mut charge = Charge { share: Arc::clone(self), bytes: 0 };
        charge.add(bytes);
        charge
    }
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    share: Arc<Share>,
    bytes: usize,
}

impl Charge {
    fn add(&mut self, bytes: usize) {
        self.share.used.fetch_add(bytes, Relaxed);
        self.share.budget.used.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
    }

    /// Counts more, or says that there is no room.
    fn try_add(&mut self, bytes: usize) -> bool {
        let Share { budget, used, .. } = &*self.share;
        let fits = used.load(Relaxed) + bytes <= budget.options.connection_bytes
            && budget.used() + bytes <= budget.total();
        if fits {
            self.add(bytes);
        } else {
            budget.refused.fetch_add(1, Relaxed);
        }
        fits
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.share.used.fetch_sub(self.bytes, Relaxed);
        self.share.budget.used.fetch_sub(self.bytes, Relaxed);
        self.share.budget.freed.notify_waiters();
    }
}

/// Memory and its charge.
struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Counts a request while it comes.
#[derive(Debug)]
pub(crate) struct Meter {
    share: Arc<Share>,
    charge: Option<Charge>,
    /// What has come of what is counted, in bytes.
    here: usize,
    stalled: Option<Stalled>,
}

#[derive(Debug)]
struct Stalled {
    timer: std::pin::Pin<Box<Sleep>>,
    /// What had come when the timer began.
    held: usize,
}

impl Meter {
    pub(crate) fn new(share: &Arc<Share>) -> Self {
        Self { share: Arc::clone(share), charge: None, here: 0, stalled: None }
    }

    /// So many bytes of a request are here, of `whole` as far as is known. Fails where there is no room for them. What is
    /// larger than what is free is counted whole: memory is set aside for all of it, and who was let in is not refused
    /// when most of it has come.
    pub(crate) fn hold(&mut self, here: usize, whole: usize) -> Result<(), Status> {
        if here <= self.share.budget.options.free_bytes {
            if self.charge.is_some() {
                (self.charge, self.stalled) = (None, None);
            }
            return Ok(());
        }
        let bytes = here.max(whole);
        if self.charge.as_ref().is_some_and(|charge| bytes < charge.bytes) {
            // The next message has begun.
            (self.charge, self.stalled) = (None, None);
        }
        self.here = here;
        let charge = self.charge.get_or_insert_with(|| Charge { share: Arc::clone(&self.share), bytes: 0 });
        if bytes == charge.bytes || charge.try_add(bytes - charge.bytes) {
            return Ok(());
        }
        self.charge = None;
        Err(exhausted())
    }

    /// A whole message that is counted as long as anybody has its memory, unless it is small: a request may wait before it
    /// is worked on. Fails where there is no room for it.
    pub(crate) fn keep(mut self, message: Bytes) -> Result<Bytes, Status> {
        self.hold(message.len(), message.len())?;
        Ok(match self.charge {
            Some(charge) => Bytes::from_owner(Charged { bytes: message, _charge: charge }),
            None => message,
        })
    }

    /// Ready when a request that is counted has not moved for too long while others need the room. Poll it beside the
    /// request itself.
    pub(crate) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if self.charge.is_none() {
            return Poll::Pending;
        }
        let budget = &self.share.budget;
        let (stall, held) = (budget.options.stall, self.here);
        loop {
            let stalled = self.stalled.get_or_insert_with(|| Stalled { timer: Box::pin(sleep(stall)), held });
            ready!(stalled.timer.as_mut().poll(cx));
            if held.saturating_sub(stalled.held) < budget.options.free_bytes && budget.is_crowded() {
                budget.refused.fetch_add(1, Relaxed);
                self.charge = None;
                return Poll::Ready(exhausted());
            }
            *stalled = Stalled { timer: Box::pin(sleep(stall)), held };
        }
    }
}

#[cfg(test)]
#[path = "tests/budget.rs"]
mod tests;
