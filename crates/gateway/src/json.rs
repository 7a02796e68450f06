//! JSON to protobuf and back, with `prost-reflect` and etcd's options. [`Checked`] adds Go's checks that it lacks: a
//! message is an object, a field comes once, and an integer has JSON's syntax, also in quotes.

use crate::{number, status::Status};
use bytes::{Bytes, BytesMut};
use prost::Message;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions,
};
use proto::grpc::{PREFIX_BYTES, put_prefix};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::{borrow::Cow, cell::RefCell, fmt, io, ops::Range};

const READ: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(false);
const WRITE: SerializeOptions = SerializeOptions::new().use_proto_field_name(true);

/// Converts a JSON value to a message with its prefix.
pub(crate) fn read(message: &MessageDescriptor, json: &[u8]) -> Result<Bytes, Status> {
    if json.first() != Some(&b'{') {
        // Go names an array by its bracket, a scalar by its text.
        let token = if json.first() == Some(&b'[') { &json[..1] } else { json };
        let token = String::from_utf8_lossy(token);
        return Err(Status::invalid(format!("proto: syntax error (line 1:1): unexpected token {token}")));
    }
    let wrong = |error: serde_json::Error| Status::invalid(format!("proto: {error}"));
    let plain = plain(message, json).map_err(wrong)?;
    let mut parser = serde_json::Deserializer::from_slice(&plain);
    let parsed =
        DynamicMessage::deserialize_with_options(message.clone(), &mut parser, &READ).map_err(wrong)?;
    let length = parsed.encoded_len();
    if u32::try_from(length).is_err() {
        return Err(Status::too_large(u32::MAX as usize));
    }
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
    put_prefix(&mut out, length as u64);
    parsed.encode_raw(&mut out);
    Ok(out.freeze())
}

/// Converts a message, without its prefix, to JSON. Byte fields share the memory of `bytes`.
pub(crate) fn write(
    message: &MessageDescriptor,
    bytes: Bytes,
    out: &mut dyn io::Write,
) -> Result<(), Status> {
    let answer = DynamicMessage::decode(message.clone(), bytes).map_err(Status::unshown)?;
    answer.serialize_with_options(&mut serde_json::Serializer::new(out), &WRITE).map_err(Status::unshown)
}

/// Checks the JSON of a message, and rewrites integers that have a point or an exponent, which the library refuses.
fn plain<'a>(message: &MessageDescriptor, json: &'a [u8]) -> Result<Cow<'a, [u8]>, serde_json::Error> {
    let fixes = RefCell::default();
    let checked = Checked { message, json, fixes: &fixes };
    checked.deserialize(&mut serde_json::Deserializer::from_slice(json))?;
    let fixes = fixes.into_inner();
    if fixes.is_empty() {
        return Ok(Cow::Borrowed(json));
    }
    let (mut plain, mut copied) = (Vec::with_capacity(json.len()), 0);
    for (place, digits) in fixes {
        plain.extend_from_slice(&json[copied..place.start]);
        plain.extend_from_slice(format!("\"{digits}\"").as_bytes());
        copied = place.end;
    }
    plain.extend_from_slice(&json[copied..]);
    Ok(Cow::Owned(plain))
}

/// Refuses a field set twice, under whatever name, and malformed integers; collects those with a point or an exponent.
#[derive(Clone, Copy)]
struct Checked<'a> {
    message: &'a MessageDescriptor,
    json: &'a [u8],
    fixes: &'a RefCell<Vec<(Range<usize>, String)>>,
}

impl Checked<'_> {
    fn number(&self, field: &FieldDescriptor, raw: &RawValue) -> Result<(), String> {
        let text = raw.get();
        let shown = || format!("invalid value for {:?} field {}: {text}", field.kind(), field.name());
        if let Some(digits) = number::plain(text).map_err(|_| shown())? {
            let start = text.as_ptr().addr() - self.json.as_ptr().addr();
            self.fixes.borrow_mut().push((start..start + text.len(), digits));
        }
        Ok(())
    }
}

fn is_integer(field: &FieldDescriptor) -> bool {
    let is_whole = matches!(
        field.kind(),
        Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 | Kind::Sint32 | Kind::Sint64
    );
    is_whole && !field.is_list()
}

impl<'de> DeserializeSeed<'de> for Checked<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Looks into objects and lists only. The library refuses values of a wrong type.
impl<'de> Visitor<'de> for Checked<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = Vec::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let field =
                self.message.get_field_by_json_name(&key).or_else(|| self.message.get_field_by_name(&key));
            let Some(field) = field else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen.contains(&field.number()) {
                return Err(Error::custom(format!("duplicate field {key:?}")));
            }
            seen.push(field.number());
            match field.kind() {
                Kind::Message(inner) => map.next_value_seed(Checked { message: &inner, ..self })?,
                _ if is_integer(&field) => {
                    let raw: &RawValue = map.next_value()?;
                    self.number(&field, raw).map_err(Error::custom)?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::routes;
    use proptest::prelude::*;
    use proto::etcdserverpb::{self as pb, request_op::Request};

    fn input(path: &str) -> MessageDescriptor {
        routes()[path].input()
    }

    fn read_as<M: Message + Default>(path: &str, json: &str) -> Result<M, String> {
        let frame = read(&input(path), json.as_bytes()).map_err(|s| s.message)?;
        assert_eq!(frame[0], 0);
        assert_eq!(frame[1..5], u32::try_from(frame.len() - 5).expect("short").to_be_bytes());
        Ok(M::decode(&frame[PREFIX_BYTES..]).expect("what was just encoded"))
    }

    fn check_range(json: &str, expected: pb::RangeRequest) {
        assert_eq!(read_as("/v3/kv/range", json), Ok(expected), "{json}");
    }

    #[test]
    fn requests_are_read_as_protojson_reads_them() {
        let base = pb::RangeRequest { key: "foo".into(), ..Default::default() };
        check_range("{}", pb::RangeRequest::default());
        check_range(r#"{"key":"Zm9v"}"#, base.clone());
        check_range(
            r#"{"key":"Zm9v","limit":3,"revision":"-4"}"#,
            pb::RangeRequest { limit: 3, revision: -4, ..base.clone() },
        );
        for three in ["3.0", "3e0", "\"3\"", "\"3.0\"", "\"30e-1\"", "\"\\u0033\""] {
            let json = format!(r#"{{"limit":{three},"key":"Zm9v"}}"#);
            check_range(&json, pb::RangeRequest { limit: 3, ..base.clone() });
        }
        check_range(
            r#"{"limit":"9.223372036854775807e18","key":"Zm9v","revision" : 1e1}"#,
            pb::RangeRequest { limit: i64::MAX, revision: 10, ..base.clone() },
        );
        check_range(
            r#"{"key":"Zm9v","range_end":"AA=="}"#,
            pb::RangeRequest { range_end: b"\0"[..].into(), ..base.clone() },
        );
        check_range(
            r#"{"key":"Zm9v","rangeEnd":"AA"}"#,
            pb::RangeRequest { range_end: b"\0"[..].into(), ..base.clone() },
        );
        check_range(
            r#"{"key":"-_8="}"#,
            pb::RangeRequest { key: b"\xfb\xff"[..].into(), ..Default::default() },
        );
        check_range(
            r#"{"key":"Zm9v","sort_order":"DESCEND","sort_target":3}"#,
            pb::RangeRequest { sort_order: 2, sort_target: 3, ..base.clone() },
        );
        check_range(r#"{"key":"Zm9v","sort_order":"NOPE","unknown":{"a":[1]},"limit":null}"#, base);
    }

    #[test]
    fn what_fits_no_field_is_refused() {
        let refused = |json: &str, part: &str| {
            let message = read_as::<pb::RangeRequest>("/v3/kv/range", json).expect_err(json);
            assert!(message.contains(part), "{json}: {message}");
        };
        refused("[]", "proto: syntax error (line 1:1): unexpected token [");
        refused("null", "unexpected token null");
        refused("5", "unexpected token 5");
        refused(r#"{"key":5}"#, "base64");
        refused(r#"{"key":"!!"}"#, "base64");
        for wrong in ["\"x\"", "1.5", "\"1.5\"", "\"+1\"", "\" 1\"", "\"01\"", "\"\"", "\"1.\"", "\"1e400\""]
        {
            let text = format!("invalid value for int64 field limit: {wrong}");
            refused(&format!(r#"{{"limit":{wrong}}}"#), &text);
            let deep = format!(r#"{{"success":[{{"request_range":{{"limit":{wrong}}}}}]}}"#);
            assert!(read_as::<pb::TxnRequest>("/v3/kv/txn", &deep).is_err_and(|e| e.contains(&text)));
        }
        refused(r#"{"serializable":"true"}"#, "boolean");
        refused(r#"{"key":"Zm9v","key":"Zm9v"}"#, r#"duplicate field "key""#);
        refused(r#"{"range_end":"Zm9v","rangeEnd":"Zm9v"}"#, r#"duplicate field "rangeEnd""#);
        let twice = r#"{"success":[{"request_range":{}},{"request_range":{"limit":1,"limit":1}}]}"#;
        assert!(read_as::<pb::TxnRequest>("/v3/kv/txn", twice).is_err());
        let both = r#"{"success":[{"request_range":{},"request_put":{}}]}"#;
        assert!(read_as::<pb::TxnRequest>("/v3/kv/txn", both).is_err());
    }

    #[test]
    fn answers_are_shown_as_protojson_shows_them() {
        let answer = pb::RangeResponse {
            header: Some(pb::ResponseHeader { cluster_id: u64::MAX, revision: 2, ..Default::default() }),
            kvs: vec![proto::mvccpb::KeyValue { key: "foo".into(), version: 1, ..Default::default() }],
            more: true,
            count: 7,
        };
        let mut shown = Vec::new();
        write(&routes()["/v3/kv/range"].output(), answer.encode_to_vec().into(), &mut shown)
            .expect("an answer");
        let expected = r#"{"header":{"cluster_id":"18446744073709551615","revision":"2"},"kvs":[{"key":"Zm9v","version":"1"}],"more":true,"count":"7"}"#;
        assert_eq!(String::from_utf8_lossy(&shown), expected);
    }

    /// What the scanner lets through is not too deep for the answer to be converted.
    #[test]
    fn the_deepest_transaction_that_passes_has_an_answer_that_passes() {
        let levels = crate::scan::DEPTH_MAX / 3;
        let mut answer = pb::TxnResponse::default();
        let mut json = "{}".to_owned();
        for _ in 1..levels {
            let op = pb::response_op::Response::ResponseTxn(answer);
            answer = pb::TxnResponse {
                responses: vec![pb::ResponseOp { response: Some(op) }],
                ..Default::default()
            };
            json = format!(r#"{{"success":[{{"request_txn":{json}}}]}}"#);
        }
        let mut values = crate::scan::Values::new(1 << 20);
        values.push(json.as_bytes());
        let whole = values.next().expect("not too deep").expect("whole");
        read(&input("/v3/kv/txn"), &whole).expect("a transaction");
        write(&routes()["/v3/kv/txn"].output(), answer.encode_to_vec().into(), &mut Vec::new())
            .expect("an answer");
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let names: Vec<String> = [
            "key",
            "value",
            "limit",
            "success",
            "failure",
            "compare",
            "request_put",
            "request_txn",
            "requestRange",
            "version",
            "target",
            "sort_order",
            "create_request",
            "ID",
        ]
        .map(String::from)
        .to_vec();
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>()
                .prop_map(|f| serde_json::Number::from_f64(f).map_or(serde_json::Value::Null, Into::into)),
            "[a-zA-Z0-9+/=_-]{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(5, 40, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::vec((proptest::sample::select(names.clone()), inner), 0..4)
                    .prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..48)) {
            for method in routes().values() {
                let _ = read(&method.input(), &bytes);
                let _ = write(&method.output(), bytes.clone().into(), &mut Vec::new());
            }
        }

        #[test]
        fn any_json_is_read_or_refused_and_what_is_read_can_be_decoded(value in json()) {
            let text = value.to_string();
            for method in routes().values() {
                if let Ok(frame) = read(&method.input(), text.as_bytes()) {
                    prop_assert!(DynamicMessage::decode(method.input(), &frame[PREFIX_BYTES..]).is_ok());
                }
            }
        }

        #[test]
        fn what_is_shown_reads_back(key in proptest::collection::vec(any::<u8>(), 0..32), lease in any::<i64>(), ignore in any::<bool>()) {
            let put = pb::PutRequest { key: key.clone().into(), lease, ignore_value: ignore, value: key.into(), ..Default::default() };
            let txn = pb::TxnRequest { success: vec![pb::RequestOp { request: Some(Request::RequestPut(put)) }], ..Default::default() };
            let mut shown = Vec::new();
            write(&input("/v3/kv/txn"), txn.encode_to_vec().into(), &mut shown).expect("a request");
            let read = read_as::<pb::TxnRequest>("/v3/kv/txn", &String::from_utf8(shown).expect("JSON is UTF-8"));
            prop_assert_eq!(read, Ok(txn));
        }
    }
}
