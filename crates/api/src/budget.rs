//! Bytes in flight: partly received requests, requests that wait for their turn, and responses that clients have not
//! read. A client that merely stops can make either grow, so both are bounded, for each connection and in total.
//!
//! ```text
//! requests: piece ─▶ Meter::hold ─┬ fits ─▶ … ─▶ whole: Meter::keep ─▶ waits ─▶ the inbox, or the read
//!                                 └ full ─▶ etcdserver: too many requests, and its bytes are freed
//! answers:  Share::large (before a large read) ─▶ the read ─▶ Share::hold ─▶ Held (pieces) ─▶ HTTP
//!             ▲ waits while full, and takes back slow answers ────────────────┘ freed when dropped
//! long ones: the same room ─▶ a piece is read ─▶ Feeder ─▶ Held (that piece) ─▶ HTTP, and then the next one
//! values:   Share::room (waits for this connection alone) ─▶ the read ─▶ Share::count ─▶ HTTP
//! ```
//!
//! `answers` are read away from the runtime's thread, mostly lists. `values` are read on it: a few kilobytes each, but
//! a client may ask for any number, so a connection that does not read them delays its own calls.
//!
//! Invariants:
//! * Small requests and answers are not counted ([`Options::free_bytes`]): a put, a keepalive and most gets cost one
//!   comparison, and never wait for other clients.
//! * A charge lives exactly as long as its bytes, in whatever hands they are.
//! * A connection gets no large answer while it holds more bytes of them than it leaves to all others.
//! * Bytes that do not move are freed when others wait: a request after [`Options::stall`], an answer that is read more
//!   slowly than [`Options::pace_bytes`] in that time.

mod held;

use crate::status::EtcdError;
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
use types::lock;

/// Bounds of one kind of bytes in flight.
#[derive(Clone, Debug)]
pub struct Options {
    /// Total of all connections, in bytes. Default 96 MiB: fifty of the largest puts, or two lists of 100,000 keys.
    pub total_bytes: usize,
    /// Limit for each connection, in bytes. Default 48 MiB.
    pub connection_bytes: usize,
    /// Requests and answers up to this size are not counted, in bytes. Default 64 KiB; 2 KiB for values.
    pub free_bytes: usize,
    /// How long bytes may be held without progress while others wait for room. Default 10 s.
    pub stall: Duration,
    /// How much of an answer a client must read within `stall`, in bytes. Default 4 MiB: 400 KiB/s.
    pub pace_bytes: usize,
    /// How long a large read without a deadline waits for room. Default one minute.
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
    /// The defaults for `values`: 2 KiB are free.
    pub fn values() -> Self {
        Self { free_bytes: 2 << 10, ..Self::default() }
    }
}

/// While the total is exhausted, a connection counts as full at this fraction of its limit.
const CROWDED_SHARE: usize = 64;

/// Data that could be read again is kept while less than this fraction of the total is used.
const MUCH_ROOM: usize = 8;

pub(crate) fn exhausted() -> Status {
    Status::resource_exhausted(EtcdError::TooManyRequests.text())
}

#[derive(Debug)]
pub(crate) struct Budget {
    options: Options,
    used: AtomicUsize,
    /// Refused requests and answers taken back.
    refused: AtomicUsize,
    /// Notified when bytes are freed, including those of `beside`.
    freed: Arc<Notify>,
    held: Mutex<Vec<Weak<Slot>>>,
    /// The budget with priority over this one.
    beside: Option<Arc<Self>>,
}

impl Budget {
    pub(crate) fn new(options: Options) -> Arc<Self> {
        Self::of(options, None)
    }

    /// A budget that yields to `other`, up to half: a read can wait, while a request would be refused.
    pub(crate) fn beside(other: &Arc<Self>, options: Options) -> Arc<Self> {
        Self::of(options, Some(Arc::clone(other)))
    }

    fn of(options: Options, beside: Option<Arc<Self>>) -> Arc<Self> {
        let freed = beside.as_ref().map_or_else(Arc::default, |other| Arc::clone(&other.freed));
        let (used, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { options, used, refused, freed, held: Mutex::default(), beside })
    }

    pub(crate) fn share(self: &Arc<Self>) -> Arc<Share> {
        Arc::new(Share { budget: Arc::clone(self), used: AtomicUsize::new(0), cut: Arc::default() })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }

    fn total(&self) -> usize {
        let total = self.options.total_bytes;
        let others = self.beside.as_ref().map_or(0, |other| other.used());
        total - others.min(total / 2)
    }

    /// Whether senders and readers that make no progress must make way for others.
    pub(crate) fn is_crowded(&self) -> bool {
        self.used() > self.total() / 2
    }

    /// Whether there is also room for data that could be read again.
    pub(crate) fn has_much_room(&self) -> bool {
        self.used() < self.total() / MUCH_ROOM
    }

    fn free(&self) -> usize {
        self.total().saturating_sub(self.used())
    }

    pub(crate) fn has_room(&self) -> bool {
        self.free() > 0
    }

    async fn wait(
        &self,
        deadline: Option<std::time::Instant>,
        has_room: impl Fn() -> bool,
    ) -> Result<(), Status> {
        let last = deadline.map_or_else(|| Instant::now() + self.options.wait, Instant::from);
        // Slowness before anybody waited does not count.
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
                    Some(_) => EtcdError::DeadlineExceeded.into(),
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

    fn begin_pace(&self) {
        self.slots().iter().for_each(|slot| slot.begin_pace(self));
    }

    fn take_back(&self) {
        self.slots().iter().for_each(|slot| slot.take_back(self));
    }
}

/// Room for a large answer, and until when its caller waits for it.
#[derive(Clone, Copy)]
pub(crate) struct Room<'a> {
    pub(crate) answers: &'a Share,
    pub(crate) deadline: Option<std::time::Instant>,
}

impl Room<'_> {
    pub(crate) async fn wait(&self) -> Result<(), Status> {
        self.answers.large(self.deadline).await
    }

    pub(crate) fn is_there(&self) -> bool {
        self.answers.has_room()
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Shares<'a> {
    pub(crate) answers: &'a Arc<Share>,
    pub(crate) values: &'a Arc<Share>,
}

#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    used: AtomicUsize,
    /// Notified when the connection must be closed.
    cut: Arc<Notify>,
}

impl Share {
    pub(crate) fn free_bytes(&self) -> usize {
        self.budget.options.free_bytes
    }

    /// Whether the client must read before it gets more.
    fn is_full(&self) -> bool {
        let (used, most) = (self.used.load(Relaxed), self.budget.options.connection_bytes);
        used >= most || (used >= most / CROWDED_SHARE && !self.budget.has_room())
    }

    /// Whether this connection may get another large answer: it must not hold more than it leaves to all others.
    fn has_room(&self) -> bool {
        self.used.load(Relaxed) < self.budget.options.connection_bytes.min(self.budget.free())
    }

    /// Waits for room before work with a large answer.
    pub(crate) async fn large(&self, deadline: Option<std::time::Instant>) -> Result<(), Status> {
        self.until(deadline, Self::has_room).await
    }

    pub(crate) async fn turn(&self, deadline: Option<std::time::Instant>) -> Result<(), Status> {
        if self.is_full() {
            // Boxed: this future is part of every call's task.
            Box::pin(self.room(deadline)).await?;
        }
        Ok(())
    }

    /// Waits until the client has read enough of what this connection holds.
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

    /// Charges the answer until HTTP drops it, unless it is small.
    pub(crate) fn count(self: &Arc<Self>, answer: Bytes) -> Bytes {
        if answer.len() <= self.budget.options.free_bytes {
            return answer;
        }
        let charge = self.charge(answer.len());
        Bytes::from_owner(Charged { bytes: answer, _charge: charge })
    }

    /// Notifies the connection's task to close it, because the client does not read.
    pub(crate) fn cut(&self) -> Arc<Notify> {
        Arc::clone(&self.cut)
    }

    /// Charges data from which an answer will be made, unless it is small.
    pub(crate) fn keep(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        (bytes > self.free_bytes()).then(|| self.charge(bytes))
    }

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

struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[derive(Debug)]
pub(crate) struct Meter {
    share: Arc<Share>,
    charge: Option<Charge>,
    /// Received bytes of the counted message.
    here: usize,
    stalled: Option<Stalled>,
}

#[derive(Debug)]
struct Stalled {
    timer: std::pin::Pin<Box<Sleep>>,
    held: usize,
}

impl Meter {
    pub(crate) fn new(share: &Arc<Share>) -> Self {
        Self { share: Arc::clone(share), charge: None, here: 0, stalled: None }
    }

    /// `here` bytes of a message have come, of `whole` if known. Fails without room. Above `free_bytes` it is charged
    /// at full length: memory is reserved for all of it, and an admitted request must not be refused near its end.
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

    /// Charges a complete message until its memory is dropped, unless it is small. Fails if there is no room.
    pub(crate) fn keep(mut self, message: Bytes) -> Result<Bytes, Status> {
        self.hold(message.len(), message.len())?;
        Ok(match self.charge {
            Some(charge) => Bytes::from_owner(Charged { bytes: message, _charge: charge }),
            None => message,
        })
    }

    /// Ready when a charged request has made no progress for `stall` while others need the room.
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
