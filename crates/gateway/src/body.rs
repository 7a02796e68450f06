//! The bodies: what is handed to the gRPC side, what comes back, and the lines of a stream.

use crate::{
    json::{self, PREFIX_BYTES},
    status::{DEADLINE_EXCEEDED, INTERNAL, Status},
};
use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use prost_reflect::MessageDescriptor;
use std::{
    collections::VecDeque,
    convert::Infallible,
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
    /// A stream: a line a message.
    Lines(Box<Lines<R>>),
}

impl<R: Body<Data = Bytes> + Unpin> Body for Answer<R> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match self.get_mut() {
            Self::Whole(data) => data.take(),
            Self::Lines(lines) => ready!(lines.poll_line(cx)),
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(data) => SizeHint::with_exact(data.as_ref().map_or(0, Bytes::len) as u64),
            Self::Lines(_) => SizeHint::default(),
        }
    }
}

/// Cuts the gRPC side's data into messages.
#[derive(Debug, Default)]
pub(crate) struct Frames(BytesMut);

impl Frames {
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    /// The next whole message, without its prefix.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let mut length = self.0.get(1..PREFIX_BYTES)?;
        let end = PREFIX_BYTES + length.get_u32() as usize;
        if self.0.len() < end {
            return None;
        }
        let mut message = self.0.split_to(end);
        message.advance(PREFIX_BYTES);
        Some(message.freeze())
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
#[derive(Debug)]
pub struct Lines<R> {
    inner: R,
    message: MessageDescriptor,
    frames: Frames,
    /// Lines that are complete, waiting to be sent.
    ready: VecDeque<Bytes>,
    deadline: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl<R: Body<Data = Bytes> + Unpin> Lines<R> {
    pub(crate) fn new(inner: R, message: MessageDescriptor, deadline: Option<Pin<Box<Sleep>>>) -> Self {
        Self { inner, message, frames: Frames::default(), ready: VecDeque::new(), deadline, ended: false }
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
            if let Some(message) = self.frames.next() {
                return Poll::Ready(self.line(&message));
            }
            if self.ended {
                return Poll::Ready(Event::End);
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
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.frames.push(&data),
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

    fn line(&mut self, message: &[u8]) -> Event {
        let mut line = br#"{"result":"#.to_vec();
        match json::write(&self.message, message, &mut line) {
            Ok(()) => {
                line.extend_from_slice(b"}\n");
                Event::Line(line.into())
            }
            Err(status) => {
                self.ended = true;
                Event::Failed(status)
            }
        }
    }
}
