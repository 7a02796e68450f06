//! What connections may hold, and what must not end them.

pub(crate) mod wire;

use super::{
    Server,
    frames::{KEEP_ALIVE, PUT, RANGE, WATCH},
    put, range,
};
use api::{InFlight, Limits};
use proto::etcdserverpb::{self as pb, watch_request::RequestUnion};
use std::{future::Future, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use wire::{Raw, call, data, headers, message, reset, window};

const PATIENCE: Duration = Duration::from_mins(1);

/// `ResourceExhausted` (8) in headers as h2 first encodes it on a connection: a Huffman code of one byte. Later it is
/// an index into the table.
const EXHAUSTED: [u8; 2] = [0x81, 0x7b];

fn is_told(seen: &wire::Seen) -> bool {
    seen.ended.values().any(|block| block.windows(2).any(|bytes| bytes == EXHAUSTED))
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it takes too long")
}

async fn metric(server: &Server, name: &str) -> u64 {
    let page = server.http("GET /metrics").await;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {page}"))
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_closed_and_those_that_are_there_go_on() {
    let limits = Limits { connections_max: 4, ..Limits::default() };
    let server = Server::with(0, limits).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(server.address).await.unwrap());
    }
    for _ in 0..20 {
        let mut beyond = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(beyond.read(&mut [0]).await.unwrap(), 0, "it is told at once");
    }
    server.put("k", "v").await;
    // A closed connection makes room for another.
    held.pop();
    sleep(Duration::from_millis(100)).await;
    let page = server.http("GET /metrics").await;
    assert!(page.contains("\nquorate_client_connections_refused_total 20\n"), "{page}");
    assert!(page.contains("\nquorate_client_connections 4\n"), "{page}");
}

/// A client that keeps 20,000 leases alive sends as many small frames, and the server may fall behind.
#[tokio::test]
async fn a_burst_of_small_messages_on_one_stream_is_no_attack() {
    const COUNT: usize = 20_000;
    let server = Server::start().await;
    let mut raw = Raw::connect(server.address, 1 << 30).await;
    let request = message(&pb::LeaseKeepAliveRequest { id: 7 });
    let mut burst = headers(1, KEEP_ALIVE);
    for _ in 0..COUNT {
        burst.extend(data(1, &request, false));
    }
    let create = pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    burst.extend(headers(3, WATCH));
    for _ in 0..COUNT {
        burst.extend(data(3, &message(&create), false));
    }
    raw.send(&burst).await;
    let one = |seen: &wire::Seen, stream| seen.bytes.get(&stream).copied().unwrap_or_default();
    // About 20 bytes each with the prefix.
    let all = raw.until(|seen| one(seen, 1) > COUNT * 15 && one(seen, 3) > COUNT * 15);
    let came = timeout(PATIENCE, all).await;
    assert!(came.is_ok(), "{:?}", raw.seen);
    assert_eq!(raw.seen.goaway, None);
    assert!(raw.seen.ended.is_empty(), "{:?}", raw.seen.ended);
}

/// The deadlines passed while the server was paused.
#[tokio::test]
async fn three_thousand_calls_that_were_given_up_end_neither_the_connection_nor_its_watch() {
    let server = Server::start().await;
    let mut raw = Raw::connect(server.address, 1 << 30).await;
    let create = pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    raw.send(&[headers(1, WATCH), data(1, &message(&create), false)].concat()).await;
    soon(raw.until(|seen| seen.bytes.contains_key(&1))).await;
    let created = raw.seen.bytes[&1];
    let calls = |from: u32, count: u32| {
        let streams = (0..count).map(move |number| from + 2 * number);
        let call = |stream| call(stream, PUT, &put("a", "b"));
        streams.clone().flat_map(call).chain(streams.flat_map(reset)).collect::<Vec<u8>>()
    };
    // All of it arrives before the server runs, since it shares this thread.
    raw.send_beside(calls(3, 3_000), Duration::from_millis(500)).await;
    server.put("k", "v").await;
    soon(raw.until(|seen| seen.bytes[&1] > created)).await;
    assert_eq!(raw.seen.goaway, None);
}

/// 100,000 calls reset at once (CVE-2023-44487): the attacker is slowed down, other clients are served.
#[tokio::test]
async fn rapid_resets_do_not_keep_others_away() {
    let server = Server::start().await;
    let mut raw = Raw::connect(server.address, 1 << 30).await;
    let flood: Vec<u8> =
        (0..100_000).flat_map(|n| [headers(1 + 2 * n, PUT), reset(1 + 2 * n)].concat()).collect();
    let flooding = tokio::spawn(async move {
        let mut sent = raw.write;
        let (sending, mut buffer) = (sent.write_all(&flood), [0; 4_096]);
        tokio::pin!(sending);
        let mut is_sent = false;
        loop {
            tokio::select! {
                _ = &mut sending, if !is_sent => is_sent = true,
                read = raw.read.read(&mut buffer) => if read.unwrap_or(0) == 0 { return is_sent },
            }
        }
    });
    for number in 0..50 {
        soon(server.kv().put(put(&number.to_string(), "v"))).await.unwrap();
    }
    flooding.abort();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let values = InFlight { connection_bytes: 1 << 20, ..InFlight::values() };
    let server = Server::with(0, Limits { values, ..Limits::default() }).await;
    server.put("0", &"v".repeat(10 << 10)).await;
    let mut raw = Raw::connect(server.address, 1 << 30).await;
    let call = |stream| call(stream, RANGE, &range("0", ""));
    let mut sent = 0;
    let stuck = timeout(Duration::from_secs(5), async {
        for number in 0..1_000_000 {
            let frames = call(1 + 2 * number);
            raw.send(&frames).await;
            sent += frames.len();
        }
    });
    assert!(stuck.await.is_err(), "{sent} bytes were taken from a client that reads nothing");
    let held = metric(&server, "quorate_in_flight_bytes{kind=\"values\"}").await;
    assert!(held < 2 << 20, "{held} bytes of {sent} that asked for them");
    server.put("k", "v").await;
}

/// Puts whose last byte never comes.
#[tokio::test]
async fn half_sent_requests_are_bounded_and_others_are_served() {
    let requests = InFlight {
        total_bytes: 2 << 20,
        connection_bytes: 1 << 20,
        stall: Duration::from_millis(200),
        ..InFlight::default()
    };
    let server = Server::with(0, Limits { requests, ..Limits::default() }).await;
    let large = message(&put("large", &"v".repeat(300 << 10)));
    let mut half = Vec::new();
    for number in 0..8 {
        let stream = 1 + 2 * number;
        half.extend(headers(stream, PUT));
        for piece in large[..large.len() - 1].chunks(16 << 10) {
            half.extend(data(stream, piece, false));
        }
    }
    let mut one = Raw::connect(server.address, 1 << 30).await;
    let mut other = Raw::connect(server.address, 1 << 30).await;
    one.send(&half).await;
    // Three fit into the connection's 1 MiB; the others are refused, and their bytes freed.
    soon(one.until(|seen| seen.ended.len() == 5)).await;
    assert!(is_told(&one.seen), "{:?}", one.seen.ended);
    let held = metric(&server, "quorate_in_flight_bytes{kind=\"requests\"}").await;
    assert!((800_000..1 << 20).contains(&held), "{held}");
    // Small requests and complete ones are served.
    server.put("small", "v").await;
    server.put("large", &"v".repeat(300 << 10)).await;
    // When others need the room, stalled requests lose theirs.
    other.send(&half).await;
    soon(one.until(|seen| seen.ended.len() == 8)).await;
    soon(other.until(|seen| seen.ended.len() >= 5)).await;
    drop((one, other));
    soon(async {
        while metric(&server, "quorate_in_flight_bytes{kind=\"requests\"}").await > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// The same as JSON over HTTP/1.1.
#[tokio::test]
async fn half_sent_json_is_bounded() {
    let requests = InFlight {
        total_bytes: 1 << 20,
        connection_bytes: 400 << 10,
        stall: Duration::from_millis(200),
        ..InFlight::default()
    };
    let server = Server::with(0, Limits { requests, ..Limits::default() }).await;
    let head = "POST /v3/kv/put HTTP/1.1\r\nHost: q\r\nContent-Length: 900000\r\n\r\n{\"key\":\"";
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'a'; 300 << 10]).await.unwrap();
        streams.push(stream);
    }
    let mut refused = 0;
    for stream in &mut streams {
        let mut answer = [0; 1_024];
        if let Ok(Ok(length)) = timeout(Duration::from_secs(2), stream.read(&mut answer)).await {
            let text = String::from_utf8_lossy(&answer[..length]).into_owned();
            assert!(
                text.starts_with("HTTP/1.1 429 ") && text.contains("etcdserver: too many requests"),
                "{text}"
            );
            refused += 1;
        }
    }
    assert!(refused >= 2, "{refused}");
    server.put("k", "v").await;
}

#[tokio::test]
async fn unread_lists_are_bounded_and_give_way_to_those_that_are_read() {
    let answers = InFlight { total_bytes: 1 << 20, stall: Duration::from_millis(200), ..InFlight::default() };
    let server = Server::with(0, Limits { answers, ..Limits::default() }).await;
    for number in 0..300 {
        server.put(&number.to_string(), &"v".repeat(3 << 10)).await;
    }
    // Its windows never open.
    let mut raw = Raw::connect(server.address, 0).await;
    for number in 0..10 {
        raw.send(&call(1 + 2 * number, RANGE, &range("0", "9"))).await;
    }
    sleep(Duration::from_millis(150)).await;
    let held = metric(&server, "quorate_in_flight_bytes{kind=\"answers\"}").await;
    // One list, and those that started at the same time.
    assert!((900_000..4 << 20).contains(&held), "{held}");
    // Small reads never wait; a list waits for stalled ones, but not for ever.
    server.put("k", "v").await;
    for number in 0..3 {
        let list = timeout(PATIENCE, server.kv().range(range("0", "9"))).await;
        let list = list.unwrap_or_else(|_| panic!("list {number} waits")).unwrap().into_inner();
        assert_eq!(list.kvs.len(), 289);
    }
    // The stalled ones have failed.
    for number in 0..10 {
        raw.send(&window(1 + 2 * number, 1 << 20)).await;
    }
    let all = timeout(PATIENCE, raw.until(|seen| seen.ended.len() == 10)).await;
    assert!(all.is_ok(), "{:?}", raw.seen);
    assert!(is_told(&raw.seen), "{:?}", raw.seen.ended);
    assert!(metric(&server, "quorate_in_flight_refused_total{kind=\"answers\"}").await >= 1);
}

#[tokio::test]
async fn a_connection_that_reads_nothing_waits_for_itself() {
    let values = InFlight { connection_bytes: 1 << 20, ..InFlight::values() };
    let server = Server::with(0, Limits { values, ..Limits::default() }).await;
    server.put("0", &"v".repeat(30 << 10)).await;
    let mut raw = Raw::connect(server.address, 0).await;
    for number in 0..200 {
        raw.send(&call(1 + 2 * number, RANGE, &range("0", ""))).await;
    }
    sleep(Duration::from_millis(300)).await;
    let held = metric(&server, "quorate_in_flight_bytes{kind=\"values\"}").await;
    assert!(((1 << 20)..(1 << 20) + (64 << 10)).contains(&held), "{held}");
    for _ in 0..10 {
        soon(server.kv().range(range("0", ""))).await.unwrap();
    }
    // Once it reads, all of them arrive.
    for number in 0..200 {
        raw.send(&window(1 + 2 * number, 1 << 20)).await;
    }
    soon(raw.until(|seen| seen.ended.len() == 200)).await;
    assert!(raw.seen.bytes.values().all(|bytes| *bytes > 30 << 10));
    assert_eq!(metric(&server, "quorate_in_flight_bytes{kind=\"values\"}").await, 0);
}

/// Its requests are not read either: HTTP/2's windows hold them back.
#[tokio::test]
async fn puts_of_a_connection_that_reads_nothing_are_not_taken_and_not_lost() {
    let values = InFlight { connection_bytes: 256 << 10, ..InFlight::values() };
    let server = Server::with(0, Limits { values, ..Limits::default() }).await;
    server.put("0", &"v".repeat(30 << 10)).await;
    let mut raw = Raw::connect(server.address, 0).await;
    for number in 0..20 {
        raw.send(&call(1 + 2 * number, RANGE, &range("0", ""))).await;
    }
    let look = Duration::from_millis(300);
    let _ = timeout(look, raw.until(|_| false)).await;
    let (before, taken) = (server.node.machine().view().revision(), raw.seen.window);
    // Complete, and as many as the windows allow.
    let large = put("large", &"v".repeat(120 << 10));
    for number in 20..50 {
        raw.send(&call(1 + 2 * number, PUT, &large)).await;
    }
    let _ = timeout(look, raw.until(|_| false)).await;
    assert_eq!(server.node.machine().view().revision(), before, "they wait");
    assert_eq!(raw.seen.window, taken, "they are not taken");
    // Other clients are served, and so is this one once it reads.
    server.put("other", &"v".repeat(120 << 10)).await;
    for number in 0..20 {
        raw.send(&window(1 + 2 * number, 1 << 20)).await;
    }
    soon(raw.until(|seen| seen.ended.len() == 20)).await;
    soon(async {
        while server.node.machine().view().revision() < before + 31 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A connection with unread lists holds only its own part; a medium read of another client does not wait.
#[tokio::test]
async fn unread_lists_of_one_connection_leave_room_to_all_others() {
    let server = Server::start().await;
    for number in 0..4 {
        server.put(&number.to_string(), &"v".repeat(1_000 << 10)).await;
    }
    server.put("medium", &"v".repeat(70 << 10)).await;
    let mut raw = Raw::connect(server.address, 0).await;
    for number in 0..40 {
        raw.send(&call(1 + 2 * number, RANGE, &range("0", "9"))).await;
    }
    sleep(Duration::from_millis(500)).await;
    let held = metric(&server, "quorate_in_flight_bytes{kind=\"answers\"}").await;
    assert!(((40 << 20)..(60 << 20)).contains(&held), "{held}: 48 MiB, and what was made beside");
    for _ in 0..10 {
        let read = timeout(Duration::from_secs(1), server.kv().range(range("medium", ""))).await;
        assert_eq!(read.expect("nobody is in its way").unwrap().into_inner().kvs.len(), 1);
    }
}
