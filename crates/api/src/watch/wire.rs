//! Encodes the hub's responses as `WatchResponse`, with etcd's fields and texts. Events are the message's last field: a
//! head is encoded for each watcher, and the shared bytes of the events follow.

use crate::frame::{self, PREFIX_BYTES};
use ::watch::{Refusal, Response};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use proto::etcdserverpb::{ResponseHeader, WatchResponse};

/// Events up to this size are copied after their head; larger ones are sent without a copy.
const COPIED_EVENTS_BYTES_MAX: usize = 8 << 10;

/// The watch ID in responses for no watcher, or for all (clientv3's `InvalidWatchID`).
const NO_WATCHER: i64 = -1;

#[derive(Default)]
pub(super) struct Writer {
    /// Finished pieces in order; `open` follows them.
    pub(super) done: std::collections::VecDeque<Bytes>,
    pub(super) open: BytesMut,
}

impl Writer {
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.done.iter().map(Bytes::len).sum::<usize>()
    }

    pub(super) fn take(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.done.pop_front() {
            return Some(piece);
        }
        (!self.open.is_empty()).then(|| self.open.split().freeze())
    }

    /// Appends a message: its head, then the events.
    fn message(&mut self, head: &WatchResponse, events: &Bytes) -> usize {
        let length = head.encoded_len() + events.len();
        self.open.reserve(PREFIX_BYTES + length - events.len().saturating_sub(COPIED_EVENTS_BYTES_MAX));
        frame::put_prefix(&mut self.open, length as u64);
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

/// Encodes a response, in fragments below `fragment_bytes`; `sent` gets each message's length.
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
        // As in etcd, the header has no revision.
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
        // Ends the stream, without a message.
        Response::Failed { .. } => return,
    }
    head.header = Some(header(revision));
    sent(out.message(&head, &Bytes::new()));
}

/// etcd's `sendFragments`: messages below the limit, with at least one event each; all but the last are marked.
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

/// The length of the first event: a one-byte tag, a varint, and as many bytes as it says.
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
