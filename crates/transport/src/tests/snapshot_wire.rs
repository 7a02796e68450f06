//! The requests that carry snapshots, byte by byte, and receivers that behave badly: raw sockets in place of the other member.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use prost::Message as _;
use proto::raftpb::{ConfState, Message};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::{
    databases::{Plan, Source, content, made, metric, statuses, sum, wanted},
    world::{CLUSTER, Node, until, within},
};
use crate::{Limits, chunk::ChunkDecoder};

const OTHER: u64 = 0xb2;

/// A member with these limits and a peer that is only a socket.
async fn beside_a_socket(limits: Limits) -> (Node, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let a = Node::with(0xa1, CLUSTER, limits).await;
    a.transport.update_peers(&[(OTHER, vec![format!("http://{}", listener.local_addr().unwrap())])]);
    (a, listener)
}

/// The connection whose request begins with the POST of a snapshot, and what was read of it: at least the head. Others are
/// closed: those of streams and probes.
async fn posted(listener: &TcpListener) -> (TcpStream, Vec<u8>) {
    let find = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.windows(4).any(|end| end == b"\r\n\r\n") {
                if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            if read.starts_with(b"POST /raft/snapshot ") {
                return (stream, read);
            }
        }
    };
    within(Duration::from_secs(5), find).await
}

/// Reads a chunked body to its end.
async fn read_to_the_end(stream: &mut TcpStream, read: &mut Vec<u8>) {
    let end = async {
        loop {
            let head = read.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
            let mut decoder = ChunkDecoder::default();
            decoder.feed(&read[head..], &mut BytesMut::new()).unwrap();
            if decoder.is_done() {
                return;
            }
            assert!(stream.read_buf(read).await.unwrap() > 0, "cut");
        }
    };
    within(Duration::from_secs(5), end).await;
}

async fn answer(stream: &mut TcpStream, status: &str, text: &str) {
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    // It may have gone meanwhile.
    let _ = stream.write_all(answer.as_bytes()).await;
}

fn failures(node: &Node) -> Vec<String> {
    node.lines.with("failed to send database snapshot")
}

#[tokio::test]
async fn the_request_is_etcds_and_a_trailer() {
    let (a, listener) = beside_a_socket(Limits::default()).await;
    Source::of(&a, Plan { piece: 1_000, ..Plan::of(2_500) });
    a.transport.send(vec![wanted(a.id, OTHER)]);
    let (mut stream, mut read) = posted(&listener).await;
    read_to_the_end(&mut stream, &mut read).await;
    let at = read.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(read[..at].to_vec()).unwrap();
    let (line, fields) = head.split_once("\r\n").unwrap();
    assert_eq!(line, "POST /raft/snapshot HTTP/1.1");
    let mut fields: Vec<&str> = fields.split("\r\n").collect();
    fields.sort_unstable();
    let expected = [
        "content-type: application/octet-stream".to_owned(),
        format!("host: {}", listener.local_addr().unwrap()),
        "trailer: X-Quorate-Sha256".to_owned(),
        "transfer-encoding: chunked".to_owned(),
        "x-etcd-cluster-id: c1".to_owned(),
        "x-min-cluster-version: 3.0.0".to_owned(),
        format!("x-peerurls: {}", a.url),
        "x-server-from: a1".to_owned(),
        "x-server-version: 3.7.3".to_owned(),
    ];
    assert_eq!(fields, expected);
    let mut body = BytesMut::new();
    ChunkDecoder::default().feed(&read[at + 4..], &mut body).unwrap();
    let message = made(wanted(a.id, OTHER));
    // The message by hand, in the order of its fields, as Go writes it: type, to, from, term, snapshot.
    let conf_state = ConfState { voters: vec![0xa1, 0xb2], ..Default::default() }.encode_to_vec();
    let metadata =
        [&[0x0a, u8::try_from(conf_state.len()).unwrap()][..], &conf_state, &[0x10, 57, 0x18, 3]].concat();
    let snapshot = [&b"\x0a\x02{}\x12"[..], &[u8::try_from(metadata.len()).unwrap()], &metadata].concat();
    let fields = [
        &b"\x08\x07\x10\xb2\x01\x18\xa1\x01\x20\x03\x4a"[..],
        &[u8::try_from(snapshot.len()).unwrap()],
        &snapshot,
    ];
    let encoded = fields.concat();
    assert_eq!(Message::decode(&encoded[..]).unwrap(), message);
    let expected = [&(encoded.len() as u64).to_be_bytes()[..], &encoded, &content(0, 2_500)].concat();
    assert!(body == expected, "{} bytes instead of {}", body.len(), expected.len());
    let end = format!("\r\n0\r\nx-quorate-sha256: {}\r\n\r\n", sum(2_500));
    assert!(read.ends_with(end.as_bytes()));
    assert!(statuses(&a).is_empty(), "before the answer");
    answer(&mut stream, "204 No Content", "").await;
    until("it is told", || statuses(&a) == [(OTHER, true)]).await;
}

#[tokio::test]
async fn only_204_after_the_last_byte_is_success() {
    let limits = Limits { snapshot_retry: Duration::from_millis(10), ..Limits::default() };
    let (a, listener) = beside_a_socket(limits).await;
    let source = Source::of(&a, Plan::of(1_000));
    for (status, text, why) in [
        ("200 OK", "", "unexpected http status 200"),
        ("500 Internal Server Error", "failed to save KV snapshot (x)", "failed to save KV snapshot (x)"),
        ("400 Bad Request", "wrong raft message type", "wrong raft message type"),
        ("412 Precondition Failed", "cluster ID mismatch", "cluster ID mismatch"),
        ("404 Not Found", "404 page not found", "unexpected http status 404"),
    ] {
        a.transport.send(vec![wanted(a.id, OTHER)]);
        let (mut stream, mut read) = posted(&listener).await;
        read_to_the_end(&mut stream, &mut read).await;
        answer(&mut stream, status, text).await;
        until("it is told", || statuses(&a) == vec![(OTHER, false); source.asked()]).await;
        assert!(failures(&a).last().unwrap().contains(why), "{:#?}", failures(&a));
    }
    assert_eq!(a.host.rejected.load(Ordering::Relaxed), 0);
    a.transport.send(vec![wanted(a.id, OTHER)]);
    let (mut stream, _) = posted(&listener).await;
    answer(&mut stream, "403 Forbidden", "").await;
    until("it was removed", || a.host.rejected.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn an_answer_before_the_last_byte_ends_it() {
    for (status, why) in [
        ("412 Precondition Failed", "incompatible version"),
        ("204 No Content", "the peer answered before it had everything"),
    ] {
        let (a, listener) = beside_a_socket(Limits::default()).await;
        let source = Source::of(&a, Plan::of(64 << 20));
        a.transport.send(vec![wanted(a.id, OTHER)]);
        let (mut stream, _) = posted(&listener).await;
        let begun = Instant::now();
        answer(&mut stream, status, if status.starts_with("204") { "" } else { "incompatible version\n" })
            .await;
        until("the host heard", || source.ended() == 1).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        until("it is told", || statuses(&a) == [(OTHER, false)]).await;
        assert!(failures(&a).len() == 1 && failures(&a)[0].contains(why), "{:#?}", failures(&a));
    }
}

/// What it has taken does not matter: it must go on.
#[tokio::test]
async fn a_receiver_that_takes_nothing_more_is_given_up() {
    let limits = Limits {
        snapshot_stall: Duration::from_millis(400),
        snapshot_retry: Duration::from_millis(10),
        ..Limits::default()
    };
    let (a, listener) = beside_a_socket(limits).await;
    let source = Source::of(&a, Plan::of(64 << 20));
    a.transport.send(vec![wanted(a.id, OTHER)]);
    let (mut stream, mut read) = posted(&listener).await;
    let begun = Instant::now();
    // As long as it reads, however slowly, it is waited for.
    while begun.elapsed() < Duration::from_secs(2) {
        let mut piece = vec![0; 1 << 20];
        let length = stream.read(&mut piece).await.unwrap();
        read.extend(&piece[..length]);
        sleep(Duration::from_millis(100)).await;
    }
    assert!(statuses(&a).is_empty());
    until("it is told", || statuses(&a) == [(OTHER, false)]).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(failures(&a)[0].contains("peer connection deadline"), "{:#?}", failures(&a));
    until("the host heard", || source.ended() == 1).await;
    assert!(a.host.unreachable.lock().unwrap().contains(&OTHER));
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up() {
    let limits = Limits {
        snapshot_answer: Duration::from_millis(600),
        snapshot_retry: Duration::from_millis(10),
        ..Limits::default()
    };
    let (a, listener) = beside_a_socket(limits).await;
    // The time counts from the last byte.
    Source::of(&a, Plan { piece: 100, pause: Duration::from_millis(100), ..Plan::of(1_000) });
    a.transport.send(vec![wanted(a.id, OTHER)]);
    let (mut stream, mut read) = posted(&listener).await;
    read_to_the_end(&mut stream, &mut read).await;
    let begun = Instant::now();
    until("it is told", || statuses(&a) == [(OTHER, false)]).await;
    let took = begun.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(2)).contains(&took), "{took:?}");
    assert!(failures(&a)[0].contains("no answer within 600ms after the last byte"), "{:#?}", failures(&a));
}

#[tokio::test]
async fn a_receiver_that_goes_away_or_speaks_no_http_is_told_of() {
    let limits = Limits { snapshot_retry: Duration::from_millis(10), ..Limits::default() };
    let (a, listener) = beside_a_socket(limits).await;
    let source = Source::of(&a, Plan::of(64 << 20));
    for garbage in [
        &b""[..],
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 100\r\n\r\ncut",
    ] {
        a.transport.send(vec![wanted(a.id, OTHER)]);
        let (mut stream, _) = posted(&listener).await;
        stream.write_all(garbage).await.unwrap();
        drop(stream);
        until("it is told", || statuses(&a) == vec![(OTHER, false); source.asked()]).await;
    }
    assert_eq!((source.asked(), failures(&a).len()), (3, 3), "{:#?}", failures(&a));
    assert_eq!(metric(&a, "etcd_network_snapshot_send_failures{To=\"b2\"}"), Some(3.0));
    until("the hosts heard", || source.ended() == 3).await;
}

/// A URL that fails gives way to the next, as everywhere.
#[tokio::test]
async fn a_snapshot_finds_the_url_that_works() {
    let minute = Duration::from_mins(1);
    // Streams are dialled once, while there is one URL: what finds the second is a snapshot.
    let limits = Limits { redial: minute, snapshot_retry: Duration::from_millis(10), ..Limits::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let a = Node::with(0xa1, CLUSTER, limits).await;
    let urls = [1, listener.local_addr().unwrap().port()].map(|port| format!("http://127.0.0.1:{port}"));
    a.transport.update_peers(&[(OTHER, urls[..1].to_vec())]);
    until("both were dialled", || a.lines.with("failed to dial stream").len() == 2).await;
    a.transport.update_peers(&[(OTHER, urls.to_vec())]);
    Source::of(&a, Plan::of(1_000));
    a.transport.send(vec![wanted(a.id, OTHER)]);
    until("it is told", || statuses(&a) == [(OTHER, false)]).await;
    a.transport.send(vec![wanted(a.id, OTHER)]);
    let (mut stream, mut read) = posted(&listener).await;
    read_to_the_end(&mut stream, &mut read).await;
    answer(&mut stream, "204 No Content", "").await;
    until("it is told", || statuses(&a) == [(OTHER, false), (OTHER, true)]).await;
}
