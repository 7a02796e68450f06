//! Long answers: their length is known before their values are read, so the values are read only as the client takes
//! them, and never all held.
//!
//! ```text
//! outline ─▶ prefix · head · first rows ─┐   a list of hundreds of MiB
//!            Rows (places, no values)    ├─▶ piece ─▶ Feeder ─▶ HTTP
//!            tail                       ─┘     ▲         │ waits until the last piece was taken
//!                                              └─────────┘ one turn in the long lane each
//! ```
//!
//! A client that keeps the pace reads one View, which compaction waits for. Where a piece is not taken for
//! [`crate::Limits::view_hold_max`] the View is let go, and the answer goes on at its revision in newer ones: until a
//! compaction has passed that revision. Then, as where the answer is taken back for others ([`crate::budget`]), the call
//! ends with an error before its message is whole.

use crate::{
    Api,
    budget::{Feeder, Held, Share},
    grpc::PREFIX_BYTES,
    kv::Deadline,
    parts::{self, KVS_FIELD, RESPONSES_FIELD},
    slow::{Lane, Lost},
    status, streams,
    zip::{Added, Zip},
};
use bytes::{BufMut, Bytes, BytesMut};
use machine::{
    Fault, Stop,
    kv::{self, TxnOutline},
};
use mvcc::{Cost, Effort, KeyValue, Outline, Rows, View};
use prost::{
    Message,
    encoding::{self, WireType},
};
use proto::etcdserverpb::{
    RangeRequest, RangeResponse, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, response_op::Response,
};
use std::{collections::VecDeque, sync::Arc};
use tokio::time::timeout;
use tonic::Status;

/// `ResponseOp.response_range`.
const RANGE_FIELD: u32 = 1;

/// What was made of a read that is not short.
pub(crate) enum Made {
    /// All of it, with its prefix.
    Whole(Bytes),
    /// More than is held at once.
    Long(Long),
}

/// An answer whose values are read as it is sent.
#[derive(Clone)]
pub(crate) struct Long {
    /// What is read, while the client keeps the pace.
    view: Option<Arc<View>>,
    segments: VecDeque<Segment>,
    /// Bytes still to be sent, the prefix too.
    left: u64,
}

#[derive(Clone)]
enum Segment {
    Bytes(Bytes),
    Rows(Rows),
}

/// Answers a range; up to `WorkLimits::short` of rows it is made at once.
pub(crate) fn range(api: &Api, request: &RangeRequest, effort: &Effort<'_>) -> Result<Made, Stop> {
    let (view, mut outline) = api.shared.outline_range(request, api.slow.whole_bytes(), effort)?;
    let header = Some(api.header(view.revision()));
    if outline.rows.is_empty() {
        return Ok(Made::Whole(parts::encode_range(whole(header, &mut outline))));
    }
    if !api.answers.has_much_room() {
        outline.keep(api.slow.piece_bytes());
    }
    let mut making = Making::default();
    making.range(header, outline, api.slow.piece_bytes());
    Ok(Made::Long(making.finish(view)))
}

/// Answers a transaction that only reads.
pub(crate) fn txn(api: &Api, request: &TxnRequest, effort: &Effort<'_>) -> Result<Made, Stop> {
    let (view, TxnOutline { succeeded, mut ranges }) =
        api.shared.outline_txn(request, api.slow.whole_bytes(), effort)?;
    let header = Some(api.header(view.revision()));
    // As etcd has it: the headers inside say no more than the revision.
    let inner = Some(ResponseHeader { revision: view.revision(), ..ResponseHeader::default() });
    let head = TxnResponse { header, succeeded, responses: Vec::new() };
    if ranges.iter().all(|range| range.rows.is_empty()) {
        let op = |range| ResponseOp { response: Some(Response::ResponseRange(whole(inner, range))) };
        let responses = ranges.iter_mut().map(op).collect();
        return Ok(Made::Whole(parts::encode_txn(TxnResponse { responses, ..head })));
    }
    let mut making = Making::default();
    making.message(&head);
    for mut range in ranges {
        if !api.answers.has_much_room() {
            range.keep(0);
        }
        let mut op = Making::default();
        op.range(inner, range, api.slow.piece_bytes());
        let field = length_of_field(RANGE_FIELD, op.length) + op.length;
        making.open(RESPONSES_FIELD, field);
        making.open(RANGE_FIELD, op.length);
        making.append(op);
    }
    Ok(Made::Long(making.finish(view)))
}

/// An answer whose rows were all read.
fn whole(header: Option<ResponseHeader>, outline: &mut Outline) -> RangeResponse {
    let kvs = std::mem::take(&mut outline.first).into_iter().map(kv::wire).collect();
    RangeResponse { header, kvs, more: outline.more, count: outline.count }
}

/// Puts a message together whose rows are not there yet.
#[derive(Default)]
struct Making {
    segments: VecDeque<Segment>,
    /// What comes behind the segments.
    bytes: BytesMut,
    /// Of all of it.
    length: u64,
}

impl Making {
    fn message(&mut self, message: &impl Message) {
        self.length += message.encoded_len() as u64;
        message.encode_raw(&mut self.bytes);
    }

    /// Begins a field that is a message of this length.
    fn open(&mut self, field: u32, length: u64) {
        self.length += length_of_field(field, length);
        encoding::encode_key(field, WireType::LengthDelimited, &mut self.bytes);
        encoding::encode_varint(length, &mut self.bytes);
    }

    /// The first rows are held in parts of a piece each, so that each goes when it was sent.
    fn range(&mut self, header: Option<ResponseHeader>, outline: Outline, piece_bytes: usize) {
        let Outline { first, rows, bytes, count, more } = outline;
        self.message(&RangeResponse { header, ..RangeResponse::default() });
        for kv in first {
            put_rows(std::slice::from_ref(&kv), &mut self.bytes);
            self.length += kv.framed_len() as u64;
            if self.bytes.len() >= piece_bytes {
                self.seal();
            }
        }
        self.length += bytes;
        if !rows.is_empty() {
            self.seal();
            self.segments.push_back(Segment::Rows(rows));
        }
        self.message(&RangeResponse { more, count, ..RangeResponse::default() });
    }

    fn append(&mut self, mut other: Self) {
        self.seal();
        other.seal();
        self.segments.append(&mut other.segments);
        self.length += other.length;
    }

    fn seal(&mut self) {
        if !self.bytes.is_empty() {
            self.segments.push_back(Segment::Bytes(std::mem::take(&mut self.bytes).freeze()));
        }
    }

    fn finish(mut self, view: Arc<View>) -> Long {
        self.seal();
        let mut prefix = BytesMut::with_capacity(PREFIX_BYTES);
        prefix.put_u8(0); // not compressed
        // What no prefix can say is refused before it leaves: see `grpc::sendable`.
        prefix.put_u32(u32::try_from(self.length).unwrap_or(u32::MAX));
        self.segments.push_front(Segment::Bytes(prefix.freeze()));
        Long { view: Some(view), segments: self.segments, left: self.length + PREFIX_BYTES as u64 }
    }
}

/// The length of a field's key and of its length.
fn length_of_field(field: u32, length: u64) -> u64 {
    (encoding::key_len(field) + encoding::encoded_len_varint(length)) as u64
}

/// Appends rows as `RangeResponse` has them, in one allocation.
fn put_rows(kvs: &[KeyValue], out: &mut BytesMut) {
    out.reserve(kvs.iter().map(KeyValue::framed_len).sum());
    for kv in kvs {
        encoding::encode_key(KVS_FIELD, WireType::LengthDelimited, out);
        encoding::encode_varint(kv.encoded_len() as u64, out);
        kv.encode_to(out);
    }
}

impl Long {
    /// Bytes of the message with its prefix.
    pub(crate) fn len(&self) -> u64 {
        self.left
    }

    /// Whether all of it was made.
    fn is_over(&self) -> bool {
        self.left == 0 && self.segments.is_empty()
    }

    /// What is held beside the View, in bytes.
    fn heap_len(&self) -> usize {
        let held = |segment: &Segment| match segment {
            Segment::Bytes(bytes) => bytes.len(),
            Segment::Rows(rows) => rows.heap_len(),
        };
        self.segments.iter().map(held).sum()
    }

    /// The next piece of about `target` bytes, which a single row may exceed; `None` at the end.
    pub(crate) fn piece(
        &mut self,
        api: &Api,
        effort: &Effort<'_>,
        target: usize,
    ) -> Result<Option<Bytes>, Stop> {
        let view = self.view.clone().unwrap_or_else(|| api.shared.view());
        let mut out = BytesMut::new();
        while out.len() < target
            && let Some(segment) = self.segments.front_mut()
        {
            let is_over = match segment {
                Segment::Bytes(bytes) => {
                    out.extend_from_slice(&bytes.split_to(bytes.len().min(target - out.len())));
                    bytes.is_empty()
                }
                Segment::Rows(rows) => {
                    put_rows(&rows.next(&view, effort, target - out.len())?, &mut out);
                    rows.is_empty()
                }
            };
            if is_over {
                self.segments.pop_front();
            }
        }
        if out.is_empty() {
            return if self.is_over() { Ok(None) } else { Err(UNLIKE_OUTLINE) };
        }
        self.sent(out.freeze()).map(Some)
    }

    /// Counts a piece: what was announced is what is sent.
    fn sent(&mut self, piece: Bytes) -> Result<Bytes, Stop> {
        self.left = self.left.checked_sub(piece.len() as u64).ok_or(UNLIKE_OUTLINE)?;
        Ok(piece)
    }

    /// All of it, packed; nothing where that is more than may be held.
    pub(crate) async fn pack(mut self, api: &Arc<Api>, zip: &Zip) -> Result<Option<Bytes>, Status> {
        let mut packing = None;
        loop {
            let (back, piece) = self.read(api).await?;
            self = back;
            let piece = piece.map_err(|stop| status::stop(&stop))?.unwrap_or_default();
            match zip.add(packing.take(), piece, self.is_over()).await? {
                Added::More(more) => packing = Some(more),
                Added::Whole(packed) => return Ok(Some(packed)),
                Added::TooMuch => return Ok(None),
            }
        }
    }

    /// Reads a piece when it is its turn.
    async fn read(mut self, api: &Arc<Api>) -> Result<(Self, Result<Option<Bytes>, Stop>), Lost> {
        let (own, target) = (Arc::clone(api), api.slow.piece_bytes());
        let read = api.slow.run(Lane::Long, move |gone| {
            let piece = self.piece(&own, &Effort::within(Cost::MAX).unless(gone), target);
            (self, piece)
        });
        read.await
    }

    /// Sends it as its client takes it, no longer than until the deadline.
    pub(crate) fn send(self, api: &Arc<Api>, answers: &Arc<Share>, deadline: Deadline) -> Held {
        let (held, feeder) = answers.feed(usize::try_from(self.left).unwrap_or(usize::MAX));
        streams::spawn_until(deadline, feed(Arc::clone(api), self, feeder));
        held
    }
}

const UNLIKE_OUTLINE: Stop = Stop::Fault(Fault::Broken("a long answer is not what its outline says"));

/// Reads the pieces, each in its turn, one ahead of the client.
async fn feed(api: Arc<Api>, mut long: Long, feeder: Feeder) {
    loop {
        let _remembered = feeder.charge(long.heap_len());
        let read = tokio::select! {
            read = long.read(&api) => read,
            () = feeder.unwanted() => return,
        };
        let piece = match read {
            Ok((back, piece)) => {
                long = back;
                piece
            }
            Err(lost) => return feeder.end(Err(lost.into())),
        };
        match piece {
            Ok(Some(piece)) => {
                let piece = feeder.count(piece);
                if timeout(api.limits.view_hold_max, feeder.ready()).await.is_err() {
                    long.view = None;
                }
                if !feeder.ready().await {
                    return;
                }
                feeder.put(piece);
                if long.is_over() {
                    return feeder.end(Ok(()));
                }
            }
            Ok(None) => return feeder.end(Ok(())),
            Err(stop) => return feeder.end(Err(status::stop(&stop))),
        }
    }
}
