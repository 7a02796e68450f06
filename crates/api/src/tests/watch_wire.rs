//! Encoded responses, compared with their decoded messages.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use super::*;
use proto::mvccpb;

fn event(key: &str, bytes: usize) -> mvccpb::Event {
    let kv =
        mvccpb::KeyValue { key: key.to_owned().into(), value: vec![7; bytes].into(), ..Default::default() };
    mvccpb::Event { kv: Some(kv), ..Default::default() }
}

fn events(all: &[mvccpb::Event]) -> Bytes {
    WatchResponse { events: all.to_vec(), ..Default::default() }.encode_to_vec().into()
}

/// Encodes the response, and decodes it again.
fn written(response: Response, fragment_bytes: usize) -> Vec<WatchResponse> {
    let (mut out, mut lengths) = (Writer::default(), Vec::new());
    let header = |revision| ResponseHeader { revision, ..Default::default() };
    write(response, header, fragment_bytes, &mut out, &mut |length| lengths.push(length));
    let mut all = Vec::new();
    while let Some(piece) = out.take() {
        all.extend_from_slice(&piece);
    }
    let mut rest = &all[..];
    let messages = lengths.into_iter().map(|length| {
        let (frame, after) = rest.split_at(PREFIX_BYTES + length);
        rest = after;
        assert_eq!(frame[..PREFIX_BYTES], [&[0][..], &u32::try_from(length).unwrap().to_be_bytes()].concat());
        WatchResponse::decode(&frame[PREFIX_BYTES..]).unwrap()
    });
    let messages = messages.collect();
    assert!(rest.is_empty());
    messages
}

fn told(all: &[mvccpb::Event], fragment: bool) -> Response {
    Response::Events { id: 3, revision: 9, fragment, count: all.len(), events: events(all) }
}

#[test]
fn responses_have_etcds_shapes() {
    let check = |response: Response, expected: WatchResponse, revision| {
        let header = Some(ResponseHeader { revision, ..Default::default() });
        assert_eq!(written(response, 1_000), [WatchResponse { header, ..expected }]);
    };
    let of = |id: i64| WatchResponse { watch_id: id, ..Default::default() };
    check(Response::Created { id: 5, revision: 2 }, WatchResponse { created: true, ..of(5) }, 2);
    check(Response::Canceled { id: 5, revision: 3 }, WatchResponse { canceled: true, ..of(5) }, 3);
    let compacted = WatchResponse { canceled: true, compact_revision: 8, ..of(5) };
    check(Response::Compacted { id: 5, compact_revision: 8 }, compacted, 0);
    check(Response::Progress { id: Some(5), revision: 4 }, of(5), 4);
    check(Response::Progress { id: None, revision: 4 }, of(-1), 4);
    for (refusal, reason) in [
        (Refusal::NegativeStart, "etcdserver: mvcc: required revision has been compacted"),
        (Refusal::EmptyRange, "mvcc: watcher range is empty"),
        (Refusal::DuplicateId, "mvcc: duplicate watch ID provided on the WatchStream"),
    ] {
        let refused = WatchResponse { created: true, canceled: true, cancel_reason: reason.into(), ..of(-1) };
        check(Response::Refused { refusal, revision: 6 }, refused, 6);
    }
}

#[test]
fn events_follow_their_head_whatever_their_size() {
    for bytes in [0, 100, COPIED_EVENTS_BYTES_MAX, 100_000] {
        let all = [event("a", bytes), event("b", 1)];
        let [message] = &written(told(&all, false), 1)[..] else { panic!("one message") };
        assert_eq!((message.watch_id, &message.events[..]), (3, &all[..]));
    }
}

#[test]
fn large_events_leave_as_they_are() {
    let events = events(&[event("a", 100_000)]);
    let mut out = Writer::default();
    let response = Response::Events { id: 3, revision: 9, fragment: false, count: 1, events: events.clone() };
    write(response, |_| ResponseHeader::default(), 1, &mut out, &mut |_| {});
    let pieces: Vec<Bytes> = std::iter::from_fn(|| out.take()).collect();
    assert_eq!((pieces.len(), pieces[1].as_ptr()), (2, events.as_ptr()));
}

#[test]
fn a_response_that_may_be_cut_is_cut_as_etcd_cuts_it() {
    let all: Vec<mvccpb::Event> = (0..10).map(|n| event(&format!("key{n}"), 100)).collect();
    let check = |fragment_bytes: usize, expected: &[usize]| {
        let messages = written(told(&all, true), fragment_bytes);
        let lengths: Vec<usize> = messages.iter().map(|message| message.events.len()).collect();
        assert_eq!(lengths, expected, "below {fragment_bytes} bytes");
        let last = messages.len() - 1;
        assert!(messages.iter().enumerate().all(|(at, message)| message.fragment == (at < last)));
        let events: Vec<mvccpb::Event> = messages.into_iter().flat_map(|message| message.events).collect();
        assert_eq!(events, all);
    };
    let whole = written(told(&all, true), usize::MAX)[0].encoded_len();
    check(whole + 1, &[10]);
    check(whole, &[9, 1]);
    check(600, &[5, 5]);
    check(1, &[1; 10]);
    // One event is never split.
    assert_eq!(written(told(&all[..1], true), 1).len(), 1);
}
