//! Long answers, encoded a part at a time: each part is let go as it is written, so that an answer is held once and not
//! twice.

use crate::grpc::{self, PREFIX_BYTES};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use proto::etcdserverpb::{RangeResponse, TxnResponse};

/// Answers up to this size are encoded whole, in bytes: what they hold twice is no matter.
const WHOLE_BYTES_MAX: usize = 64 << 10;
/// `RangeResponse.kvs`.
pub(crate) const KVS_FIELD: u32 = 2;
/// `TxnResponse.responses`.
pub(crate) const RESPONSES_FIELD: u32 = 3;

/// [`grpc::encode`] for a list.
pub(crate) fn encode_range(mut answer: RangeResponse) -> Bytes {
    let length = answer.encoded_len();
    if length <= WHOLE_BYTES_MAX {
        return grpc::encode(&answer);
    }
    let kvs = std::mem::take(&mut answer.kvs);
    // In the order of the fields' numbers: what comes before the keys, then they, then the rest.
    let head = RangeResponse { header: answer.header.take(), ..RangeResponse::default() };
    encode(length, &head, KVS_FIELD, kvs, &answer)
}

/// [`grpc::encode`] for a transaction's answer.
pub(crate) fn encode_txn(mut answer: TxnResponse) -> Bytes {
    let length = answer.encoded_len();
    if length <= WHOLE_BYTES_MAX {
        return grpc::encode(&answer);
    }
    let responses = std::mem::take(&mut answer.responses);
    encode(length, &answer, RESPONSES_FIELD, responses, &TxnResponse::default())
}

fn encode<M: Message, P: Message>(length: usize, head: &M, field: u32, parts: Vec<P>, tail: &M) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
    out.put_u8(0); // not compressed
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
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
                assert_eq!(encode_range(answer.clone()), grpc::encode(&answer));
                let op = ResponseOp { response: Some(Response::ResponseRange(answer)) };
                let txn = TxnResponse { header, succeeded: more, responses: vec![op; 3] };
                assert_eq!(encode_txn(txn.clone()), grpc::encode(&txn));
            }
        }
    }
}
