//! The bodies of requests to the gRPC side and of responses to the client.

use crate::{
    large,
    long::Long,
    status::{Status, UNAUTHENTICATED},
    work::{Output, Turns},
};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use prost_reflect::MessageDescriptor;
use proto::grpc::PREFIX_BYTES;
use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{sync::mpsc, time::Sleep};

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The body of a request to the gRPC side: messages, each with its prefix.
#[derive(Debug)]
pub enum Messages {
    /// The message of a unary call.
    One(Option<Bytes>),
    /// The messages of a stream, as the client sends them.
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

/// The body of a response to the client. `R` is the body of the gRPC side's response.
#[derive(Debug)]
pub enum Answer<R> {
    /// JSON that is complete.
    Whole(Option<Bytes>),
    /// A long answer, converted as it is read.
    Long(Box<Long<R>>),
    /// A stream: one line per message.
    Lines(Box<Lines<R>>),
}

impl<R> Answer<R> {
    pub(crate) fn failed(status: &Status) -> Response<Self> {
        Self::error(status, status.json())
    }

    /// The response to a streaming call that failed before its first message.
    pub(crate) fn stream_failed(status: &Status) -> Response<Self> {
        Self::error(status, status.line())
    }

    fn error(status: &Status, body: String) -> Response<Self> {
        let mut response = Response::new(Self::Whole(Some(body.into())));
        *response.status_mut() = status.http();
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        if status.code == UNAUTHENTICATED
            && let Ok(message) = HeaderValue::from_str(&status.message)
        {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, message);
        }
        response
    }
}

/// Fails only if a long answer breaks off after its head was sent.
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

#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// Data that came in one piece, nearly always whole messages: used without a copy.
    piece: Bytes,
    /// Data that came in several pieces, joined.
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

    /// The length of the next message without its prefix, once the prefix is here.
    pub(crate) fn length(&self) -> Option<usize> {
        Some(self.waiting().get(1..PREFIX_BYTES)?.get_u32() as usize)
    }

    /// All data after the next message's prefix.
    pub(crate) fn rest(mut self) -> Bytes {
        let mut rest = if self.piece.is_empty() { self.gathered.split().freeze() } else { self.piece };
        rest.advance(PREFIX_BYTES.min(rest.len()));
        rest
    }

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

#[derive(Debug)]
pub(crate) enum Event {
    Line(Bytes),
    Failed(Status),
    End,
}

/// The answer to a streaming call: `{"result":…}` for each message, `{"error":…}` at the end if it fails.
pub struct Lines<R> {
    inner: R,
    message: MessageDescriptor,
    frames: Frames,
    ready: VecDeque<Bytes>,
    deadline: Option<Pin<Box<Sleep>>>,
    ended: bool,
    turns: Turns,
    converting: Option<Conversion>,
}

type Conversion = Pin<Box<dyn Future<Output = Result<Bytes, Status>> + Send>>;

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
        Self { inner, message, frames, ready, deadline, ended: false, turns, converting: None }
    }

    /// Puts a line back, to be sent first.
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
            if let Some(converting) = &mut self.converting
                && let Poll::Ready(line) = converting.as_mut().poll(cx)
            {
                self.converting = None;
                return Poll::Ready(match line {
                    Ok(line) => Event::Line(line),
                    Err(status) => {
                        self.ended = true;
                        Event::Failed(status)
                    }
                });
            }
            if self.converting.is_none() {
                if let Some(message) = self.frames.next() {
                    self.converting = Some(Box::pin(line(self.turns.clone(), self.message.clone(), message)));
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
                return Poll::Ready(Event::Failed(Status::late()));
            }
            if self.converting.is_some() {
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
                    return Poll::Ready(Event::Failed(Status::broke_off()));
                }
                None => self.ended = true,
            }
        }
    }
}

async fn line(turns: Turns, descriptor: MessageDescriptor, message: Bytes) -> Result<Bytes, Status> {
    let length = message.len();
    let part_bytes = turns.limits().part_bytes;
    let shown = turns.run(length, move |cancelled| {
        let mut line = Output::new(length, cancelled);
        line.bytes.extend_from_slice(br#"{"result":"#);
        large::write(&descriptor, message, part_bytes, &mut line)?;
        line.bytes.extend_from_slice(b"}\n");
        Ok(line.bytes)
    });
    Ok(shown.await?.into())
}
