//! Answers on their way out.
//!
//! ```text
//! a whole answer ────────────────────▶ Held ─▶ pieces, as HTTP asks for them
//! a long one: Feeder ─▶ one piece ───▶  ▲
//!               ▲ waits until that was taken
//! ```
//!
//! Of either kind what is held can be taken back while others wait for the room.

use super::{Budget, Charge, Charged, Share};
use crate::lock;
use bytes::Bytes;
use std::{
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
};
use tokio::{sync::Notify, time::Instant};
use tonic::Status;

/// Pieces that an answer is handed to HTTP in, in bytes.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// The first piece, in bytes, which is a copy: HTTP takes it whether the client reads or not.
pub(super) const FIRST_PIECE_BYTES: usize = 16 << 10;

/// From this size on all pieces are copies: else one that HTTP has would hold the whole answer. Copying costs a list of this
/// size a tenth of what making it did; of smaller ones the connection is cut where nothing else gives the bytes back.
pub(super) const COPIED_BYTES_MIN: usize = 4 << 20;

/// What the reader of an answer is told who took too long.
pub(crate) type Late = fn() -> Status;

/// What is left of an answer; others may take it back.
#[derive(Debug)]
pub(super) struct Slot {
    rest: Mutex<Rest>,
    /// Tells the feeder that its piece was taken, or that no more are wanted.
    taken: Notify,
}

#[derive(Debug)]
struct Rest {
    bytes: Bytes,
    /// What comes behind these.
    more: More,
    /// Bytes of the answer that HTTP has not been given, those that are still to come too.
    left: usize,
    /// Whether HTTP was given anything.
    is_begun: bool,
    /// Whether pieces are copies.
    is_copied: bool,
    /// Whether HTTP was given a piece of this very memory.
    is_shared: bool,
    cut: Arc<Notify>,
    /// Since when `moved` is counted; never while nobody waits.
    since: Option<Instant>,
    moved: usize,
    reader: Reader,
    late: Late,
    /// Who waits for the next piece.
    waiting: Option<Waker>,
}

/// Who is to have the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Waits,
    /// He took too long, while others waited.
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

    /// From now on it is to move, unless that has begun within twice the time that it has.
    pub(super) fn begin_pace(&self, budget: &Budget) {
        let mut rest = self.rest();
        let long_ago = rest.since.is_none_or(|since| since.elapsed() > budget.options.stall * 2);
        if long_ago {
            (rest.since, rest.moved) = (Some(Instant::now()), 0);
        }
    }

    /// Takes back what did not move as it should.
    pub(super) fn take_back(&self, budget: &Budget) {
        let mut rest = self.rest();
        let Some(since) = rest.since else {
            // It came after those who wait.
            (rest.since, rest.moved) = (Some(Instant::now()), 0);
            return;
        };
        if since.elapsed() < budget.options.stall {
            return;
        }
        // Where there is nothing to take, its reader is not to blame.
        let is_fed = matches!(rest.more, More::ToCome) && rest.bytes.is_empty();
        if rest.reader == Reader::Late {
            if rest.is_shared {
                // A piece that HTTP has holds all of it.
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
    /// An answer on its way out, counted unless it is small.
    pub(crate) fn hold(self: &Arc<Self>, answer: Bytes, late: Late) -> Result<Held, Bytes> {
        if answer.len() <= self.budget.options.free_bytes {
            return Err(answer);
        }
        let bytes = self.charged(answer);
        let left = bytes.len();
        Ok(self.held(Slot::new(self, bytes, More::Nothing, left, late)))
    }

    /// An answer of so many bytes that will come in pieces, who brings them, and what its reader is told who takes too long.
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

    /// Bytes whose charge goes with the memory: when the last piece of it does.
    fn charged(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        let charge = self.charge(bytes.len());
        Bytes::from_owner(Charged { bytes, _charge: charge })
    }
}

/// An answer on its way out.
#[derive(Debug)]
pub(crate) struct Held(Arc<Slot>);

impl Held {
    /// The next piece; `None` at the end; an error where its reader took too long, or where there is no more to come.
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
            // Its reader took the one before.
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

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.0.rest().left
    }

    /// Whether all of it was handed out.
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

/// Who brings the pieces of a long answer.
#[derive(Debug)]
pub(crate) struct Feeder {
    share: Arc<Share>,
    slot: Arc<Slot>,
}

impl Feeder {
    /// Counts a piece, from when it was made.
    pub(crate) fn count(&self, piece: Bytes) -> Bytes {
        self.share.charged(piece)
    }

    /// Counts what is remembered for as long as the answer is made.
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        self.share.charge(bytes)
    }

    /// Waits until the last piece was taken; whether more are wanted.
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
            // One who is told while he looks is told still.
            self.slot.taken.notified().await;
        }
    }

    /// Resolves when no more pieces are wanted.
    pub(crate) async fn unwanted(&self) {
        while self.slot.rest().reader == Reader::Waits {
            self.slot.taken.notified().await;
        }
    }

    /// Hands over the next piece, once [`Feeder::ready`] has said that it may.
    pub(crate) fn put(&self, piece: Bytes) {
        self.tell(|rest| rest.bytes = piece);
    }

    /// No more is to come.
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
    /// Who stops without a word has failed.
    fn drop(&mut self) {
        self.tell(|rest| {
            if matches!(rest.more, More::ToCome) {
                rest.more = More::Failed(Status::internal("the answer broke off"));
            }
        });
    }
}
