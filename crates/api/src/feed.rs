//! Sources of a stream's responses.

use crate::{
    frame::{self, PREFIX_BYTES},
    metrics::Call,
};
use bytes::{Bytes, BytesMut};
use prost::Message;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc::Receiver;
use tonic::Status;

/// Small messages share a DATA frame, which costs more than most of them, of at most this size: HTTP/2's default.
pub(crate) const FRAME_BYTES: usize = 16 << 10;

pub(crate) trait Feed: Send {
    /// The next messages, with gRPC prefixes, small ones in at most one DATA frame; `None` ends in success.
    fn poll_messages(&mut self, cx: &mut Context<'_>, call: &Call) -> Poll<Option<Result<Bytes, Status>>>;
}

/// Responses from a channel. An error must be its last item.
pub(crate) struct Channel<T> {
    messages: Receiver<Result<T, Status>>,
    encode: fn(&T) -> Bytes,
    /// Already received, but did not fit into the last frame.
    next: Option<Result<Bytes, Status>>,
}

impl<T: Message> Channel<T> {
    /// Messages to encode when they are sent.
    pub(crate) fn of(messages: Receiver<Result<T, Status>>) -> Self {
        Self { messages, encode: frame::encode, next: None }
    }
}

impl Channel<Bytes> {
    /// Messages already encoded, each with its prefix.
    pub(crate) fn encoded(messages: Receiver<Result<Bytes, Status>>) -> Self {
        Self { messages, encode: Bytes::clone, next: None }
    }
}

impl<T: Send> Feed for Channel<T> {
    fn poll_messages(&mut self, cx: &mut Context<'_>, call: &Call) -> Poll<Option<Result<Bytes, Status>>> {
        let first = match self.next.take() {
            Some(first) => first,
            None => match ready!(self.messages.poll_recv(cx)) {
                Some(first) => first.map(|first| (self.encode)(&first)),
                None => return Poll::Ready(None),
            },
        };
        let Ok(first) = first else { return Poll::Ready(Some(first)) };
        call.sent(first.len() - PREFIX_BYTES);
        let mut gathered = BytesMut::new();
        while let Ok(next) = self.messages.try_recv() {
            match next.map(|next| (self.encode)(&next)) {
                Ok(next) if first.len() + gathered.len() + next.len() <= FRAME_BYTES => {
                    call.sent(next.len() - PREFIX_BYTES);
                    gathered.extend_from_slice(&next);
                }
                later => {
                    self.next = Some(later);
                    break;
                }
            }
        }
        if gathered.is_empty() {
            return Poll::Ready(Some(Ok(first)));
        }
        let mut frame = BytesMut::with_capacity(first.len() + gathered.len());
        frame.extend_from_slice(&first);
        frame.extend_from_slice(&gathered);
        Poll::Ready(Some(Ok(frame.freeze())))
    }
}
