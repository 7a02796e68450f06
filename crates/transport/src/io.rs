//! An accepted peer connection: every read and write has etcd's 5 s deadline, without a timer on the busy path.
//!
//! A timer is armed only when an operation has to wait, and is kept for the next wait. Reads have no deadline while a
//! request is being answered or a stream is open ([`Busy`]); idle keep-alive connections are closed after 5 s.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

/// While one of these lives, the connection's reads have no deadline.
#[derive(Debug)]
pub(crate) struct Busy(Arc<AtomicUsize>);

impl Busy {
    pub(crate) fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Deadline {
    after: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Deadline {
    fn new(after: Duration) -> Self {
        Self { after, timer: None, armed: false }
    }

    fn disarm(&mut self) {
        self.armed = false;
    }

    /// Called when the operation waits: an error once it has waited too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let at = Instant::now() + self.after;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if !self.armed {
            self.armed = true;
            timer.as_mut().reset(at);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "peer connection deadline"))
    }

    /// The operation's outcome, or the deadline's.
    fn bound<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Ready(result) => {
                self.disarm();
                Poll::Ready(result)
            }
            Poll::Pending => self.poll(cx).map(Err),
        }
    }
}

/// A TCP stream with deadlines.
#[derive(Debug)]
pub(crate) struct PeerIo {
    stream: TcpStream,
    busy: Arc<AtomicUsize>,
    reading: Deadline,
    writing: Deadline,
}

impl PeerIo {
    pub(crate) fn new(stream: TcpStream, busy: Arc<AtomicUsize>, deadline: Duration) -> Self {
        Self { stream, busy, reading: Deadline::new(deadline), writing: Deadline::new(deadline) }
    }
}

impl AsyncRead for PeerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let outcome = Pin::new(&mut this.stream).poll_read(cx, buf);
        if outcome.is_pending() && this.busy.load(Ordering::Relaxed) > 0 {
            this.reading.disarm();
            return Poll::Pending;
        }
        this.reading.bound(cx, outcome)
    }
}

impl AsyncWrite for PeerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.writing.bound(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.writing.bound(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
