//! Pure functions on headers, versions, paths, URLs, JSON and times.

use std::time::Duration;

use bytes::BytesMut;
use http::HeaderMap;
use proto::raftpb::{Entry, Message, MessageType};

use crate::{
    HashKv, Identity, Limits,
    codec::Kind,
    dial::{Receiver, parse_head},
    hashes::hash_json,
    headers,
    server::stream_path,
    urls::{self, Picker},
};

fn identity() -> Identity {
    Identity {
        member: 0xa1,
        cluster: 0xc1,
        peer_urls: vec!["http://127.0.0.1:1".into(), "http://127.0.0.1:2".into()],
        version: "3.7.3".into(),
    }
}

#[test]
fn the_version_is_checked_before_the_cluster() {
    let check = |changes: &[(&'static str, Option<&str>)]| {
        let mut map = headers::outgoing(&identity());
        for (name, value) in changes {
            map.remove(*name);
            if let Some(value) = value {
                map.insert(*name, value.parse().unwrap());
            }
        }
        headers::check(&map, &identity())
    };
    let (version, min, cluster) = ("x-server-version", "x-min-cluster-version", "x-etcd-cluster-id");
    assert_eq!(check(&[]), Ok(()));
    assert_eq!(check(&[(version, Some("3.0.0")), (min, Some("3.7.9"))]), Ok(()));
    assert_eq!(check(&[(version, None)]), Err("incompatible version"));
    assert_eq!(check(&[(version, Some("2.3.9")), (cluster, Some("0"))]), Err("incompatible version"));
    assert_eq!(check(&[(version, Some("nonsense"))]), Err("incompatible version"));
    assert_eq!(check(&[(min, Some("3.8.0"))]), Err("incompatible version"));
    assert_eq!(check(&[(min, None)]), Ok(()));
    assert_eq!(check(&[(cluster, Some("00c1"))]), Err("cluster ID mismatch"));
    assert_eq!(check(&[(cluster, Some("C1"))]), Err("cluster ID mismatch"));
    assert_eq!(check(&[(cluster, None)]), Err("cluster ID mismatch"));
}

#[test]
fn our_headers_are_etcds() {
    let map = headers::outgoing(&identity());
    let get = |name: &str| map[name].to_str().unwrap();
    assert_eq!(get("X-Server-From"), "a1");
    assert_eq!(get("X-Server-Version"), "3.7.3");
    assert_eq!(get("X-Min-Cluster-Version"), "3.0.0");
    assert_eq!(get("X-Etcd-Cluster-ID"), "c1");
    assert_eq!(get("X-PeerURLs"), "http://127.0.0.1:1,http://127.0.0.1:2");
    assert_eq!(headers::version(&HeaderMap::new(), &headers::SERVER_VERSION), Some((2, 0)));
}

#[test]
fn streams_of_old_and_newer_servers_are_told_apart() {
    for (server, expected) in [
        ((2, 0), false),
        ((2, 1), true),
        ((2, 4), false),
        ((3, 0), true),
        ((3, 6), true),
        ((3, 8), true),
        ((4, 0), true),
    ] {
        assert_eq!(headers::speaks_streams(server, (3, 7)), expected, "{server:?}");
    }
}

#[test]
fn stream_paths_are_taken_apart_as_go_does() {
    assert_eq!(stream_path("/raft/stream/msgapp/a1"), Ok((Kind::MsgApp, 0xa1)));
    assert_eq!(
        stream_path("/raft/stream/message/b2156b3e49ad34e0"),
        Ok((Kind::Message, 0xb215_6b3e_49ad_34e0))
    );
    assert_eq!(stream_path("/raft/stream/msgapp"), Err("invalid path"));
    assert_eq!(stream_path("/raft/stream/other/a1"), Err("invalid path"));
    assert_eq!(stream_path("/raft/stream/msgapp/a1/b"), Err("invalid path"));
    assert_eq!(stream_path("/raft/stream/msgapp/xyz"), Err("invalid from"));
    assert_eq!(stream_path("/raft/stream/msgapp/"), Err("invalid from"));
    assert_eq!(stream_path("/raft/stream/msgapp/11111111111111111"), Err("invalid from"));
    assert_eq!(stream_path("/raft/stream/msgapp/+1"), Err("invalid from"));
}

#[test]
fn peer_urls_need_a_scheme_a_host_and_a_port() {
    let authority = |url: &str| urls::authority(url).map_err(|e| e.to_string());
    assert_eq!(authority("http://10.0.0.1:2380"), Ok("10.0.0.1:2380".into()));
    assert_eq!(authority("http://[::1]:2380/"), Ok("[::1]:2380".into()));
    for url in ["http://host", "http://:2380", "http://a@b:1", "http://h:1/path", "ftp://h:1", "h:1", ""] {
        assert!(authority(url).is_err(), "{url}");
    }
    assert!(authority("https://h:1").unwrap_err().contains("TLS between members is not supported yet"));
}

#[test]
fn a_failing_url_gives_way_to_the_next_and_a_new_list_starts_over() {
    let picker = Picker::new(&["b".into(), "a".into()]);
    assert_eq!(picker.pick().as_deref(), Some("a"));
    picker.failed("b"); // not in use
    assert_eq!(picker.pick().as_deref(), Some("a"));
    picker.failed("a");
    assert_eq!(picker.pick().as_deref(), Some("b"));
    assert!(!picker.update(&["a".into(), "b".into()]));
    assert_eq!(picker.pick().as_deref(), Some("b"));
    picker.failed("b");
    assert_eq!(picker.pick().as_deref(), Some("a"));
    assert!(picker.update(&["c".into()]));
    assert_eq!(picker.pick().as_deref(), Some("c"));
    assert!(picker.update(&[]));
    picker.failed("c");
    assert_eq!(picker.pick(), None);
}

#[test]
fn json_is_etcds() {
    let hash = HashKv { revision: 8, hash: 4_051_299_174, compact_revision: 4, hash_revision: 8 };
    let text = r#"{"header":{"revision":8},"hash":4051299174,"compact_revision":4,"hash_revision":8}"#;
    assert_eq!(hash_json(&hash), text);
    assert_eq!(hash_json(&HashKv::default()), r#"{"header":{}}"#);
}

#[test]
fn times_are_written_as_go_writes_them() {
    let check = |seconds, nanos, text: &str| {
        assert_eq!(jiff::Timestamp::new(seconds, nanos).unwrap().to_string(), text);
    };
    check(0, 0, "1970-01-01T00:00:00Z");
    check(951_782_400, 0, "2000-02-29T00:00:00Z");
    check(1_795_414_287, 961_691_154, "2026-11-23T06:11:27.961691154Z");
    check(1_795_414_287, 500_000_000, "2026-11-23T06:11:27.5Z");
}

#[test]
fn clocks_of_peers_are_compared_at_any_offset() {
    let now = "2026-11-23T12:00:00Z".parse().unwrap();
    let drift = |theirs: &str, ago| crate::probe::drift(theirs, now, Duration::from_millis(ago));
    assert_eq!(drift("2026-11-23T14:30:00.000+02:30", 0), Some(Duration::ZERO));
    assert_eq!(drift("2026-11-23T09:00:01-03:00", 0), Some(Duration::from_secs(1)));
    assert_eq!(drift("2026-11-23T11:59:59.75Z", 250), Some(Duration::ZERO));
    assert_eq!(drift("2026-11-23T11:59:58.999999999Z", 0), Some(Duration::new(1, 1)));
    for nonsense in ["", "2026-11-23", "2026-11-23T12:00:00", "2026-11-23T12:00:00+x", "20é6-11-23T12:00:00Z"]
    {
        assert_eq!(drift(nonsense, 0), None, "{nonsense}");
    }
}

#[test]
fn response_heads_are_read_in_any_pieces() {
    let wire = b"HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n";
    let mut input = BytesMut::new();
    for (at, byte) in wire.iter().enumerate() {
        input.extend_from_slice(&[*byte]);
        if let Some(head) = parse_head(&mut input, 16 << 10).unwrap() {
            assert_eq!((head.status, at), (200, wire.len() - 4));
            assert_eq!(headers::version(&head.headers, &headers::SERVER_VERSION), Some((3, 7)));
            assert!(input.is_empty());
            return;
        }
    }
    panic!("no head found");
}

#[test]
fn broken_and_endless_response_heads_are_errors() {
    assert!(parse_head(&mut BytesMut::from(&b"NOT HTTP\r\n\r\n"[..]), 16 << 10).is_err());
    assert!(parse_head(&mut BytesMut::from(&b"HTTP/1.1 200 OK\r\nA: ".repeat(2000)[..]), 16 << 10).is_err());
}

#[test]
fn appends_of_one_read_come_out_in_order() {
    // etcd 3.7.1 reverses the messages of a Ready; all of them are full messages then.
    let append = |index: u64| Message {
        r#type: Some(MessageType::MsgApp.into()),
        to: Some(1),
        from: Some(2),
        term: Some(5),
        log_term: Some(5),
        index: Some(index),
        entries: vec![Entry { term: Some(5), index: Some(index + 1), ..Default::default() }],
        commit: Some(3),
        ..Default::default()
    };
    let (mut encoder, mut body) = (crate::codec::Encoder::new(Kind::MsgApp), BytesMut::new());
    for index in [12, 11, 10] {
        encoder.encode(&append(index), &mut body);
    }
    let wire = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat();
    let mut receiver = Receiver::new(Kind::MsgApp, 1, 2, &Limits::default());
    receiver.feed(&wire).unwrap();
    let messages = receiver.take();
    assert!(receiver.take().is_empty());
    assert_eq!(messages.iter().map(Message::index).collect::<Vec<_>>(), [10, 11, 12]);
}
