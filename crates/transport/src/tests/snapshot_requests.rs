//! What anybody may post to `/raft/snapshot`, over raw sockets.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    time::sleep,
};

use super::{
    databases::{Habit, Sink, content, metric, sum, wanted},
    world::{CLUSTER, Node, raw, until, within},
};
use crate::Limits;

/// The head of a chunked request from member a1, with these headers more.
fn head(more: &str) -> String {
    head_from(0xa1, more)
}

fn head_from(sender: u64, more: &str) -> String {
    format!(
        "POST /raft/snapshot HTTP/1.1\r\nHost: x\r\nX-Server-From: {sender:x}\r\nX-Server-Version: 3.7.3\r\n\
         X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: {CLUSTER:x}\r\nContent-Type: application/octet-stream\r\n\
         {more}Transfer-Encoding: chunked\r\n\r\n"
    )
}

fn framed(message: &Message, database: &[u8]) -> Vec<u8> {
    let message = message.encode_to_vec();
    [&(message.len() as u64).to_be_bytes()[..], &message, database].concat()
}

fn chunks(body: &[u8], size: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in body.chunks(size) {
        wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
        wire.extend(chunk);
        wire.extend(b"\r\n");
    }
    wire
}

/// A whole request; `trailer` with its line end.
fn request(more: &str, body: &[u8], size: usize, trailer: &str) -> Vec<u8> {
    let head = format!("Connection: close\r\n{more}");
    [self::head(&head).as_bytes(), &chunks(body, size), format!("0\r\n{trailer}\r\n").as_bytes()].concat()
}

/// Status and text of the answer.
async fn answer(node: &Node, request: &[u8]) -> (u16, String) {
    let answer = raw(node.authority(), request, |_| false).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    assert!(status == Some(204) || head.to_lowercase().contains("\r\nx-etcd-cluster-id: c1"), "{head}");
    (status.unwrap_or(0), body.to_owned())
}

/// The pause before a refusal.
const RETRY: Duration = Duration::from_millis(10);

async fn quick() -> Node {
    let limits = Limits { snapshot_retry: RETRY, ..Limits::default() };
    Node::with(0xb2, CLUSTER, limits).await
}

#[tokio::test]
async fn a_checksum_is_compared_if_there_is_one() {
    let node = quick().await;
    let sink = Sink::of(&node, Habit::default());
    let bytes = 300_000;
    let body = framed(&wanted(0xa1, 0xb2), &content(0, 300_000));
    let announced = "Trailer: X-Quorate-Sha256\r\n";
    let trailer = |sum: &str| format!("x-quorate-sha256: {sum}\r\n");
    let ok = (204, String::new());
    assert_eq!(answer(&node, &request(announced, &body, 7_000, &trailer(&sum(bytes)))).await, ok);
    let upper = "trailer: X-Other, X-QUORATE-SHA256\r\n";
    let in_capitals = format!("X-Quorate-SHA256: {}\r\nX-Other: 1\r\n", sum(bytes).to_uppercase());
    assert_eq!(answer(&node, &request(upper, &body, 7_000, &in_capitals)).await, ok);
    // As etcd's; as if somebody between had dropped it; and not announced.
    assert_eq!(answer(&node, &request("", &body, 7_000, "")).await, ok);
    assert_eq!(answer(&node, &request(announced, &body, 7_000, "")).await, ok);
    assert_eq!(answer(&node, &request("", &body, 7_000, &trailer(&sum(1)))).await, ok);
    assert_eq!(sink.taken().len(), 5);
    assert!(
        sink.taken()
            .iter()
            .all(|taken| (taken.bytes, &taken.sum, &taken.error) == (bytes, &sum(bytes), &None))
    );
    for wrong in [sum(1), String::new(), "x".repeat(3_000)] {
        let (status, text) = answer(&node, &request(announced, &body, 7_000, &trailer(&wrong))).await;
        let why = format!("the database was changed on its way: expected sha256 {wrong}, got {}", sum(bytes));
        assert_eq!((status, text), (500, format!("failed to save KV snapshot ({why})\n")));
        assert_eq!(sink.taken().last().unwrap().error, Some(why));
    }
    // A changed database.
    let mut changed = body.clone();
    *changed.last_mut().unwrap() ^= 1;
    let (status, _) = answer(&node, &request(announced, &changed, 7_000, &trailer(&sum(bytes)))).await;
    assert_eq!(status, 500);
}

#[tokio::test]
async fn bodies_in_pieces_of_any_size_are_read() {
    let node = quick().await;
    let sink = Sink::of(&node, Habit::default());
    let body = framed(&wanted(0xa1, 0xb2), &content(0, 5_000));
    for size in [1, 7, 8, 9, 30, 31, 1_000, 100_000] {
        let answer = answer(&node, &request("", &body, size, "")).await;
        assert_eq!((answer, size), ((204, String::new()), size));
        let taken = sink.taken().pop().unwrap();
        assert_eq!((taken.message, taken.bytes, taken.sum), (wanted(0xa1, 0xb2), 5_000, sum(5_000)));
    }
    // With a length instead of chunks.
    let plain = head(&format!("Connection: close\r\nContent-Length: {}\r\n", body.len()));
    let plain = plain.replace("Transfer-Encoding: chunked\r\n", "");
    assert_eq!(answer(&node, &[plain.as_bytes(), &body].concat()).await.0, 204);
    assert_eq!(sink.taken().len(), 9);
}

#[tokio::test]
async fn what_is_no_snapshot_for_this_member_never_reaches_the_host() {
    let node = quick().await;
    let sink = Sink::of(&node, Habit::default());
    let check = async |message: &Message, status: u16, text: &str| {
        let body = framed(message, &content(0, 200_000));
        assert_eq!(answer(&node, &request("", &body, 60_000, "")).await, (status, format!("{text}\n")));
    };
    let good = wanted(0xa1, 0xb2);
    for kind in [MessageType::MsgApp, MessageType::MsgHeartbeat, MessageType::MsgHup] {
        let other = Message { r#type: Some(kind.into()), ..good.clone() };
        check(&other, 400, "wrong raft message type").await;
    }
    check(&Message { r#type: Some(99), ..good.clone() }, 400, "wrong raft message type").await;
    let mismatch = "failed to process raft message (cannot process message to mismatch member)";
    check(&wanted(0xa1, 0xb3), 500, mismatch).await;
    let stranger = "failed to process raft message (cannot process message in another member's name)";
    check(&wanted(0xa2, 0xb2), 500, stranger).await;
    node.host.removed.lock().unwrap().insert(0xa1);
    let removed = "failed to process raft message (cannot process message from removed member)";
    check(&good, 500, removed).await;
    node.host.removed.lock().unwrap().clear();
    assert_eq!(sink.begun.load(Ordering::Relaxed), 0);
    let unknown = "etcd_network_snapshot_receive_failures{From=\"UNKNOWN_SNAPSHOT_SENDER\"}";
    assert_eq!(metric(&node, unknown), Some(7.0));
    // Other clusters are refused first.
    let other = String::from_utf8(request("", b"", 1, "")).unwrap().replace("ID: c1", "ID: c2");
    assert_eq!(answer(&node, other.as_bytes()).await, (412, "cluster ID mismatch\n".to_owned()));
    assert_eq!(metric(&node, unknown), Some(8.0));
    let whole = request("", &framed(&good, b""), 1_000, "");
    assert_eq!(answer(&node, &whole).await, (204, String::new()));
}

#[tokio::test]
async fn what_is_no_message_is_refused_with_gos_words() {
    let node = quick().await;
    let decode = |why: &str| (400, format!("failed to decode raft message ({why})\n"));
    let check = async |body: &[u8]| answer(&node, &request("", body, 1_000, "")).await;
    assert_eq!(check(b"").await, decode("EOF"));
    assert_eq!(check(&[0; 3]).await, decode("unexpected EOF"));
    assert_eq!(check(&[0, 0, 0, 0, 0, 0, 0, 9]).await, decode("EOF"));
    assert_eq!(check(&[0, 0, 0, 0, 0, 0, 0, 9, 1]).await, decode("unexpected EOF"));
    for announced in [(64_u64 << 20) + 1, 1 << 40, u64::MAX] {
        assert_eq!(check(&announced.to_be_bytes()).await, decode("rafthttp: error limit exceeded"));
    }
    // The longest one: nothing is reserved for it.
    assert_eq!(check(&[&(64_u64 << 20).to_be_bytes()[..], b"x"].concat()).await, decode("unexpected EOF"));
    let (status, text) = check(&[0, 0, 0, 0, 0, 0, 0, 2, 0xff, 0xff, 1, 2, 3]).await;
    assert!(status == 400 && text.starts_with("failed to decode raft message (failed to decode"), "{text}");
    // No message at all is of type MsgHup.
    assert_eq!(check(&[0; 8]).await, (400, "wrong raft message type\n".to_owned()));
    let unknown = "etcd_network_snapshot_receive_failures{From=\"UNKNOWN_SNAPSHOT_SENDER\"}";
    assert_eq!(metric(&node, unknown), Some(10.0));
}

/// A sender whose requests end anywhere: each gets an answer or is cut, and none holds the turn.
#[tokio::test]
async fn requests_that_are_cut_anywhere_leave_nothing_behind() {
    let node = quick().await;
    let sink = Sink::of(&node, Habit::default());
    let body = framed(&wanted(0xa1, 0xb2), &content(0, 600));
    let trailer = format!("x-quorate-sha256: {}\r\n", sum(600));
    let whole = request("Trailer: X-Quorate-Sha256\r\n", &body, 100, &trailer);
    for length in (0..whole.len()).step_by(13).chain(whole.len() - 3..whole.len()) {
        let mut stream = TcpStream::connect(node.authority()).await.unwrap();
        stream.write_all(&whole[..length]).await.unwrap();
        drop(stream);
    }
    // The last ones may still be looked at.
    within(Duration::from_secs(5), async { while answer(&node, &whole).await.0 != 204 {} }).await;
    let ends: Vec<_> = sink.taken().into_iter().map(|taken| taken.error).collect();
    let (last, cut) = ends.split_last().unwrap();
    assert!(last.is_none() && cut.len() > 10 && cut.iter().all(Option::is_some), "{ends:?}");
    assert_eq!(node.transport.peers().context().receiving.available_permits(), 1);
}

#[tokio::test]
async fn garbage_in_the_chunks_is_an_error_of_the_database() {
    let node = quick().await;
    let sink = Sink::of(&node, Habit::default());
    let front = chunks(&framed(&wanted(0xa1, 0xb2), b"begun"), 1_000);
    let garbage: &[&[u8]] = &[
        b"xyz\r\n",
        b"ffffffffffffffffff\r\n",
        b"3\r\nabcde\r\n",
        b"0\r\nno header\r\n\r\n",
        &[b"0\r\nA: ", &b"a".repeat(70_000)[..], b"\r\n\r\n"].concat(),
        &[b"1;", &b"a".repeat(70_000)[..], b"\r\n"].concat(),
    ];
    for (number, garbage) in garbage.iter().enumerate() {
        let (status, text) = answer(&node, &[head("").as_bytes(), &front, garbage].concat()).await;
        assert!(status == 500 && text.starts_with("failed to save KV snapshot ("), "{status} {text}");
        assert_eq!(sink.taken().len(), number + 1);
        assert!(sink.taken()[number].error.is_some() && sink.taken()[number].bytes <= 8);
    }
}

#[tokio::test]
async fn one_snapshot_is_received_at_a_time() {
    let node = quick().await;
    let gate = Arc::new(Notify::new());
    let sink = Sink::of(&node, Habit { gate: Some(Arc::clone(&gate)), ..Habit::default() });
    let whole = request("", &framed(&wanted(0xa1, 0xb2), &content(0, 600)), 1_000, "");
    let busy = (500, "failed to save KV snapshot (another snapshot is being received)\n".to_owned());
    let first = answer(&node, &whole);
    let others = async {
        until("it is under way", || sink.read() > 0).await;
        let begun = Instant::now();
        for _ in 0..3 {
            assert_eq!(answer(&node, &whole).await, busy);
        }
        assert!(begun.elapsed() >= 3 * RETRY, "its sender asks again at once");
        gate.notify_one();
    };
    let (first, ()) = tokio::join!(first, others);
    assert_eq!(first.0, 204);
    gate.notify_one();
    assert_eq!(answer(&node, &whole).await.0, 204);
    assert_eq!(sink.taken().len(), 2);
}

#[tokio::test]
async fn a_sender_that_falls_silent_is_cut_wherever_it_is() {
    let deadline = Duration::from_millis(300);
    let limits =
        Limits { deadline, heartbeat: deadline / 4, snapshot_retry: deadline / 10, ..Limits::default() };
    let node = Node::with(0xb2, CLUSTER, limits).await;
    let sink = Sink::of(&node, Habit::default());
    let body = framed(&wanted(0xa1, 0xb2), &content(0, 600));
    let front = body.len() - 600;
    for (length, text) in [
        (3, "failed to decode raft message (i/o timeout)\n"),
        (front - 1, "failed to decode raft message (i/o timeout)\n"),
        (front, "failed to save KV snapshot (i/o timeout)\n"),
        (front + 500, "failed to save KV snapshot (i/o timeout)\n"),
        (front + 600, "failed to save KV snapshot (i/o timeout)\n"),
    ] {
        let begun = Instant::now();
        let answer =
            raw(node.authority(), &[head("").as_bytes(), &chunks(&body[..length], 50)].concat(), |_| false)
                .await;
        assert!(answer.ends_with(text), "{length}: {answer}");
        let took = begun.elapsed();
        assert!((deadline..deadline * 6).contains(&took), "{length}: {took:?}");
    }
    assert_eq!(sink.taken().len(), 3);
}

#[tokio::test]
async fn a_message_that_comes_slowly_or_with_too_many_others_is_refused() {
    let limits = Limits {
        body: Duration::from_millis(300),
        deadline: Duration::from_millis(200),
        bodies_bytes: 1_500,
        ..Limits::default()
    };
    let node = Node::with(0xb2, CLUSTER, limits).await;
    let mut long = wanted(0xa1, 0xb2);
    long.context = Some(content(0, 2_000));
    let body = framed(&long, b"");
    let crowded = "failed to decode raft message (the bodies of all requests are too large together)\n";
    assert_eq!(answer(&node, &request("", &body, 100, "")).await, (400, crowded.to_owned()));
    let mut stream = TcpStream::connect(node.authority()).await.unwrap();
    stream.write_all(head("").as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let writing = async {
        for byte in body {
            write.write_all(&chunks(&[byte], 1)).await.ok();
            sleep(Duration::from_millis(20)).await;
        }
    };
    let reading = async { while read.read_buf(&mut answer).await.unwrap_or(0) > 0 {} };
    within(Duration::from_secs(4), async {
        tokio::select! {
            () = writing => panic!("it is read to its end"),
            () = reading => {}
        }
    })
    .await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.ends_with("failed to decode raft message (i/o timeout)\n"), "{answer}");
}

/// The answer is there before the rest is written; and who writes on for ever is cut.
#[tokio::test]
async fn a_refused_sender_that_does_not_stop_is_cut() {
    let deadline = Duration::from_millis(500);
    let limits =
        Limits { deadline, heartbeat: deadline / 4, snapshot_retry: deadline / 10, ..Limits::default() };
    let node = Node::with(0xb2, CLUSTER, limits).await;
    let mut stream = TcpStream::connect(node.authority()).await.unwrap();
    let front = chunks(&framed(&wanted(0xa1, 0xb2), b"begun"), 1_000);
    stream.write_all(&[head("").as_bytes(), &front].concat()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let begun = Instant::now();
    let writing = async {
        let chunk = chunks(&content(0, 1_000), 1_000);
        while write.write_all(&chunk).await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    };
    let reading = async {
        let (mut answer, mut at) = (Vec::new(), None);
        while read.read_buf(&mut answer).await.is_ok_and(|length| length > 0) {
            at.get_or_insert_with(|| begun.elapsed());
        }
        (String::from_utf8_lossy(&answer).into_owned(), at)
    };
    let (cut, (answer, at)) = within(Duration::from_secs(8), async { tokio::join!(writing, reading) }).await;
    assert!(answer.ends_with("\r\n\r\nfailed to save KV snapshot (no space left on device)\n"), "{answer}");
    assert!(answer.to_lowercase().contains("\r\nconnection: close\r\n"));
    assert!(at.unwrap() < deadline, "{at:?}");
    assert!((deadline..deadline * 4).contains(&cut), "{cut:?}");
}

/// Whoever reaches the port chooses the sender in a message; series must not grow by it.
#[tokio::test]
async fn senders_without_end_fill_no_memory_and_no_log() {
    let limits = Limits { snapshot_retry: Duration::ZERO, complaint_lines: 3, ..Limits::default() };
    let node = Node::with(0xb2, CLUSTER, limits).await;
    for sender in 1..=20_u64 {
        let body = framed(&wanted(sender, 0xb2), &content(0, 600));
        let request = [head_from(sender, "").as_bytes(), &chunks(&body, 1_000), b"0\r\n\r\n"].concat();
        let (status, text) = answer(&node, &request).await;
        assert_eq!((status, &*text), (500, "failed to save KV snapshot (no space left on device)\n"));
    }
    assert_eq!(node.lines.with("failed to save incoming database snapshot").len(), 3);
    assert_eq!(node.lines.with("receiving database snapshot").len(), 3);
    let unknown = "etcd_network_snapshot_receive_failures{From=\"UNKNOWN_SNAPSHOT_SENDER\"}";
    assert_eq!(metric(&node, unknown), Some(20.0));
    let registry = prometheus::Registry::new();
    for collector in node.transport.snapshot_metrics() {
        registry.register(collector).unwrap();
    }
    assert!(registry.gather().iter().all(|family| family.get_metric().len() == 1));
}
