//! Messages of every kind in pieces of any size: the JSON is what the library writes for the whole message.

use super::*;
use crate::{routes::routes, status::INTERNAL};
use proptest::prelude::*;
use prost::Message;
use prost_reflect::MessageDescriptor;
use proto::{etcdserverpb as pb, etcdserverpb::response_op::Response, mvccpb};
use std::collections::HashSet;

fn whole(message: &MessageDescriptor, bytes: &Bytes) -> Result<String, Status> {
    let mut out = Vec::new();
    json::write(message, bytes.clone(), &mut out)?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

/// Converts a message in pieces of the lengths in `cuts`, repeated.
fn in_pieces(
    message: &MessageDescriptor,
    bytes: &Bytes,
    part_bytes: usize,
    cuts: &[usize],
) -> Result<String, Status> {
    let mut out = Vec::new();
    let mut writer = Writer::new(message.clone(), bytes.len(), part_bytes);
    let mut rest = bytes.clone();
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        writer.push(rest.split_to((*cut).min(rest.len())), &mut out)?;
    }
    writer.finish(&mut out)?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

fn check(path: &str, message: &impl Message, part_bytes: usize, cuts: &[usize]) {
    let (descriptor, bytes) = (routes()[path].output(), message.encode_to_vec().into());
    let expected = whole(&descriptor, &bytes);
    assert_eq!(in_pieces(&descriptor, &bytes, part_bytes, cuts), expected, "{path} {part_bytes} {cuts:?}");
    let mut out = Vec::new();
    let written = write(&descriptor, bytes, part_bytes, &mut out);
    assert_eq!(written.map(|()| String::from_utf8(out).expect("JSON is UTF-8")), expected);
}

fn op(response: Response) -> pb::ResponseOp {
    pb::ResponseOp { response: Some(response) }
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Into::into),
        // Lengths and numbers of two bytes and more.
        prop::collection::vec(any::<u8>(), 120..400).prop_map(Into::into),
    ]
}

fn key_values() -> impl Strategy<Value = mvccpb::KeyValue> {
    let number = || prop_oneof![Just(0), any::<i64>(), 1i64..300];
    (bytes(), bytes(), number(), number(), number(), number()).prop_map(
        |(key, value, create_revision, mod_revision, version, lease)| mvccpb::KeyValue {
            key,
            value,
            create_revision,
            mod_revision,
            version,
            lease,
        },
    )
}

fn headers() -> impl Strategy<Value = Option<pb::ResponseHeader>> {
    prop::option::of((any::<i64>(), any::<u64>()).prop_map(|(revision, cluster_id)| pb::ResponseHeader {
        revision,
        cluster_id,
        ..Default::default()
    }))
}

fn ranges() -> impl Strategy<Value = pb::RangeResponse> {
    (headers(), prop::collection::vec(key_values(), 0..5), any::<bool>(), -2i64..3)
        .prop_map(|(header, kvs, more, count)| pb::RangeResponse { header, kvs, more, count })
}

fn txns() -> impl Strategy<Value = pb::TxnResponse> {
    let leaf = (headers(), any::<bool>()).prop_map(|(header, succeeded)| pb::TxnResponse {
        header,
        succeeded,
        responses: Vec::new(),
    });
    leaf.prop_recursive(4, 24, 4, |inner| {
        let put = (headers(), prop::option::of(key_values()))
            .prop_map(|(header, prev_kv)| Response::ResponsePut(pb::PutResponse { header, prev_kv }));
        let responses = prop_oneof![
            ranges().prop_map(Response::ResponseRange),
            inner.prop_map(Response::ResponseTxn),
            put,
        ];
        let responses = prop::collection::vec(prop::option::weighted(0.9, responses), 0..4);
        (headers(), any::<bool>(), responses).prop_map(|(header, succeeded, responses)| pb::TxnResponse {
            header,
            succeeded,
            responses: responses.into_iter().map(|response| pb::ResponseOp { response }).collect(),
        })
    })
}

/// Lists of scalars, enums and strings, which a range response does not have.
fn others() -> impl Strategy<Value = (pb::LeaseTimeToLiveResponse, pb::StatusResponse, pb::WatchResponse)> {
    let events = prop::collection::vec((0i32..3, prop::option::of(key_values())), 0..4);
    let texts = prop::collection::vec("\\PC{0,9}", 0..4);
    (prop::collection::vec(bytes(), 0..6), texts, events, any::<i64>()).prop_map(
        |(keys, errors, events, number)| {
            let ttl = pb::LeaseTimeToLiveResponse { keys, ttl: number, ..Default::default() };
            let version = errors.concat();
            let status = pb::StatusResponse { errors, db_size: number, version, ..Default::default() };
            let event = |(r#type, kv)| mvccpb::Event { r#type, kv, prev_kv: None };
            let events = events.into_iter().map(event).collect();
            (ttl, status, pb::WatchResponse { events, canceled: number > 0, ..Default::default() })
        },
    )
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    let cut = prop_oneof![Just(1usize), 1usize..30, 1usize..1_000, Just(1 << 20)];
    prop::collection::vec(cut, 1..5)
}

fn parts() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 0usize..40, 0usize..1_000, Just(1 << 20)]
}

proptest! {
    #[test]
    fn pieces_make_the_whole(range in ranges(), txn in txns(), others in others(), part in parts(), cuts in cuts()) {
        check("/v3/kv/range", &range, part, &cuts);
        check("/v3/kv/txn", &txn, part, &cuts);
        check("/v3/lease/timetolive", &others.0, part, &cuts);
        check("/v3/maintenance/status", &others.1, part, &cuts);
        check("/v3/watch", &others.2, part, &cuts);
    }

    /// If a message is converted, the JSON is that of the library.
    #[test]
    fn any_bytes_are_shown_right_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..48), cuts in cuts()) {
        let bytes = Bytes::from(bytes);
        for method in routes().values() {
            if let Ok(shown) = in_pieces(&method.output(), &bytes, 0, &cuts) {
                prop_assert_eq!(Ok(shown), whole(&method.output(), &bytes));
            }
        }
    }

    /// A message with bytes changed, removed and doubled: more like a valid message than random bytes.
    #[test]
    fn a_damaged_message_is_shown_right_or_refused(
        txn in txns(),
        part in parts(),
        cuts in cuts(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..4),
    ) {
        let mut bytes = txn.encode_to_vec();
        for (at, byte, how) in damage {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.extend_from_within(at..),
            }
        }
        let (bytes, message) = (Bytes::from(bytes), routes()["/v3/kv/txn"].output());
        if let Ok(shown) = in_pieces(&message, &bytes, part, &cuts) {
            prop_assert_eq!(Ok(shown), whole(&message, &bytes));
        }
    }
}

fn refused(path: &str, bytes: &[u8], why: &str) {
    for cut in [1, 2, 1_000] {
        let status = in_pieces(&routes()[path].output(), &bytes.to_vec().into(), 0, &[cut]).expect_err(why);
        assert!(status.code == INTERNAL && status.message.contains(why), "{}", status.message);
    }
}

#[test]
fn what_would_need_the_whole_message_is_refused() {
    let encoded = |answer: pb::RangeResponse| answer.encode_to_vec();
    let header = Some(pb::ResponseHeader { revision: 1, ..Default::default() });
    let header = encoded(pb::RangeResponse { header, ..Default::default() });
    let kvs = encoded(pb::RangeResponse { kvs: vec![mvccpb::KeyValue::default()], ..Default::default() });
    let count = encoded(pb::RangeResponse { count: 7, ..Default::default() });
    for parts in [[&kvs, &header], [&count, &kvs], [&count, &count], [&header, &header]] {
        refused("/v3/kv/range", &parts.map(|part| &part[..]).concat(), "out of order");
    }
    refused("/v3/kv/range", &[&kvs[..], &count, &kvs].concat(), "out of order");
    let both = [
        op(Response::ResponseRange(pb::RangeResponse::default())),
        op(Response::ResponsePut(pb::PutResponse::default())),
    ];
    let both = both.map(|op| op.encode_to_vec()).concat();
    let both = [&[0x1a, u8::try_from(both.len()).expect("short")], &both[..]].concat();
    refused("/v3/kv/txn", &both, "beside another");
    refused("/v3/kv/range", b"\x12\x05\x0a", "cut off");
    refused("/v3/kv/range", b"\x12\x05\x0a\x02k", "cut off");
    refused("/v3/kv/range", &[0x80; 30], "too long");
    refused("/v3/kv/range", b"\x10\x05", "wrong type");
    refused("/v3/kv/range", b"\x22\x05", "cut off");
    refused("/v3/kv/range", b"\x22\x01x", "wrong type");
    refused("/v3/kv/range", b"\xa3\x06\xa4\x06", "groups");
    let mut deep = pb::TxnResponse { succeeded: true, ..Default::default() };
    for _ in 0..DEPTH_MAX {
        deep = pb::TxnResponse { responses: vec![op(Response::ResponseTxn(deep))], ..Default::default() };
    }
    refused("/v3/kv/txn", &deep.encode_to_vec(), "too deep");
}

/// A message that is cut off anywhere fails, and its output is not valid JSON.
#[test]
fn a_message_that_breaks_off_has_no_end() {
    let kvs =
        (0..3).map(|i| mvccpb::KeyValue { key: vec![b'k'; i].into(), version: 300, ..Default::default() });
    let answer = pb::RangeResponse { kvs: kvs.collect(), count: 3, ..Default::default() };
    let (bytes, message) = (Bytes::from(answer.encode_to_vec()), routes()["/v3/kv/range"].output());
    for end in 0..bytes.len() {
        let mut writer = Writer::new(message.clone(), bytes.len(), 0);
        let mut out = Vec::new();
        writer.push(bytes.slice(..end), &mut out).expect("good so far");
        assert!(serde_json::from_slice::<serde_json::Value>(&out).is_err(), "{end}");
        assert!(writer.finish(&mut out).is_err(), "{end}");
        assert!(serde_json::from_slice::<serde_json::Value>(&out).is_err(), "{end}");
    }
}

/// Fields whose bytes may be shown as they come: no maps, no groups, no types with a JSON form of their own, and no
/// oneof in between whose fields the encoder would write out of order.
#[test]
fn answers_have_nothing_that_cannot_be_shown() {
    let mut seen = HashSet::new();
    let mut next: Vec<_> = routes().values().map(prost_reflect::MethodDescriptor::output).collect();
    while let Some(message) = next.pop() {
        if !seen.insert(message.full_name().to_owned()) {
            continue;
        }
        assert!(!message.full_name().starts_with("google."), "{}", message.full_name());
        for field in message.fields() {
            assert!(!field.is_map() && !field.is_group(), "{}", field.full_name());
            if let Kind::Message(inner) = field.kind() {
                next.push(inner);
            }
        }
        for oneof in message.oneofs() {
            let numbers: Vec<u32> = oneof.fields().map(|field| field.number()).collect();
            let (low, high) = (numbers.iter().min().expect("some"), numbers.iter().max().expect("some"));
            let within = message.fields().filter(|field| (low..=high).contains(&&field.number())).count();
            assert_eq!(within, numbers.len(), "{}", oneof.full_name());
        }
    }
    assert!(seen.contains("etcdserverpb.TxnResponse") && seen.len() > 50, "{}", seen.len());
}

/// Converts a message in pieces of 256 KiB. Returns the most that the writer held, and wrote at once.
fn most_held(path: &str, answer: &impl Message) -> (usize, usize) {
    let mut rest = Bytes::from(answer.encode_to_vec());
    let mut writer = Writer::new(routes()[path].output(), rest.len(), PART);
    let (mut held, mut written) = (0, 0);
    while !rest.is_empty() {
        // Copied: a slice of the whole would hide the memory that it holds.
        let piece = Bytes::copy_from_slice(&rest.split_to(rest.len().min(PIECE)));
        let mut out = Vec::new();
        writer.push(piece, &mut out).expect("an answer");
        (held, written) = (held.max(writer.held.capacity()), written.max(out.len()));
        assert!(writer.outer.len() < 10);
    }
    writer.finish(&mut Vec::new()).expect("an answer");
    (held, written)
}

const PART: usize = 32 << 10;
const PIECE: usize = 256 << 10;

#[test]
fn the_writer_holds_a_part_or_a_value() {
    let list = |value: usize| {
        let kv = mvccpb::KeyValue { key: "key".into(), value: vec![7; value].into(), ..Default::default() };
        pb::RangeResponse { kvs: vec![kv; (50 << 20) / value], ..Default::default() }
    };
    let nested = |range| {
        let inner =
            pb::TxnResponse { responses: vec![op(Response::ResponseRange(range))], ..Default::default() };
        pb::TxnResponse { responses: vec![op(Response::ResponseTxn(inner))], ..Default::default() }
    };
    for value in [1_000, 1 << 20] {
        // Plus the head of a field.
        let most = PART.max(value) + HEAD_BYTES_MAX;
        let (path, answer) = ("/v3/kv/range", list(value));
        let (held, written) = most_held(path, &answer);
        assert!(held <= most && written <= 2 * (most + PIECE), "{value}: {held}, {written}");
        let (held, written) = most_held("/v3/kv/txn", &nested(answer));
        assert!(held <= most && written <= 2 * (most + PIECE), "{value}: {held}, {written}");
    }
}
