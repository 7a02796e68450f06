//! Fields with a wrong wire type: Go's protobuf treats them as unknown, prost refuses the whole message. Called only
//! for what prost refused, and works on short messages only: no client sends such fields on purpose.

use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use std::sync::OnceLock;

/// The longest message that is looked at, in bytes: it is copied once per level.
const BYTES_MAX: usize = 32 << 10;

/// The deepest nesting that is looked at, the same as prost decodes.
const DEPTH_MAX: usize = 100;

/// A method's request without the fields of a wrong wire type; `None` if there are none, or it is malformed otherwise.
pub fn without_misfits(service: &str, method: &str, message: &[u8]) -> Option<Vec<u8>> {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    if message.len() > BYTES_MAX {
        return None;
    }
    let pool = POOL.get_or_init(|| DescriptorPool::decode(proto::DESCRIPTORS).expect("our own descriptors"));
    let service = pool.get_service_by_name(service)?;
    let input = service.methods().find(|found| found.name() == method)?.input();
    fitting(&input, message, DEPTH_MAX).filter(|fitting| fitting.len() < message.len())
}

fn fitting(message: &MessageDescriptor, mut rest: &[u8], depth: usize) -> Option<Vec<u8>> {
    let depth = depth.checked_sub(1)?;
    let mut out = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let whole = rest;
        let (number, wire) = decode_key(&mut rest).ok()?;
        let mut content = rest;
        skip_field(wire, number, &mut rest, DecodeContext::default()).ok()?;
        let Some(field) = message.get_field(number) else {
            out.extend_from_slice(&whole[..whole.len() - rest.len()]);
            continue;
        };
        if !fits(&field, wire) {
            continue;
        }
        let Kind::Message(inner) = field.kind() else {
            out.extend_from_slice(&whole[..whole.len() - rest.len()]);
            continue;
        };
        let length = decode_varint(&mut content).ok()?;
        let inner = fitting(&inner, content.get(..usize::try_from(length).ok()?)?, depth)?;
        encode_key(number, wire, &mut out);
        encode_varint(inner.len() as u64, &mut out);
        out.extend_from_slice(&inner);
    }
    Some(out)
}

/// Whether a field may have this wire type. A list of numbers may also be packed.
pub(crate) fn fits(field: &FieldDescriptor, wire: WireType) -> bool {
    let own = match field.kind() {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::ThirtyTwoBit,
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::LengthDelimited,
        _ => WireType::Varint,
    };
    wire == own || field.is_list() && wire == WireType::LengthDelimited
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::etcdserverpb as pb;

    fn range(message: &[u8]) -> Option<pb::RangeRequest> {
        let fitting = without_misfits("etcdserverpb.KV", "Range", message)?;
        Some(pb::RangeRequest::decode(&fitting[..]).expect("what fits is decoded"))
    }

    #[test]
    fn a_field_of_a_wrong_wire_type_is_unknown() {
        let good = pb::RangeRequest { key: "k".into(), limit: 3, ..Default::default() };
        let bytes = good.encode_to_vec();
        for misfit in [&b"\x08\x01"[..], b"\x1a\x01x", b"\x1d\0\0\0\0", b"\x19\0\0\0\0\0\0\0\0", b"\x0b\x0c"]
        {
            assert_eq!(range(&[misfit, &bytes].concat()), Some(good.clone()), "{misfit:?}");
            assert_eq!(range(&[&bytes, misfit].concat()), Some(good.clone()), "{misfit:?}");
        }
        assert_eq!(range(&bytes), None, "nothing is wrong with it");
        assert_eq!(range(b"\x0a\x05k"), None, "cut off");
        assert_eq!(without_misfits("etcdserverpb.KV", "Nope", b"\x08\x01"), None);
        let long = [&b"\x08\x01\x12"[..], &[0xff, 0xff, 1], &vec![7; 32_767][..]].concat();
        assert_eq!(range(&long), None);
    }

    #[test]
    fn a_misfit_is_found_at_any_depth_and_unknown_fields_stay() {
        let mut inner = pb::RangeRequest { key: "k".into(), ..Default::default() }.encode_to_vec();
        inner.extend(b"\x1a\x01x"); // a limit of bytes
        inner.extend(b"\x98\x06\x07"); // field 99, which nobody knows
        let op = [&[0x0a, u8::try_from(inner.len()).expect("short")], &inner[..]].concat();
        let txn = [&[0x12, u8::try_from(op.len()).expect("short")], &op[..]].concat();
        let fitting = without_misfits("etcdserverpb.KV", "Txn", &txn).expect("a misfit");
        assert_eq!(fitting, b"\x12\x08\x0a\x06\x0a\x01k\x98\x06\x07");
    }

    #[test]
    fn a_list_of_numbers_may_come_packed() {
        let create = pb::WatchCreateRequest { filters: vec![0, 1], ..Default::default() }.encode_to_vec();
        let request =
            [&[0x0a, u8::try_from(create.len() + 2).expect("short")], &create[..], b"\x08\x01"].concat();
        let fitting = without_misfits("etcdserverpb.Watch", "Watch", &request).expect("a misfit");
        let request = pb::WatchRequest::decode(&fitting[..]).expect("a request");
        let Some(pb::watch_request::RequestUnion::CreateRequest(found)) = request.request_union else {
            panic!("{request:?}")
        };
        assert_eq!(found.filters, [0, 1]);
    }
}
