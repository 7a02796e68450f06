//! Encodes long responses part by part. Each part is freed once encoded, so the response is held once instead of twice.

use crate::frame::{self, PREFIX_BYTES};
use bytes::{Bytes, BytesMut};
use prost::Message;
use proto::etcdserverpb::{RangeResponse, TxnResponse};

/// Responses up to this size are encoded whole, in bytes: holding them twice is cheap.
const WHOLE_BYTES_MAX: usize = 64 << 10;
/// Field number of `RangeResponse.kvs`.
pub(crate) const KVS_FIELD: u32 = 2;
/// Field number of `TxnResponse.responses`.
pub(crate) const RESPONSES_FIELD: u32 = 3;

pub(crate) fn encode_range(mut answer: RangeResponse) -> Bytes {
    let length = answer.encoded_len();
    if length <= WHOLE_BYTES_MAX {
        return frame::encode(&answer);
    }
    let kvs = std::mem::take(&mut answer.kvs);
    // In the order of field numbers: header, keys, then the rest.
    let head = RangeResponse { header: answer.header.take(), ..RangeResponse::default() };
    encode(length, &head, KVS_FIELD, kvs, &answer)
}

pub(crate) fn encode_txn(mut answer: TxnResponse) -> Bytes {
    let length = answer.encoded_len();
    if length <= WHOLE_BYTES_MAX {
        return frame::encode(&answer);
    }
    let responses = std::mem::take(&mut answer.responses);
    encode(length, &answer, RESPONSES_FIELD, responses, &TxnResponse::default())
}

fn encode<M: Message, P: Message>(length: usize, head: &M, field: u32, parts: Vec<P>, tail: &M) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame::put_prefix(&mut out, length as u64);
    head.encode_raw(&mut out);
    for part in parts {
        prost::encoding::message::encode(field, &part, &mut out);
    }
    tail.encode_raw(&mut out);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{
        etcdserverpb::{ResponseHeader, ResponseOp, response_op::Response},
        mvccpb::KeyValue,
    };

    #[test]
    fn parts_make_the_same_bytes_as_the_whole() {
        let header = Some(ResponseHeader { revision: 7, ..Default::default() });
        for rows in [0, 1, 1_000] {
            for (header, more) in [(None, false), (header, true)] {
                let kv = KeyValue { value: vec![7; 100].into(), ..Default::default() };
                let answer = RangeResponse { header, kvs: vec![kv; rows], more, count: 5 };
                assert_eq!(encode_range(answer.clone()), frame::encode(&answer));
                let op = ResponseOp { response: Some(Response::ResponseRange(answer)) };
                let txn = TxnResponse { header, succeeded: more, responses: vec![op; 3] };
                assert_eq!(encode_txn(txn.clone()), frame::encode(&txn));
            }
        }
    }
}
