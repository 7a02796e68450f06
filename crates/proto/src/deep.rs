//! Decodes transactions nested deeper than prost allows: 100 messages, which is 50 transactions. etcd accepts nesting
//! as deep as the operations limit (127 levels by default), and every member must decode it from the log. Without
//! prost's limit, hostile nesting (unknown groups, say) would overflow the stack. So a message that prost refuses is
//! decoded again here, down to [`LEVELS_MAX`]; prost decodes all but the nested transactions.

use crate::etcdserverpb::request_op::Request;
use crate::etcdserverpb::{InternalRaftRequest, RequestOp, TxnRequest};
use bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint};
use prost::{DecodeError, Message};

/// Levels of nested transactions, the outermost included. All work on them recurses; 1,000 fit in half of a thread's
/// 2 MiB stack (tested). etcd decodes 5,000, Go protobuf's limit, but accepts no more than `--max-txn-ops`.
pub const LEVELS_MAX: usize = 1_000;

const LENGTH_DELIMITED: WireType = WireType::LengthDelimited;

/// Why a message cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not a valid protobuf message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A nested message ends beyond its parent.
    #[error("a nested message is cut off")]
    CutOff,
    /// More than [`LEVELS_MAX`] levels of transactions.
    #[error("transactions are nested deeper than {LEVELS_MAX} levels")]
    TooDeep,
}

/// Decodes a client's transaction request.
pub fn txn(data: Bytes) -> Result<TxnRequest, Error> {
    TxnRequest::decode(data.clone()).or_else(|_| {
        let mut txn = TxnRequest::default();
        merge_txn(&mut txn, data, LEVELS_MAX)?;
        Ok(txn)
    })
}

/// Decodes a request from the log.
pub fn request(data: Bytes) -> Result<InternalRaftRequest, Error> {
    InternalRaftRequest::decode(data.clone()).or_else(|_| {
        let mut request = InternalRaftRequest::default();
        merge_request(&mut request, data)?;
        Ok(request)
    })
}

fn merge_request(request: &mut InternalRaftRequest, mut data: Bytes) -> Result<(), Error> {
    while data.has_remaining() {
        match decode_key(&mut data)? {
            (6, LENGTH_DELIMITED) => {
                let inner = cut(&mut data)?;
                merge_txn(request.txn.get_or_insert_default(), inner, LEVELS_MAX)?;
            }
            (tag, kind) => merge_field(request, tag, kind, &mut data)?,
        }
    }
    Ok(())
}

/// Repeated fields are merged, as protobuf requires. prost's part is out of line, for small stack frames.
fn merge_txn(txn: &mut TxnRequest, mut data: Bytes, levels: usize) -> Result<(), Error> {
    let levels = levels.checked_sub(1).ok_or(Error::TooDeep)?;
    while data.has_remaining() {
        let ops = match decode_key(&mut data)? {
            (2, LENGTH_DELIMITED) => &mut txn.success,
            (3, LENGTH_DELIMITED) => &mut txn.failure,
            (tag, kind) => {
                merge_field(txn, tag, kind, &mut data)?;
                continue;
            }
        };
        let inner = cut(&mut data)?;
        merge_op(ops.push_mut(RequestOp::default()), inner, levels)?;
    }
    Ok(())
}

/// A repeated operation is merged; among different kinds the last wins.
fn merge_op(op: &mut RequestOp, mut data: Bytes, levels: usize) -> Result<(), Error> {
    while data.has_remaining() {
        match decode_key(&mut data)? {
            (4, LENGTH_DELIMITED) => {
                let inner = cut(&mut data)?;
                merge_txn(txn_in(op), inner, levels)?;
            }
            (tag, kind) => merge_field(op, tag, kind, &mut data)?,
        }
    }
    Ok(())
}

fn txn_in(op: &mut RequestOp) -> &mut TxnRequest {
    let request = op.request.get_or_insert_with(|| Request::RequestTxn(TxnRequest::default()));
    if !matches!(request, Request::RequestTxn(_)) {
        *request = Request::RequestTxn(TxnRequest::default());
    }
    match request {
        Request::RequestTxn(txn) => txn,
        _ => unreachable!("it was made a transaction"),
    }
}

#[inline(never)]
fn merge_field(message: &mut impl Message, tag: u32, kind: WireType, data: &mut Bytes) -> Result<(), Error> {
    Ok(message.merge_field(tag, kind, data, DecodeContext::default())?)
}

fn cut(data: &mut Bytes) -> Result<Bytes, Error> {
    let length = usize::try_from(decode_varint(data)?).unwrap_or(usize::MAX);
    if length > data.len() {
        return Err(Error::CutOff);
    }
    Ok(data.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestHeader};

    /// Half of a thread's default stack.
    const STACK_BYTES: usize = 1 << 20;

    fn bytes(message: &impl Message) -> Bytes {
        message.encode_to_vec().into()
    }

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    /// Nested transactions with every kind of operation on each level.
    fn nested(levels: usize) -> TxnRequest {
        let put = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let range = RangeRequest { key: "k".into(), limit: 3, ..Default::default() };
        let delete = DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
        (0..levels).fold(TxnRequest::default(), |inner, level| {
            let compare = vec![Compare { key: "c".into(), ..Default::default() }];
            let inner = op(Request::RequestTxn(inner));
            let ops =
                vec![op(Request::RequestPut(put.clone())), op(Request::RequestRange(range.clone())), inner];
            let others = vec![op(Request::RequestDeleteRange(delete.clone())), RequestOp::default()];
            let (success, failure) = if level % 2 == 0 { (ops, others) } else { (others, ops) };
            TxnRequest { compare, success, failure }
        })
    }

    fn in_a_small_thread(check: impl FnOnce() + Send + 'static) {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(check).expect("a thread");
        thread.join().expect("no panic");
    }

    #[test]
    fn what_prost_reads_is_read_the_same() {
        for levels in 1..40 {
            let txn = nested(levels);
            let mut read = TxnRequest::default();
            merge_txn(&mut read, bytes(&txn), LEVELS_MAX).expect("a transaction");
            assert_eq!(read, txn);
        }
        // Repeated fields: a transaction in two parts, preceded by another kind of operation and an unknown field.
        let part = |levels| bytes(&op(Request::RequestTxn(nested(levels))));
        let range = bytes(&op(Request::RequestRange(RangeRequest::default())));
        let data: Bytes = [&range[..], &part(2), &part(3), b"\x9a\x06\x01x"].concat().into();
        let mut read = RequestOp::default();
        merge_op(&mut read, data.clone(), LEVELS_MAX).expect("an operation");
        assert_eq!(read, RequestOp::decode(data).expect("an operation"));
        let unknown = Bytes::from_static(b"\x08\x01");
        assert!(txn(unknown.clone()).is_err() && TxnRequest::decode(unknown).is_err());
    }

    #[test]
    fn transactions_are_read_down_to_the_limit() {
        in_a_small_thread(|| {
            for levels in [49, 50, 51, 127, LEVELS_MAX - 1] {
                let expected = nested(levels);
                assert_eq!(txn(bytes(&expected)).as_ref(), Ok(&expected), "{levels} levels");
                let request = InternalRaftRequest {
                    header: Some(RequestHeader { id: 7, ..Default::default() }),
                    txn: Some(expected),
                    ..Default::default()
                };
                assert_eq!(super::request(bytes(&request)).as_ref(), Ok(&request), "{levels} levels");
            }
        });
    }

    #[test]
    fn what_is_nested_deeper_or_is_no_transaction_is_an_error() {
        in_a_small_thread(|| {
            let mut data = Vec::new();
            let wrap = |tag: u8, inner: &[u8]| {
                let mut out = vec![tag << 3 | 2];
                prost::encode_length_delimiter(inner.len(), &mut out).expect("vectors grow");
                [&out, inner].concat()
            };
            for level in 0..20_000 {
                if level == LEVELS_MAX - 1 {
                    assert!(txn(data.clone().into()).is_ok());
                }
                data = wrap(2, &wrap(4, &data));
            }
            assert_eq!(txn(data.clone().into()), Err(Error::TooDeep));
            assert_eq!(request(wrap(6, &data).into()), Err(Error::TooDeep));
        });
        let deep = bytes(&nested(200));
        assert_eq!(txn(deep.slice(..deep.len() - 1)), Err(Error::CutOff));
        // 1,000 nested unknown groups exceed prost's limit, wherever they appear.
        let groups = [[0x9b, 0x06].repeat(1_000), [0x9c, 0x06].repeat(1_000)].concat();
        let data = [&deep[..], &groups].concat();
        assert!(matches!(txn(data.into()), Err(Error::Decode(_))));
    }
}
