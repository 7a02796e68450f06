//! A client's socket that writes once a tick, and reads a bounded piece in a turn.
//!
//! HTTP/2 hands its frames down in small pieces, a few for every answer. A write costs more than making the answer, so
//! what is written is only gathered here, and a connection with something to send is noted with the runtime's flusher. The
//! flusher is woken once and runs behind everything that is ready to run by then: the answers of one batch of the log
//! leave in one write for each connection.
//!
//! ```text
//! h2 ─ poll_write ─▶ buffer ─┐ noted once        ┌─ all sent: the buffer goes back to the spares
//! h2 ─ poll_write ─▶ buffer ─┴─▶ flusher (tick) ─┤
//!                                                └─ the socket is full: a task waits until it is writable
//! ```
//!
//! HTTP/2 reads frames as long as there are any, and hands streams on only then. With a full kernel buffer that is a
//! megabyte at once, tens of thousands of small messages that nobody could have taken in between: the library's counters
//! of unread frames and of streams that were reset before they were seen would take an honest client, or a member that
//! stood still for a second, for an attack. So a connection reads [`Wire::turn_bytes`] in a turn, and the tasks of its
//! streams, and other clients, have theirs before the next one. Whoever does not take what it is sent is not read from
//! either: what it asks for would only pile up as answers.
//!
//! Invariants:
//! * Bytes leave in order: there is one buffer, and it is sent from its front under its lock.
//! * A buffer never holds more than [`Wire::pending_bytes`]; beyond it `poll_write` waits, HTTP/2 stops taking answers, and
//!   nothing is read.
//! * A failed write is kept, and the next call of the connection gets it.
//! * `poll_shutdown` waits until everything is sent. What a dropped connection left is sent too, unless the client takes
//!   nothing for [`LINGER`].

use crate::{connections::Seat, lock, wire::Wire};
use bytes::{Buf, Bytes};
use std::{
    collections::VecDeque,
    future::{Future as _, poll_fn},
    io, mem,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, Sleep, sleep},
};

/// From this size on, what is written while nothing waits goes to the socket directly: copying it would cost more than
/// the write saves.
const DIRECT_BYTES_MIN: usize = 32 << 10;

/// Buffers kept for reuse, so that a connection holds memory only while it has something to send.
const SPARE_BUFFERS_MAX: usize = 32;

/// A buffer that has grown beyond this is not kept.
const SPARE_BUFFER_BYTES_MAX: usize = 64 << 10;

/// How long what a closed connection left may wait for a client that takes nothing.
const LINGER: Duration = Duration::from_secs(5);

/// Writes the connections that have something to send; one task for a listener.
#[derive(Default)]
pub(crate) struct Flusher {
    inner: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    dirty: Vec<Arc<Outgoing>>,
    waker: Option<Waker>,
    spares: VecDeque<Vec<u8>>,
}

impl Flusher {
    /// Runs until it is aborted.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut batch = Vec::new();
        loop {
            poll_fn(|cx| {
                let mut noted = lock(&self.inner);
                if noted.dirty.is_empty() {
                    noted.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                mem::swap(&mut noted.dirty, &mut batch);
                Poll::Ready(())
            })
            .await;
            self.write(&mut batch);
        }
    }

    /// Writes at once what is waiting.
    pub(crate) fn flush(&self) {
        let mut batch = mem::take(&mut lock(&self.inner).dirty);
        self.write(&mut batch);
    }

    fn write(&self, batch: &mut Vec<Arc<Outgoing>>) {
        for outgoing in batch.drain(..) {
            outgoing.noted.store(false, Relaxed);
            outgoing.flush(self);
        }
    }

    fn note(&self, outgoing: &Arc<Outgoing>) {
        if !outgoing.noted.swap(true, Relaxed) {
            let mut noted = lock(&self.inner);
            noted.dirty.push(Arc::clone(outgoing));
            if let Some(waker) = noted.waker.take() {
                waker.wake();
            }
        }
    }

    fn spare(&self) -> Vec<u8> {
        lock(&self.inner).spares.pop_front().unwrap_or_default()
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() == 0 || buffer.capacity() > SPARE_BUFFER_BYTES_MAX {
            return;
        }
        buffer.clear();
        let mut noted = lock(&self.inner);
        if noted.spares.len() < SPARE_BUFFERS_MAX {
            noted.spares.push_front(buffer);
        }
    }
}

/// The way out of one connection.
struct Outgoing {
    half: OwnedWriteHalf,
    /// What is left may linger behind its connection, and with it the descriptor.
    _seat: Seat,
    pending: Mutex<Pending>,
    /// In the flusher's list.
    noted: AtomicBool,
    /// The connection is gone; what is left may linger only so long.
    abandoned: AtomicBool,
}

#[derive(Default)]
struct Pending {
    buffer: Vec<u8>,
    /// Bytes at the front that were sent already.
    sent: usize,
    /// A task waits for the socket.
    blocked: bool,
    failed: Option<io::ErrorKind>,
    /// Whoever waits for room, or for the end.
    waiter: Option<Waker>,
}

impl Pending {
    fn waiting(&self) -> usize {
        self.buffer.len() - self.sent
    }

    fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Sends what the socket takes; `true` when nothing is left to be sent (or can be).
    fn send(&mut self, half: &OwnedWriteHalf) -> bool {
        while self.waiting() > 0 && self.failed.is_none() {
            match half.try_write(&self.buffer[self.sent..]) {
                Ok(0) => self.failed = Some(io::ErrorKind::WriteZero),
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e) => self.failed = Some(e.kind()),
            }
        }
        true
    }

    /// Empties the buffer and hands it out for reuse.
    fn reset(&mut self) -> Vec<u8> {
        self.sent = 0;
        mem::take(&mut self.buffer)
    }
}

impl Outgoing {
    fn flush(self: &Arc<Self>, flusher: &Flusher) {
        let mut pending = lock(&self.pending);
        if pending.blocked {
            return; // its task goes on
        }
        if pending.send(&self.half) {
            flusher.give_back(pending.reset());
            if let Some(waiter) = pending.waiter.take() {
                waiter.wake();
            }
        } else {
            pending.blocked = true;
            tokio::spawn(drain(Arc::clone(self)));
        }
    }
}

/// Sends the rest when the socket takes it again.
async fn drain(outgoing: Arc<Outgoing>) {
    loop {
        let ready = tokio::time::timeout(LINGER, outgoing.half.writable()).await;
        let mut pending = lock(&outgoing.pending);
        let give_up = match ready {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(e.kind()),
            // A connection that is still there may take its time: HTTP/2's own pings notice a dead client.
            Err(_) => outgoing.abandoned.load(Relaxed).then_some(io::ErrorKind::TimedOut),
        };
        pending.failed = pending.failed.or(give_up);
        let done = pending.send(&outgoing.half);
        if done {
            pending.blocked = false;
            pending.reset();
        }
        if let Some(waiter) = pending.waiter.take() {
            waiter.wake();
        }
        if done {
            return;
        }
    }
}

/// What a connection has read in its turn, and what came of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    read: AtomicUsize,
    given_up: AtomicUsize,
}

impl Turn {
    /// The connection's task has its turn: it may read again.
    pub(crate) fn begin(&self) {
        self.0.read.store(0, Relaxed);
    }

    /// The client gave up a call before it was whole.
    pub(crate) fn given_up(&self) {
        self.0.given_up.fetch_add(1, Relaxed);
    }
}

/// Calls that are begun and given up at once cost us more than their client. It may do so many of them in a row; then it
/// is read from with pauses, at a rate that leaves others their time. Nobody is sent away for it.
#[derive(Debug)]
struct Patience {
    left: usize,
    since: Instant,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// At the beginning of a turn: ready when it may read.
    fn poll(&mut self, given_up: usize, wire: &Wire, cx: &mut Context<'_>) -> Poll<()> {
        if given_up > 0 {
            let back = self.since.elapsed().as_millis() * wire.given_up_rate as u128 / 1_000;
            if back > 0 {
                let left = self.left.saturating_add(usize::try_from(back).unwrap_or(usize::MAX));
                (self.left, self.since) = (left.min(wire.given_up), Instant::now());
            }
            self.left = self.left.saturating_sub(given_up);
            if self.left == 0 {
                self.pause = Some(Box::pin(sleep(wire.given_up_pause)));
            }
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

/// A client's connection.
pub(crate) struct Socket {
    read: OwnedReadHalf,
    turn: Turn,
    patience: Patience,
    wire: Arc<Wire>,
    /// Read already, to find out what the client speaks.
    ahead: Bytes,
    outgoing: Arc<Outgoing>,
    flusher: Arc<Flusher>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, seat: Seat, wire: &Arc<Wire>, flusher: Arc<Flusher>) -> Self {
        let (read, half) = stream.into_split();
        let outgoing = Outgoing {
            half,
            _seat: seat,
            pending: Mutex::default(),
            noted: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
        };
        Self {
            read,
            turn: Turn::default(),
            patience: Patience { left: wire.given_up, since: Instant::now(), pause: None },
            wire: Arc::clone(wire),
            ahead: Bytes::new(),
            outgoing: Arc::new(outgoing),
            flusher,
        }
    }

    /// The count of its turn; whoever polls the connection begins each one.
    pub(crate) fn turn(&self) -> Turn {
        self.turn.clone()
    }

    /// Puts bytes back that were read to look at them.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.ahead = bytes;
    }

    /// Whether nothing more can be written; then the connection is woken when something can. Its one task reads and writes.
    fn is_full(&self, cx: &Context<'_>) -> bool {
        let mut pending = lock(&self.outgoing.pending);
        let is_full = pending.failed.is_none() && pending.waiting() >= self.wire.pending_bytes;
        if is_full {
            pending.waiter = Some(cx.waker().clone());
        }
        is_full
    }

    fn write(&self, cx: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut pending = lock(&self.outgoing.pending);
        pending.check()?;
        let total: usize = pieces.iter().map(|p| p.len()).sum();
        if total >= DIRECT_BYTES_MIN && pending.waiting() == 0 {
            match self.outgoing.half.try_write_vectored(pieces) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
        let mut room = self.wire.pending_bytes.saturating_sub(pending.waiting());
        if room == 0 {
            pending.waiter = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if pending.buffer.capacity() == 0 {
            pending.buffer = self.flusher.spare();
        }
        compact(&mut pending);
        let mut taken = 0;
        for piece in pieces {
            let n = piece.len().min(room);
            pending.buffer.extend_from_slice(&piece[..n]);
            taken += n;
            room -= n;
        }
        drop(pending);
        self.flusher.note(&self.outgoing);
        Poll::Ready(Ok(taken))
    }
}

/// Moves what waits to the front, once the sent part is the larger one: the buffer stays within twice its limit, and no
/// byte is moved more often than sent ones are dropped.
fn compact(pending: &mut Pending) {
    if pending.sent > 0 && pending.sent >= pending.waiting() {
        let sent = mem::take(&mut pending.sent);
        pending.buffer.drain(..sent);
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            let counts = &this.turn.0;
            if counts.read.load(Relaxed) >= this.wire.turn_bytes {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let given_up = counts.given_up.swap(0, Relaxed);
            ready!(this.patience.poll(given_up, &this.wire, cx));
            if this.is_full(cx) {
                return Poll::Pending;
            }
            let before = out.filled().len();
            let read = Pin::new(&mut this.read).poll_read(cx, out);
            counts.read.fetch_add(out.filled().len() - before, Relaxed);
            return read;
        }
        let n = this.ahead.len().min(out.remaining());
        out.put_slice(&this.ahead[..n]);
        this.ahead.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, pieces)
    }

    /// A vector is gathered in one go here; without it h2 would copy small frames once more.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The flusher does it, at the end of the tick.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(lock(&self.outgoing.pending).check())
    }

    /// Waits until everything is sent; the socket itself is shut down when the last owner lets go of it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pending = lock(&self.outgoing.pending);
        pending.check()?;
        if pending.waiting() == 0 {
            return Poll::Ready(Ok(()));
        }
        pending.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.outgoing.abandoned.store(true, Relaxed);
    }
}

#[cfg(test)]
#[path = "tests/socket.rs"]
mod tests;
