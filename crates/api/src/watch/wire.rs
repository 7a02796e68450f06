//! A hub's response as `WatchResponse`, with etcd's fields and texts.
//!
//! The events' bytes are the last field of the message: a head is encoded for each watcher, and the shared bytes follow.

use crate::grpc::PREFIX_BYTES;
use ::watch::{Refusal, Response};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use proto::etcdserverpb::{ResponseHeader, WatchResponse};

/// Events up to this size are copied behind their head; larger ones leave as they are, shared.
const COPIED_EVENTS_BYTES_MAX: usize = 8 << 10;

/// The ID in responses that are about no watcher, or about all of them (clientv3's `InvalidWatchID`).
const NO_WATCHER: i64 = -1;

/// Where responses are written.
#[derive(Default)]
pub(super) struct Writer {
    /// Whole pieces, in order; what is being written comes behind them.
    pub(super) done: std::collections::VecDeque<Bytes>,
    pub(super) open: BytesMut,
}

impl Writer {
    /// Bytes that are to be sent.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.done.iter().map(Bytes::len).sum::<usize>()
    }

    /// The next piece.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.done.pop_front() {
            return Some(piece);
        }
        (!self.open.is_empty()).then(|| self.open.split().freeze())
    }

    /// A message: its head, then the events.
    fn message(&mut self, head: &WatchResponse, events: &Bytes) -> usize {
        let length = head.encoded_len() + events.len();
        self.open.reserve(PREFIX_BYTES + length - events.len().saturating_sub(COPIED_EVENTS_BYTES_MAX));
        self.open.put_u8(0); // not compressed
        self.open.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        head.encode_raw(&mut self.open);
        if events.len() <= COPIED_EVENTS_BYTES_MAX {
            self.open.put_slice(events);
        } else {
            self.done.push_back(self.open.split().freeze());
            self.done.push_back(events.clone());
        }
        length
    }
}

/// Writes a response; `header` makes one at a revision, `fragment_bytes` is where a response that may be cut is cut.
/// Calls `sent` with the length of each message.
pub(super) fn write(
    response: Response,
    header: impl FnOnce(i64) -> ResponseHeader,
    fragment_bytes: usize,
    out: &mut Writer,
    sent: &mut dyn FnMut(usize),
) {
    let mut head = WatchResponse::default();
    let revision;
    match response {
        Response::Created { id, revision: at } => {
            (head.watch_id, head.created, revision) = (id, true, at);
        }
        Response::Refused { refusal, revision: at } => {
            (head.watch_id, head.created, head.canceled, revision) = (NO_WATCHER, true, true, at);
            text(refusal).clone_into(&mut head.cancel_reason);
        }
        Response::Canceled { id, revision: at } => {
            (head.watch_id, head.canceled, revision) = (id, true, at);
        }
        // etcd leaves the revision out here.
        Response::Compacted { id, compact_revision } => {
            (head.watch_id, head.canceled, head.compact_revision, revision) = (id, true, compact_revision, 0);
        }
        Response::Progress { id, revision: at } => {
            (head.watch_id, revision) = (id.unwrap_or(NO_WATCHER), at);
        }
        Response::Events { id, revision: at, fragment, events, .. } => {
            head.watch_id = id;
            head.header = Some(header(at));
            return if fragment {
                fragments(head, &events, fragment_bytes, out, sent);
            } else {
                sent(out.message(&head, &events));
            };
        }
        // Ends the stream: there is no message for it.
        Response::Failed { .. } => return,
    }
    head.header = Some(header(revision));
    sent(out.message(&head, &Bytes::new()));
}

/// etcd's `sendFragments`: messages below the limit of one event at least, all but the last marked.
fn fragments(
    mut head: WatchResponse,
    events: &Bytes,
    fragment_bytes: usize,
    out: &mut Writer,
    sent: &mut dyn FnMut(usize),
) {
    let first = event_len(events);
    if head.encoded_len() + events.len() < fragment_bytes || first == events.len() {
        sent(out.message(&head, events));
        return;
    }
    head.fragment = true;
    let room = fragment_bytes.saturating_sub(head.encoded_len());
    let (mut begin, mut end) = (0, 0);
    while end < events.len() {
        let length = event_len(&events[end..]);
        if end > begin && end - begin + length >= room {
            sent(out.message(&head, &events.slice(begin..end)));
            begin = end;
        }
        end += length;
    }
    head.fragment = false;
    sent(out.message(&head, &events.slice(begin..)));
}

/// The length of the first event: a tag of one byte, a varint and what it counts.
fn event_len(events: &[u8]) -> usize {
    let mut rest = &events[1..];
    let Ok(length) = prost::encoding::decode_varint(&mut rest) else { return events.len() };
    (events.len() - rest.len() + usize::try_from(length).unwrap_or(usize::MAX)).min(events.len())
}

fn text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NegativeStart => "etcdserver: mvcc: required revision has been compacted",
        Refusal::EmptyRange => "mvcc: watcher range is empty",
        Refusal::DuplicateId => "mvcc: duplicate watch ID provided on the WatchStream",
    }
}

#[cfg(test)]
#[path = "../tests/watch_wire.rs"]
mod tests;
