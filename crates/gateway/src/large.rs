//! Large messages as JSON, a part at a time.
//!
//! The library makes a tree of a message before it writes a letter, which takes ten times the memory of a list of short
//! values. Here a large message is taken apart first, down to parts that are short: only one of those has its tree at a
//! time. What comes out is the same.

use crate::{
    json,
    status::{INTERNAL, Status},
};
use bytes::{Buf, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use std::{collections::BTreeMap, io, ops::Range};

/// Messages up to this size are written by way of their tree, in bytes.
pub(crate) const PART_BYTES_MAX: usize = 32 << 10;

/// What a message's wire form has of one field.
enum Part {
    /// Messages, each at a place in the bytes.
    Messages(FieldDescriptor, Vec<Range<usize>>),
    /// Anything else, as it stands on the wire.
    Plain(BytesMut),
}

/// Writes a message, without its prefix, as JSON.
pub(crate) fn write(
    message: &MessageDescriptor,
    bytes: &Bytes,
    part_bytes_max: usize,
    out: &mut dyn io::Write,
) -> Result<(), Status> {
    if bytes.len() <= part_bytes_max {
        return json::write(message, bytes.clone(), out);
    }
    let parts = take_apart(message, bytes).map_err(|error| broken(&error))?;
    put(out, b"{")?;
    let mut is_first = true;
    for part in parts.values() {
        match part {
            Part::Plain(fields) => {
                let mut shown = Vec::new();
                json::write(message, fields.clone().freeze(), &mut shown)?;
                // Its fields without its braces; none where they say nothing.
                let fields = shown.get(1..shown.len().saturating_sub(1)).unwrap_or_default();
                if !fields.is_empty() {
                    separate(&mut is_first, out)?;
                    put(out, fields)?;
                }
            }
            Part::Messages(field, places) => {
                separate(&mut is_first, out)?;
                put(out, format!("\"{}\":", field.name()).as_bytes())?;
                let Kind::Message(inner) = field.kind() else { continue };
                if field.is_list() {
                    list(&inner, bytes, places, part_bytes_max, out)?;
                } else {
                    // One message that comes in pieces is all of them together.
                    let whole = match &places[..] {
                        [only] => bytes.slice(only.clone()),
                        several => several.iter().flat_map(|place| bytes[place.clone()].to_vec()).collect(),
                    };
                    write(&inner, &whole, part_bytes_max, out)?;
                }
            }
        }
    }
    put(out, b"}")
}

fn list(
    message: &MessageDescriptor,
    bytes: &Bytes,
    places: &[Range<usize>],
    part_bytes_max: usize,
    out: &mut dyn io::Write,
) -> Result<(), Status> {
    put(out, b"[")?;
    let mut is_first = true;
    for place in places {
        separate(&mut is_first, out)?;
        write(message, &bytes.slice(place.clone()), part_bytes_max, out)?;
    }
    put(out, b"]")
}

/// The fields of a message, by their numbers: the order in which they are shown.
fn take_apart(message: &MessageDescriptor, bytes: &Bytes) -> Result<BTreeMap<u32, Part>, String> {
    let wrong = |error: prost::DecodeError| error.to_string();
    let mut parts = BTreeMap::new();
    let mut rest = bytes.clone();
    while rest.has_remaining() {
        let begin = bytes.len() - rest.len();
        let (number, wire) = decode_key(&mut rest).map_err(wrong)?;
        let field = message.get_field(number).filter(|field| {
            matches!(field.kind(), Kind::Message(_)) && !field.is_map() && wire == WireType::LengthDelimited
        });
        let Some(field) = field else {
            skip_field(wire, number, &mut rest, DecodeContext::default()).map_err(wrong)?;
            let end = bytes.len() - rest.len();
            let part = parts.entry(number).or_insert_with(|| Part::Plain(BytesMut::new()));
            if let Part::Plain(fields) = part {
                fields.extend_from_slice(&bytes[begin..end]);
            }
            continue;
        };
        let length = usize::try_from(decode_varint(&mut rest).map_err(wrong)?).unwrap_or(usize::MAX);
        let start = bytes.len() - rest.len();
        if length > rest.len() {
            return Err("a field is cut off".to_owned());
        }
        rest.advance(length);
        let part = parts.entry(number).or_insert_with(|| Part::Messages(field, Vec::new()));
        if let Part::Messages(_, places) = part {
            places.push(start..start + length);
        }
    }
    Ok(parts)
}

fn separate(is_first: &mut bool, out: &mut dyn io::Write) -> Result<(), Status> {
    if std::mem::take(is_first) { Ok(()) } else { put(out, b",") }
}

fn put(out: &mut dyn io::Write, bytes: &[u8]) -> Result<(), Status> {
    out.write_all(bytes).map_err(|error| broken(&error))
}

fn broken(error: &dyn std::fmt::Display) -> Status {
    Status::new(INTERNAL, format!("the gateway cannot show this answer: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::routes;
    use proptest::prelude::*;
    use prost::Message;
    use proto::{etcdserverpb as pb, mvccpb};

    fn check(path: &str, bytes: &Bytes) {
        let message = routes()[path].output();
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        json::write(&message, bytes.clone(), &mut whole).expect("an answer");
        write(&message, bytes, 0, &mut parts).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&parts), String::from_utf8_lossy(&whole), "{path}");
    }

    fn ranges() -> impl Strategy<Value = pb::RangeResponse> {
        let kv = (any::<Vec<u8>>(), any::<Vec<u8>>(), any::<i64>()).prop_map(|(key, value, version)| {
            mvccpb::KeyValue { key: key.into(), value: value.into(), version, ..Default::default() }
        });
        let header = prop::option::of(
            any::<i64>().prop_map(|revision| pb::ResponseHeader { revision, ..Default::default() }),
        );
        (header, prop::collection::vec(kv, 0..5), any::<bool>(), -2i64..3)
            .prop_map(|(header, kvs, more, count)| pb::RangeResponse { header, kvs, more, count })
    }

    proptest! {
        #[test]
        fn parts_make_the_whole(range in ranges(), more in ranges(), succeeded in any::<bool>()) {
            check("/v3/kv/range", &range.encode_to_vec().into());
            let op = |range| pb::ResponseOp { response: Some(pb::response_op::Response::ResponseRange(range)) };
            let inner = pb::TxnResponse { header: None, succeeded: !succeeded, responses: vec![op(more)] };
            let nested = pb::ResponseOp { response: Some(pb::response_op::Response::ResponseTxn(inner)) };
            let header = range.header;
            let txn = pb::TxnResponse { header, succeeded, responses: vec![op(range), nested] };
            check("/v3/kv/txn", &txn.encode_to_vec().into());
        }

        #[test]
        fn any_bytes_are_shown_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..48)) {
            for method in routes().values() {
                let _ = write(&method.output(), &bytes.clone().into(), 0, &mut Vec::new());
            }
        }
    }
}
