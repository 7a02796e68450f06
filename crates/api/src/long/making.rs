//! Builds messages whose rows have not been read yet.

use super::{Long, Made, Segment, UNLIKE_OUTLINE};
use crate::{
    frame::{self, PREFIX_BYTES},
    parts::{KVS_FIELD, RESPONSES_FIELD},
};
use bytes::BytesMut;
use machine::{Later, Stop};
use mvcc::{KeyValue, Outline, View};
use prost::{
    Message,
    encoding::{self, WireType},
};
use proto::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, ResponseOp, TxnResponse,
    response_op::Response as Op,
};
use std::{collections::VecDeque, iter::Peekable, sync::Arc, vec::IntoIter};

/// Field numbers of the operations in `ResponseOp`.
const RANGE_FIELD: u32 = 1;
const PUT_FIELD: u32 = 2;
const DELETE_FIELD: u32 = 3;
const TXN_FIELD: u32 = 4;
/// Field number of `PutResponse.prev_kv`.
const PREV_KV_FIELD: u32 = 2;
/// Field number of `DeleteRangeResponse.prev_kvs`.
const PREV_KVS_FIELD: u32 = 3;

/// The rows of one operation; `op` counts as [`machine::Later::op`] does.
pub(super) struct Found {
    pub(super) op: usize,
    pub(super) outline: Outline,
    pub(super) view: Option<Arc<View>>,
    /// Set if the rows were not remembered and must be found again.
    pub(super) again: Option<Later>,
}

pub(super) struct Rest {
    op: usize,
    found: Peekable<IntoIter<Found>>,
}

impl Rest {
    pub(super) fn of(found: Vec<Found>) -> Self {
        Self { op: 0, found: found.into_iter().peekable() }
    }

    pub(super) fn is_empty(&mut self) -> bool {
        self.found.peek().is_none()
    }

    pub(super) fn next(&mut self) -> Result<Found, Stop> {
        self.found.next().ok_or(UNLIKE_OUTLINE)
    }

    /// The rows of the next operation, if they were deferred.
    fn of_next_op(&mut self) -> Option<Found> {
        let op = self.op;
        self.op += 1;
        self.found.next_if(|found| found.op == op)
    }
}

pub(super) struct Making {
    segments: VecDeque<Segment>,
    /// Encoded bytes after the last segment.
    bytes: BytesMut,
    length: u64,
    piece_bytes: usize,
}

impl Making {
    pub(super) fn new(piece_bytes: usize) -> Self {
        Self { segments: VecDeque::new(), bytes: BytesMut::new(), length: 0, piece_bytes }
    }

    fn message(&mut self, message: &impl Message) {
        self.length += message.encoded_len() as u64;
        message.encode_raw(&mut self.bytes);
    }

    fn field(&mut self, field: u32, made: Self) {
        self.length += length_of_field(field, made.length);
        encoding::encode_key(field, WireType::LengthDelimited, &mut self.bytes);
        encoding::encode_varint(made.length, &mut self.bytes);
        self.append(made);
    }

    fn inner(&self) -> Self {
        Self::new(self.piece_bytes)
    }

    pub(super) fn range(&mut self, header: Option<ResponseHeader>, found: Found) {
        let (more, count) = (found.outline.more, found.outline.count);
        self.message(&RangeResponse { header, ..RangeResponse::default() });
        self.rows(KVS_FIELD, found);
        self.message(&RangeResponse { more, count, ..RangeResponse::default() });
    }

    pub(super) fn put(&mut self, answer: &PutResponse, found: Found) {
        self.message(answer);
        self.rows(PREV_KV_FIELD, found);
    }

    pub(super) fn delete(&mut self, answer: &DeleteRangeResponse, found: Found) {
        self.message(answer);
        self.rows(PREV_KVS_FIELD, found);
    }

    pub(super) fn txn(&mut self, mut answer: TxnResponse, rest: &mut Rest) -> Result<(), Stop> {
        let responses = std::mem::take(&mut answer.responses);
        self.message(&answer);
        for op in responses {
            let mut response = self.inner();
            response.op(op, rest)?;
            self.field(RESPONSES_FIELD, response);
        }
        Ok(())
    }

    fn op(&mut self, op: ResponseOp, rest: &mut Rest) -> Result<(), Stop> {
        let mut made = self.inner();
        let field = match op.response {
            Some(Op::ResponseTxn(answer)) => {
                made.txn(answer, rest)?;
                TXN_FIELD
            }
            response => match (response, rest.of_next_op()) {
                (response, None) => {
                    self.message(&ResponseOp { response });
                    return Ok(());
                }
                (Some(Op::ResponseRange(answer)), Some(found)) => {
                    made.range(answer.header, found);
                    RANGE_FIELD
                }
                (Some(Op::ResponsePut(answer)), Some(found)) => {
                    made.put(&answer, found);
                    PUT_FIELD
                }
                (Some(Op::ResponseDeleteRange(answer)), Some(found)) => {
                    made.delete(&answer, found);
                    DELETE_FIELD
                }
                (_, Some(_)) => return Err(UNLIKE_OUTLINE),
            },
        };
        self.field(field, made);
        Ok(())
    }

    /// Splits the first rows into pieces, so that each is freed once sent.
    fn rows(&mut self, field: u32, found: Found) {
        let Found { outline: Outline { first, rows, bytes, .. }, view, again, .. } = found;
        for kv in first {
            put_rows(field, std::slice::from_ref(&kv), &mut self.bytes);
            self.length += kv.framed_len() as u64;
            if self.bytes.len() >= self.piece_bytes {
                self.seal();
            }
        }
        self.length += bytes;
        let segment = match again {
            Some(later) => Segment::Again(later, field),
            None if rows.is_empty() => return,
            None => Segment::Rows(rows, field, view),
        };
        self.seal();
        self.segments.push_back(segment);
    }

    fn append(&mut self, mut other: Self) {
        if !other.segments.is_empty() {
            self.seal();
            self.segments.append(&mut other.segments);
        }
        self.length += other.length;
        if self.bytes.is_empty() { self.bytes = other.bytes } else { self.bytes.unsplit(other.bytes) }
    }

    fn seal(&mut self) {
        if !self.bytes.is_empty() {
            self.segments.push_back(Segment::Bytes(std::mem::take(&mut self.bytes).freeze()));
        }
    }

    /// The finished message: complete if all its rows were read.
    pub(super) fn made(self) -> Made {
        let mut long = self.finish(None);
        let Ok(length) = usize::try_from(long.left) else { return Made::Long(long) };
        if !long.segments.iter().all(|segment| matches!(segment, Segment::Bytes(_))) {
            return Made::Long(long);
        }
        let mut out = BytesMut::with_capacity(length);
        while let Some(Segment::Bytes(bytes)) = long.segments.pop_front() {
            out.extend_from_slice(&bytes);
        }
        Made::Whole(out.freeze())
    }

    pub(super) fn finish(mut self, view: Option<Arc<View>>) -> Long {
        self.seal();
        let mut prefix = BytesMut::with_capacity(PREFIX_BYTES);
        frame::put_prefix(&mut prefix, self.length);
        self.segments.push_front(Segment::Bytes(prefix.freeze()));
        let left = self.length + PREFIX_BYTES as u64;
        Long { view, segments: self.segments, left, is_done: false }
    }
}

fn length_of_field(field: u32, length: u64) -> u64 {
    (encoding::key_len(field) + encoding::encoded_len_varint(length)) as u64
}

pub(super) fn put_rows(field: u32, kvs: &[KeyValue], out: &mut BytesMut) {
    out.reserve(kvs.iter().map(KeyValue::framed_len).sum());
    for kv in kvs {
        encoding::encode_key(field, WireType::LengthDelimited, out);
        encoding::encode_varint(kv.encoded_len() as u64, out);
        kv.encode_to(out);
    }
}
