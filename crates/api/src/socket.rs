//! A client's socket: writes once a tick, reads a bounded amount in a turn.
//!
//! HTTP/2 hands down its frames in small pieces, and a system call costs more than making the response. So writes are
//! only gathered here, and the flusher runs after every task that was ready before it: the responses of one batch of
//! the log leave in one write for each connection.
//!
//! ```text
//! h2 ─ poll_write ─▶ buffer ─┐ noted once        ┌─ all sent: the buffer goes back to the spares
//! h2 ─ poll_write ─▶ buffer ─┴─▶ flusher (tick) ─┤
//!                                                └─ the socket is full: a task waits until it is writable
//! ```
//!
//! h2 reads frames as long as there are any, and only then hands on streams: with a full kernel buffer, its counters of
//! unread frames and of early resets would take an honest client for an attacker. So a connection reads
//! [`Wire::turn_bytes`] in a turn; then its streams and other clients have theirs. A client that does not read its
//! responses is not read from.
//!
//! Invariants:
//! * Bytes leave in order: there is one buffer, sent from its front under its lock.
//! * A buffer never holds more than [`Wire::pending_bytes`]; beyond, `poll_write` is pending, HTTP/2 takes no
//!   responses, and nothing is read.
//! * A failed write is stored, and the connection's next call returns it.
//! * `poll_shutdown` waits until everything is sent. What a dropped connection left is sent too, unless the client
//!   reads nothing for [`LINGER`].

use crate::{connections::Seat, wire::Wire};
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
use types::lock;

/// From this size on, a write to an empty buffer goes to the socket directly: copying would cost more than it saves.
const DIRECT_BYTES_MIN: usize = 32 << 10;

/// Buffers kept for reuse: a connection holds memory only while it has something to send.
const SPARE_BUFFERS_MAX: usize = 32;

/// A larger buffer is not kept for reuse.
const SPARE_BUFFER_BYTES_MAX: usize = 64 << 10;

/// How long a closed connection's rest may wait for a client that reads nothing.
const LINGER: Duration = Duration::from_secs(5);

/// Writes all connections with something to send; one task for each listener.
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

struct Outgoing {
    half: OwnedWriteHalf,
    /// Unsent bytes, and so the descriptor, may outlive the connection.
    _seat: Seat,
    pending: Mutex<Pending>,
    noted: AtomicBool,
    /// Whether the connection is gone, so that [`LINGER`] applies.
    abandoned: AtomicBool,
}

#[derive(Default)]
struct Pending {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were sent.
    sent: usize,
    /// Whether a task waits for the socket.
    blocked: bool,
    failed: Option<io::ErrorKind>,
    /// The task that waits for room, or for shutdown.
    waiter: Option<Waker>,
}

impl Pending {
    fn waiting(&self) -> usize {
        self.buffer.len() - self.sent
    }

    fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Sends what the socket takes; true if nothing is left, or sending failed.
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

    fn reset(&mut self) -> Vec<u8> {
        self.sent = 0;
        mem::take(&mut self.buffer)
    }
}

impl Outgoing {
    fn flush(self: &Arc<Self>, flusher: &Flusher) {
        let mut pending = lock(&self.pending);
        if pending.blocked {
            return; // its task continues
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

async fn drain(outgoing: Arc<Outgoing>) {
    loop {
        let ready = tokio::time::timeout(LINGER, outgoing.half.writable()).await;
        let mut pending = lock(&outgoing.pending);
        let give_up = match ready {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(e.kind()),
            // A live connection may wait: HTTP/2's pings detect a dead client.
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

#[derive(Debug, Clone, Default)]
pub(crate) struct Turn(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    read: AtomicUsize,
    given_up: AtomicUsize,
}

impl Turn {
    pub(crate) fn begin(&self) {
        self.0.read.store(0, Relaxed);
    }

    pub(crate) fn given_up(&self) {
        self.0.given_up.fetch_add(1, Relaxed);
    }
}

/// Slows down clients that keep starting calls and giving them up, which costs the server more. After
/// [`Wire::given_up`] of them in a row, reads pause; the connection is not closed.
#[derive(Debug)]
struct Patience {
    left: usize,
    since: Instant,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Called at the start of a turn; ready when the connection may read.
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

pub(crate) struct Socket {
    read: OwnedReadHalf,
    turn: Turn,
    patience: Patience,
    wire: Arc<Wire>,
    /// Bytes already read to detect the protocol.
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

    /// This connection's counters. The task that polls the connection starts each turn.
    pub(crate) fn turn(&self) -> Turn {
        self.turn.clone()
    }

    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.ahead = bytes;
    }

    /// Whether the buffer is full; if so, registers for a wake-up. One task both reads and writes.
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

/// Moves pending bytes to the front once more were sent than are pending: the buffer stays within twice its limit, and
/// no byte moves more often than sent ones are dropped.
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

    /// True because the buffer gathers slices anyway; otherwise h2 would copy small frames once more.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The flusher writes at the end of the tick.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(lock(&self.outgoing.pending).check())
    }

    /// Waits until everything is sent. The socket is shut down when its last owner drops it.
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
