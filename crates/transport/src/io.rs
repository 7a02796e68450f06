//! An accepted peer connection. Every read and write has etcd's 5 s deadline, by a timer that is armed only when an
//! operation has to wait; reads have none while a request is being answered or a stream is open ([`Busy`]).

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

/// While one of these exists, reads of the connection have no deadline.
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

    /// Called while the operation waits. Ready with an error at the deadline.
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
