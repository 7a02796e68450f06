//! A long answer: JSON that is made as it is read.
//!
//! The gRPC side hands out such a message in pieces, and reads no further than it is asked. So nothing is gathered here
//! either: a piece is asked for when the last one's JSON has been taken, and shown in a turn of its own. Long answers
//! take such turns one after the other, and who does not read takes none.
//!
//! ```text
//! HTTP asks ─▶ JSON that is made? ─no─▶ bytes left of a piece? ─no─▶ the gRPC side's next frame
//!      ▲              │ yes                    │ yes                      │ data       │ trailers, end
//!      └──────────────┘◀──── Writer::push ◀────┘◀─────────────────────────┘            ▼
//!      └◀────────────────────────────────────────────────────────────────────── Writer::finish
//! ```
//!
//! Invariants:
//! * Here are at most one piece of the message, its JSON, and what [`Writer`] holds.
//! * The last bracket waits for the gRPC side's word that all went well. Otherwise the body fails, which HTTP shows as a
//!   connection or stream that breaks off: nobody takes half an answer for a whole one.

use crate::{
    large::Writer,
    status::{DEADLINE_EXCEEDED, INTERNAL, Status},
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
    /// Bytes of the message that are here and have not been shown.
    input: Bytes,
    /// JSON that was read and put back.
    unread: Option<Bytes>,
    /// Not there while it is at work on another thread, nor after the end.
    writer: Option<Box<Writer>>,
    /// The gRPC side has said that all went well.
    ended: bool,
    making: Option<Making>,
    /// When the caller waits no longer. The time that it takes to read does not count: etcd has its whole answer in hand
    /// by then.
    deadline: Option<Pin<Box<Sleep>>>,
    /// When the last JSON was handed out.
    handed_out: Option<Instant>,
    turns: Turns,
}

/// JSON that is being made, and the writer unless it was the end.
type Making = Pin<Box<dyn Future<Output = Result<(Option<Box<Writer>>, Vec<u8>), Status>> + Send>>;

impl<R: fmt::Debug> fmt::Debug for Long<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Long").field("inner", &self.inner).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<R: Body<Data = Bytes> + Unpin> Long<R> {
    /// Shows a message of `length` bytes. `begun` is what has come of it.
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
            making: None,
            deadline,
            handed_out: None,
            turns,
        }
    }

    /// Puts JSON back in front.
    pub(crate) fn unread(&mut self, json: Bytes) {
        self.unread = Some(json);
    }

    /// The next JSON, `None` behind the last. After a failure there is no more.
    pub(crate) fn poll_json(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if let Some(deadline) = &mut self.deadline
            && let Some(handed_out) = self.handed_out.take()
        {
            let later = deadline.deadline() + handed_out.elapsed();
            deadline.as_mut().reset(later);
        }
        let json = ready!(self.poll_next(cx));
        if let Some(Err(_)) = &json {
            (self.input, self.writer, self.making) = (Bytes::new(), None, None);
        }
        self.handed_out = self.deadline.is_some().then(Instant::now);
        Poll::Ready(json)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if let Some(json) = self.unread.take() {
            return Poll::Ready(Some(Ok(json)));
        }
        loop {
            if let Some(making) = &mut self.making {
                if let Poll::Ready(made) = making.as_mut().poll(cx) {
                    self.making = None;
                    let (writer, json) = match made {
                        Ok(made) => made,
                        Err(status) => return Poll::Ready(Some(Err(status))),
                    };
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
                let status = Status::new(DEADLINE_EXCEEDED, "context deadline exceeded");
                return Poll::Ready(Some(Err(status)));
            }
            if self.making.is_some() {
                return Poll::Pending;
            }
            if self.input.is_empty() && !self.ended {
                match ready!(self.poll_input(cx)) {
                    Ok(()) => continue,
                    Err(status) => return Poll::Ready(Some(Err(status))),
                }
            }
            self.make();
        }
    }

    /// Takes the gRPC side's next frame.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
            self.ended = true;
            return Poll::Ready(Ok(()));
        };
        let Ok(frame) = frame else {
            return Poll::Ready(Err(Status::new(INTERNAL, "the answer broke off")));
        };
        match frame.into_data() {
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

    /// Begins to show a piece, or the end.
    fn make(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        let turns = self.turns.clone();
        let piece = self.input.split_to(self.input.len().min(turns.limits().piece_bytes.max(1)));
        let is_end = piece.is_empty();
        let work = writer.work(piece.len());
        self.making = Some(Box::pin(turns.run_piece(work, move |gone| {
            let mut out = Output::new(work, gone);
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
