//! A long answer: converted to JSON as the client reads it. A piece is asked for when the client has taken the JSON of
//! the last one, and converted in its own turn. A client that does not read takes no turns.
//!
//! ```text
//! HTTP asks ─▶ JSON is ready?     ─no─▶ bytes left of a piece? ─no─▶ the gRPC side's next frame
//!      ▲              │ yes                    │ yes                      │ data       │ trailers, end
//!      └──────────────┘◀──── Writer::push ◀────┘◀─────────────────────────┘            ▼
//!      └◀────────────────────────────────────────────────────────────────────── Writer::finish
//! ```
//!
//! Invariants:
//! * Memory holds at most one piece of the message, its JSON, and what [`Writer`] holds.
//! * The last bracket is written after the gRPC side has reported success. Otherwise the body fails, and the connection
//!   or stream breaks off: nobody takes half an answer for a whole one.

use crate::{
    large::Writer,
    status::Status,
    work::{Output, Turns},
};
use bytes::Bytes;
use http_body::Body;
use prost_reflect::MessageDescriptor;
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::time::{Instant, Sleep};

/// The answer to a unary call whose message is long.
pub struct Long<R> {
    inner: R,
    input: Bytes,
    /// JSON that was put back, to be read first.
    unread: Option<Bytes>,
    /// `None` while it works on another thread, and after the end.
    writer: Option<Box<Writer>>,
    /// The gRPC side has reported success.
    ended: bool,
    converting: Option<Conversion>,
    /// The caller's deadline, moved by the time that the client takes to read: etcd has converted the whole answer by
    /// then.
    deadline: Option<Pin<Box<Sleep>>>,
    handed_out: Option<Instant>,
    turns: Turns,
}

/// The conversion on another thread: the writer, unless it was the end, and JSON.
type Conversion = Pin<Box<dyn Future<Output = Result<(Option<Box<Writer>>, Vec<u8>), Status>> + Send>>;

impl<R: fmt::Debug> fmt::Debug for Long<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Long").field("inner", &self.inner).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<R: Body<Data = Bytes> + Unpin> Long<R> {
    /// Converts a message of `length` bytes, of which `begun` has come.
    pub(crate) fn new(
        inner: R,
        message: MessageDescriptor,
        length: usize,
        begun: Bytes,
        deadline: Option<Pin<Box<Sleep>>>,
        turns: Turns,
    ) -> Self {
        let writer = Some(Box::new(Writer::new(message, length, turns.limits().part_bytes)));
        Self {
            inner,
            input: begun,
            unread: None,
            writer,
            ended: false,
            converting: None,
            deadline,
            handed_out: None,
            turns,
        }
    }

    pub(crate) fn unread(&mut self, json: Bytes) {
        self.unread = Some(json);
    }

    /// The next JSON, `None` after the last or after a failure.
    pub(crate) fn poll_json(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if let Some(deadline) = &mut self.deadline
            && let Some(handed_out) = self.handed_out.take()
        {
            let later = deadline.deadline() + handed_out.elapsed();
            deadline.as_mut().reset(later);
        }
        let json = ready!(self.poll_next(cx));
        if let Some(Err(_)) = &json {
            (self.input, self.writer, self.converting) = (Bytes::new(), None, None);
        }
        self.handed_out = self.deadline.is_some().then(Instant::now);
        Poll::Ready(json)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if let Some(json) = self.unread.take() {
            return Poll::Ready(Some(Ok(json)));
        }
        loop {
            if let Some(converting) = &mut self.converting {
                if let Poll::Ready(made) = converting.as_mut().poll(cx) {
                    self.converting = None;
                    let (writer, json) = made?;
                    self.writer = writer;
                    if !json.is_empty() {
                        return Poll::Ready(Some(Ok(json.into())));
                    }
                }
            } else if self.writer.is_none() {
                return Poll::Ready(None);
            }
            if let Some(deadline) = &mut self.deadline
                && deadline.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Some(Err(Status::late())));
            }
            if self.converting.is_some() {
                return Poll::Pending;
            }
            if self.input.is_empty() && !self.ended {
                ready!(self.poll_input(cx))?;
                continue;
            }
            self.make();
        }
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
            self.ended = true;
            return Poll::Ready(Ok(()));
        };
        match frame.map_err(|_| Status::broke_off())?.into_data() {
            Ok(data) => self.input = data,
            Err(frame) => {
                self.ended = true;
                if let Some(status) = frame.trailers_ref().and_then(Status::of) {
                    return Poll::Ready(Err(status));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Begins to convert a piece, or the end.
    fn make(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        let turns = self.turns.clone();
        let piece = self.input.split_to(self.input.len().min(turns.limits().piece_bytes.max(1)));
        let is_end = piece.is_empty();
        let work = writer.work(piece.len());
        self.converting = Some(Box::pin(turns.run_piece(work, move |cancelled| {
            let mut out = Output::new(work, cancelled);
            if is_end {
                writer.finish(&mut out)?;
                return Ok((None, out.bytes));
            }
            writer.push(piece, &mut out)?;
            Ok((Some(writer), out.bytes))
        })));
    }
}

#[cfg(test)]
mod tests;
