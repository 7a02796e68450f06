//! The answers that are being sent. Either kind can be taken back while others wait for room.
//!
//! ```text
//! a whole answer ────────────────────▶ Held ─▶ pieces, as HTTP asks for them
//! a long one: Feeder ─▶ one piece ───▶  ▲
//!               ▲ waits until that was taken
//! ```

use super::{Budget, Charge, Charged, Share};
use bytes::Bytes;
use std::{
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
};
use tokio::{sync::Notify, time::Instant};
use tonic::Status;
use types::lock;

/// Size of the pieces in which an answer goes to HTTP, in bytes.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// Size of the first piece, in bytes. It is a copy: HTTP takes it even if the client never reads.
pub(super) const FIRST_PIECE_BYTES: usize = 16 << 10;

/// From this size on all pieces are copies, for a tenth of the list's cost: a shared piece inside HTTP keeps all alive.
/// A smaller answer is freed by closing the connection if nothing else helps.
pub(super) const COPIED_BYTES_MIN: usize = 4 << 20;

pub(crate) type Late = fn() -> Status;

/// The unsent rest of an answer, which can be taken back.
#[derive(Debug)]
pub(super) struct Slot {
    rest: Mutex<Rest>,
    /// Notifies the feeder that its piece was taken, or that no more are wanted.
    taken: Notify,
}

#[derive(Debug)]
struct Rest {
    bytes: Bytes,
    more: More,
    /// Bytes not yet given to HTTP, including those not yet made.
    left: usize,
    is_begun: bool,
    is_copied: bool,
    /// Whether HTTP holds a piece that shares this memory.
    is_shared: bool,
    cut: Arc<Notify>,
    /// Since when `moved` is counted; `None` if nobody has waited.
    since: Option<Instant>,
    moved: usize,
    reader: Reader,
    late: Late,
    waiting: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Waits,
    /// Read too slowly while others waited.
    Late,
    Gone,
}

#[derive(Debug)]
enum More {
    Nothing,
    ToCome,
    Failed(Status),
}

impl Slot {
    fn new(share: &Share, bytes: Bytes, more: More, left: usize, late: Late) -> Arc<Self> {
        let rest = Rest {
            is_copied: bytes.len() >= COPIED_BYTES_MIN,
            bytes,
            more,
            left,
            is_begun: false,
            is_shared: false,
            cut: share.cut(),
            since: None,
            moved: 0,
            reader: Reader::Waits,
            late,
            waiting: None,
        };
        Arc::new(Self { rest: Mutex::new(rest), taken: Notify::new() })
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        lock(&self.rest)
    }

    /// Starts to measure the pace, unless that started within the last two `stall`s.
    pub(super) fn begin_pace(&self, budget: &Budget) {
        let mut rest = self.rest();
        let long_ago = rest.since.is_none_or(|since| since.elapsed() > budget.options.stall * 2);
        if long_ago {
            (rest.since, rest.moved) = (Some(Instant::now()), 0);
        }
    }

    pub(super) fn take_back(&self, budget: &Budget) {
        let mut rest = self.rest();
        let Some(since) = rest.since else {
            // The answer is newer than those that wait.
            (rest.since, rest.moved) = (Some(Instant::now()), 0);
            return;
        };
        if since.elapsed() < budget.options.stall {
            return;
        }
        // An empty buffer is the feeder's delay, not the reader's.
        let is_fed = matches!(rest.more, More::ToCome) && rest.bytes.is_empty();
        if rest.reader == Reader::Late {
            if rest.is_shared {
                // A piece inside HTTP keeps all the memory alive.
                rest.cut.notify_one();
            }
        } else if !is_fed && rest.moved < budget.options.pace_bytes.min(rest.left.max(1)) {
            rest.bytes = Bytes::new();
            rest.reader = Reader::Late;
            self.taken.notify_one();
            if let Some(waiting) = rest.waiting.take() {
                waiting.wake();
            }
            budget.refused.fetch_add(1, Relaxed);
        }
        (rest.since, rest.moved) = (Some(Instant::now()), 0);
    }
}

impl Share {
    /// Charges an answer that is to be sent; returns a small one as it is.
    pub(crate) fn hold(self: &Arc<Self>, answer: Bytes, late: Late) -> Result<Held, Bytes> {
        if answer.len() <= self.budget.options.free_bytes {
            return Err(answer);
        }
        let bytes = self.charged(answer);
        let left = bytes.len();
        Ok(self.held(Slot::new(self, bytes, More::Nothing, left, late)))
    }

    /// An answer of `length` bytes made in pieces, and its feeder. `late` makes the error for a slow reader.
    pub(crate) fn feed(self: &Arc<Self>, length: usize, late: Late) -> (Held, Feeder) {
        let slot = Slot::new(self, Bytes::new(), More::ToCome, length, late);
        let feeder = Feeder { share: Arc::clone(self), slot: Arc::clone(&slot) };
        (self.held(slot), feeder)
    }

    fn held(&self, slot: Arc<Slot>) -> Held {
        let mut held = lock(&self.budget.held);
        if held.len() == held.capacity() {
            held.retain(|slot| slot.strong_count() > 0);
        }
        held.push(Arc::downgrade(&slot));
        Held(slot)
    }

    /// Charges bytes until the last piece of their memory is dropped.
    fn charged(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        let charge = self.charge(bytes.len());
        Bytes::from_owner(Charged { bytes, _charge: charge })
    }
}

/// An answer being sent. Dropping it frees what is left.
#[derive(Debug)]
pub(crate) struct Held(Arc<Slot>);

impl Held {
    /// The next piece; `None` at the end. Fails if the client read too slowly, or if the feeder failed.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let mut rest = self.0.rest();
        if rest.reader == Reader::Late {
            return Poll::Ready(Err((rest.late)()));
        }
        if rest.bytes.is_empty() {
            return match &rest.more {
                More::Nothing => Poll::Ready(Ok(None)),
                More::Failed(status) => Poll::Ready(Err(status.clone())),
                More::ToCome => {
                    rest.waiting = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let is_first = !std::mem::replace(&mut rest.is_begun, true);
        let length = rest.bytes.len().min(if is_first { FIRST_PIECE_BYTES } else { PIECE_BYTES });
        if !is_first {
            // Asking for this piece shows that the client read the last one.
            rest.moved += length;
        }
        rest.left = rest.left.saturating_sub(length);
        let piece = rest.bytes.split_to(length);
        if rest.bytes.is_empty() {
            self.0.taken.notify_one();
        }
        if rest.is_copied || is_first {
            return Poll::Ready(Ok(Some(Bytes::copy_from_slice(&piece))));
        }
        rest.is_shared = true;
        Poll::Ready(Ok(Some(piece)))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.rest().left
    }

    pub(crate) fn is_over(&self) -> bool {
        let rest = self.0.rest();
        rest.bytes.is_empty() && matches!(rest.more, More::Nothing) && rest.reader == Reader::Waits
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut rest = self.0.rest();
        rest.reader = Reader::Gone;
        rest.bytes = Bytes::new();
        self.0.taken.notify_one();
    }
}

#[derive(Debug)]
pub(crate) struct Feeder {
    share: Arc<Share>,
    slot: Arc<Slot>,
}

impl Feeder {
    /// Charges a piece from the moment it was made.
    pub(crate) fn count(&self, piece: Bytes) -> Bytes {
        self.share.charged(piece)
    }

    /// Charges auxiliary memory for as long as the answer is being made.
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        self.share.charge(bytes)
    }

    /// Waits until the last piece was taken; returns whether more are wanted.
    pub(crate) async fn ready(&self) -> bool {
        loop {
            {
                let rest = self.slot.rest();
                if rest.reader != Reader::Waits {
                    return false;
                }
                if rest.bytes.is_empty() {
                    return true;
                }
            }
            // `Notify` stores one permit, so a wake-up before this await is not lost.
            self.slot.taken.notified().await;
        }
    }

    pub(crate) async fn unwanted(&self) {
        while self.slot.rest().reader == Reader::Waits {
            self.slot.taken.notified().await;
        }
    }

    /// Supplies the next piece; call it only after [`Feeder::ready`] returned true.
    pub(crate) fn put(&self, piece: Bytes) {
        self.tell(|rest| rest.bytes = piece);
    }

    pub(crate) fn end(self, result: Result<(), Status>) {
        self.tell(|rest| {
            rest.more = match result {
                Ok(()) => More::Nothing,
                Err(status) => More::Failed(status),
            }
        });
    }

    fn tell(&self, change: impl FnOnce(&mut Rest)) {
        let mut rest = self.slot.rest();
        if rest.reader != Reader::Waits {
            return;
        }
        change(&mut rest);
        if let Some(waiting) = rest.waiting.take() {
            waiting.wake();
        }
    }
}

impl Drop for Feeder {
    /// A feeder dropped before its end is a failure.
    fn drop(&mut self) {
        self.tell(|rest| {
            if matches!(rest.more, More::ToCome) {
                rest.more = More::Failed(Status::internal("the answer broke off"));
            }
        });
    }
}
