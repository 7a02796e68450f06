//! The bodies: what is handed to the gRPC side, what comes back, and the lines of a stream.

use crate::{
    json::PREFIX_BYTES,
    large,
    long::Long,
    status::{DEADLINE_EXCEEDED, INTERNAL, Status},
    work::{Output, Turns},
};
use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use prost_reflect::MessageDescriptor;
use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{sync::mpsc, time::Sleep};

/// The messages of a call, each with its prefix: the body of the request that the gRPC side gets.
#[derive(Debug)]
pub enum Messages {
    /// One, and then the end.
    One(Option<Bytes>),
    /// As the client sends them.
    Many(mpsc::Receiver<Bytes>),
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let message = match self.get_mut() {
            Self::One(message) => message.take(),
            Self::Many(messages) => ready!(messages.poll_recv(cx)),
        };
        Poll::Ready(message.map(|message| Ok(Frame::data(message))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::One(None))
    }
}

/// What is sent back over HTTP. `R` is the body that the gRPC side answers with.
#[derive(Debug)]
pub enum Answer<R> {
    /// All of it.
    Whole(Option<Bytes>),
    /// A long one, made as it is read.
    Long(Box<Long<R>>),
    /// A stream: a line a message.
    Lines(Box<Lines<R>>),
}

/// Fails only where a long answer breaks off: its head is gone, and what was sent is not the whole.
impl<R: Body<Data = Bytes> + Unpin> Body for Answer<R> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let data = match self.get_mut() {
            Self::Whole(data) => data.take().map(Ok),
            Self::Long(long) => ready!(long.poll_json(cx)),
            Self::Lines(lines) => ready!(lines.poll_line(cx)).map(Ok),
        };
        let broken = |status: Status| io::Error::other(status.message);
        Poll::Ready(data.map(|data| data.map(Frame::data).map_err(broken)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(data) => SizeHint::with_exact(data.as_ref().map_or(0, Bytes::len) as u64),
            Self::Long(_) | Self::Lines(_) => SizeHint::default(),
        }
    }
}

/// Cuts the gRPC side's data into messages.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// What came in one piece and has not been taken yet: nearly always whole messages, used as they are.
    piece: Bytes,
    /// What is behind it, put together.
    gathered: BytesMut,
}

impl Frames {
    pub(crate) fn push(&mut self, data: Bytes) {
        if self.piece.is_empty() && self.gathered.is_empty() {
            self.piece = data;
            return;
        }
        self.gathered.extend_from_slice(&std::mem::take(&mut self.piece));
        self.gathered.extend_from_slice(&data);
    }

    fn waiting(&self) -> &[u8] {
        if self.piece.is_empty() { &self.gathered } else { &self.piece }
    }

    /// How long the next message is without its prefix, once that is here.
    pub(crate) fn length(&self) -> Option<usize> {
        Some(self.waiting().get(1..PREFIX_BYTES)?.get_u32() as usize)
    }

    /// All there is behind the next message's prefix.
    pub(crate) fn rest(mut self) -> Bytes {
        let mut rest = if self.piece.is_empty() { self.gathered.split().freeze() } else { self.piece };
        rest.advance(PREFIX_BYTES.min(rest.len()));
        rest
    }

    /// The next whole message, without its prefix.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let in_piece = !self.piece.is_empty();
        let end = PREFIX_BYTES + self.length()?;
        if self.waiting().len() < end {
            return None;
        }
        let mut message =
            if in_piece { self.piece.split_to(end) } else { self.gathered.split_to(end).freeze() };
        message.advance(PREFIX_BYTES);
        Some(message)
    }
}

/// What a stream says next.
#[derive(Debug)]
pub(crate) enum Event {
    Line(Bytes),
    Failed(Status),
    End,
}

/// The answer to a call that streams: `{"result":…}` a message, `{"error":…}` at the end of one that fails.
pub struct Lines<R> {
    inner: R,
    message: MessageDescriptor,
    frames: Frames,
    /// Lines that are complete, waiting to be sent.
    ready: VecDeque<Bytes>,
    deadline: Option<Pin<Box<Sleep>>>,
    ended: bool,
    turns: Turns,
    /// A line that is being made on another thread.
    making: Option<Making>,
}

type Making = Pin<Box<dyn Future<Output = Result<Bytes, Status>> + Send>>;

impl<R: fmt::Debug> fmt::Debug for Lines<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("inner", &self.inner)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl<R: Body<Data = Bytes> + Unpin> Lines<R> {
    pub(crate) fn new(
        inner: R,
        message: MessageDescriptor,
        deadline: Option<Pin<Box<Sleep>>>,
        turns: Turns,
    ) -> Self {
        let (frames, ready) = (Frames::default(), VecDeque::new());
        Self { inner, message, frames, ready, deadline, ended: false, turns, making: None }
    }

    /// Puts a line back in front.
    pub(crate) fn unread(&mut self, line: Bytes) {
        self.ready.push_front(line);
    }

    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Poll::Ready(match ready!(self.poll_event(cx)) {
            Event::Line(line) => Some(line),
            Event::Failed(status) => Some(status.line().into()),
            Event::End => None,
        })
    }

    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Poll::Ready(Event::Line(line));
            }
            if let Some(making) = &mut self.making
                && let Poll::Ready(line) = making.as_mut().poll(cx)
            {
                self.making = None;
                return Poll::Ready(match line {
                    Ok(line) => Event::Line(line),
                    Err(status) => {
                        self.ended = true;
                        Event::Failed(status)
                    }
                });
            }
            if self.making.is_none() {
                if let Some(message) = self.frames.next() {
                    self.making = Some(Box::pin(line(self.turns.clone(), self.message.clone(), message)));
                    continue;
                }
                if self.ended {
                    return Poll::Ready(Event::End);
                }
            }
            if let Some(deadline) = &mut self.deadline
                && deadline.as_mut().poll(cx).is_ready()
            {
                self.ended = true;
                return Poll::Ready(Event::Failed(Status::new(
                    DEADLINE_EXCEEDED,
                    "context deadline exceeded",
                )));
            }
            if self.making.is_some() {
                return Poll::Pending;
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.frames.push(data),
                    Err(frame) => {
                        self.ended = true;
                        if let Some(status) = frame.trailers_ref().and_then(Status::of) {
                            return Poll::Ready(Event::Failed(status));
                        }
                    }
                },
                Some(Err(_)) => {
                    self.ended = true;
                    return Poll::Ready(Event::Failed(Status::new(INTERNAL, "the answer broke off")));
                }
                None => self.ended = true,
            }
        }
    }
}

/// A message as a line.
async fn line(turns: Turns, descriptor: MessageDescriptor, message: Bytes) -> Result<Bytes, Status> {
    let length = message.len();
    let part_bytes = turns.limits().part_bytes;
    let shown = turns.run(length, move |gone| {
        let mut line = Output::new(length, gone);
        line.bytes.extend_from_slice(br#"{"result":"#);
        large::write(&descriptor, message, part_bytes, &mut line)?;
        line.bytes.extend_from_slice(b"}\n");
        Ok(line.bytes)
    });
    Ok(shown.await?.into())
}
