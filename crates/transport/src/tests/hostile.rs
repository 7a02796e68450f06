//! Malicious or faulty clients of the peer port: bad data, slow data, many connections, false senders.

use std::time::{Duration, Instant};

use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::world::{CLUSTER, Node, heartbeat, pair, raw, until, within};
use crate::Limits;

/// A POST of this body, with `sender` among its headers.
fn post(to: &Node, sender: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /raft HTTP/1.1\r\nHost: x\r\nX-Server-Version: 3.7.3\r\nX-Etcd-Cluster-ID: {CLUSTER:x}\r\n{sender}\
         X-Raft-To: {:x}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        to.id,
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn posted(to: &Node, sender: &str, message: &Message) -> String {
    raw(to.authority(), &post(to, sender, &message.encode_to_vec()), |_| false).await
}

fn kinds(node: &Node) -> Vec<(MessageType, u64)> {
    node.host.delivered.lock().unwrap().iter().map(|m| (m.r#type(), m.from())).collect()
}

#[tokio::test]
async fn nobody_speaks_in_anothers_name_but_who_hands_something_on() {
    let (a, b) = pair().await;
    let as_a = format!("X-Server-From: {:x}\r\n", a.id);
    let in_the_name_of = |from: u64, kind: MessageType| Message {
        r#type: Some(kind.into()),
        from: Some(from),
        ..heartbeat(&a, &b, 1)
    };
    for kind in
        [MessageType::MsgHeartbeat, MessageType::MsgApp, MessageType::MsgVote, MessageType::MsgAppResp]
    {
        let answer = posted(&b, &as_a, &in_the_name_of(0xc3, kind)).await;
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    }
    for kind in [MessageType::MsgReadIndex, MessageType::MsgTransferLeader, MessageType::MsgProp] {
        let answer = posted(&b, &as_a, &in_the_name_of(0xc3, kind)).await;
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    }
    assert!(posted(&b, &as_a, &in_the_name_of(a.id, MessageType::MsgVote)).await.starts_with("HTTP/1.1 204"));
    let expected = [
        (MessageType::MsgReadIndex, 0xc3),
        (MessageType::MsgTransferLeader, 0xc3),
        (MessageType::MsgProp, 0xc3),
        (MessageType::MsgVote, a.id),
    ];
    assert_eq!(kinds(&b), expected);
    assert_eq!(b.lines.with("failed to process Raft message").len(), 1, "told once");
}

#[tokio::test]
async fn what_a_stream_brings_in_anothers_name_is_dropped_and_counted() {
    let (a, b) = pair().await;
    let forged = Message { from: Some(0xc3), ..heartbeat(&a, &b, 1) };
    a.transport.send(vec![forged; 5]);
    a.transport.send(vec![heartbeat(&a, &b, 2)]);
    until("the last arrived", || !kinds(&b).is_empty()).await;
    assert_eq!(kinds(&b), [(MessageType::MsgHeartbeat, a.id)]);
    let what = "dropped a peer's messages in another's name";
    assert_eq!(b.lines.with(what).len(), 1);
    assert!(b.transport.faults().with_label_values(&[what]).get() >= 1);
}

/// A line for each of them, for the name was part of what had to be new.
#[tokio::test]
async fn a_stranger_with_many_names_is_told_of_a_few_times_and_counted() {
    let b = Node::with(0xb2, CLUSTER, Limits { complaint_lines: 3, ..Limits::default() }).await;
    for name in 1..=20 {
        let answer = posted(&b, &format!("X-Server-From: {name:x}\r\n"), &Message::default()).await;
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    }
    let what = "failed to process Raft message";
    assert_eq!(b.lines.with(what).len(), 3, "{:?}", b.lines.with(what));
    assert_eq!(b.transport.faults().with_label_values(&[what]).get(), 20);
}

#[tokio::test]
async fn streams_that_come_and_go_are_told_of_a_few_times() {
    let (a, b) = (
        Node::with(0xa1, CLUSTER, Limits { connection_lines: 4, ..Limits::default() }).await,
        Node::new(0xb2).await,
    );
    a.knows(&[&b]);
    let get = format!(
        "GET /raft/stream/message/b2 HTTP/1.1\r\nHost: x\r\nX-Server-Version: 3.7.3\r\n\
         X-Etcd-Cluster-ID: {CLUSTER:x}\r\nX-Raft-To: {:x}\r\n\r\n",
        a.id
    );
    for _ in 0..20 {
        let answer = raw(a.authority(), get.as_bytes(), |text| text.contains("\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(a.lines.with("established TCP").len() <= 4, "{:?}", a.lines.with("established TCP"));
    assert!(a.lines.with("lost TCP").len() <= 4);
}

/// Sends bytes one at a time. Returns how long the other end accepted it.
async fn dribbled(authority: &str, bytes: &[u8], pause: Duration) -> Duration {
    let mut stream = TcpStream::connect(authority).await.unwrap();
    let begun = Instant::now();
    let (mut read, mut write) = stream.split();
    let writing = async {
        for byte in bytes {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        std::future::pending::<()>().await;
    };
    let closed = async {
        let mut buffer = [0; 1024];
        while read.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    };
    within(Duration::from_secs(8), async {
        tokio::select! {
            () = writing => {}
            () = closed => {}
        }
    })
    .await;
    begun.elapsed()
}

#[tokio::test]
async fn a_head_or_a_body_that_comes_a_byte_at_a_time_has_its_time_too() {
    let limits = Limits {
        deadline: Duration::from_millis(200),
        body: Duration::from_millis(300),
        ..Limits::default()
    };
    let node = Node::with(0xb2, CLUSTER, limits).await;
    let pause = Duration::from_millis(20);
    // Each would go on for twenty seconds.
    let head = dribbled(node.authority(), &b"GET /version HTTP/1.1\r\n".repeat(44), pause).await;
    assert!(head < Duration::from_secs(4), "{head:?}");
    let mut request = post(&node, "", &[0; 1_000]);
    let body = request.split_off(request.len() - 1_000);
    let mut stream = TcpStream::connect(node.authority()).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let begun = Instant::now();
    let mut answer = Vec::new();
    for byte in body {
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        if let Ok(Ok(0) | Err(_)) = tokio::time::timeout(pause, stream.read_buf(&mut answer)).await {
            break;
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn bodies_are_bounded_each_and_all_together() {
    let limits =
        Limits { post_bytes: 1_000, bodies_bytes: 1_500, small_body_bytes: 100, ..Limits::default() };
    let node = Node::with(0xb2, CLUSTER, limits).await;
    let large = raw(node.authority(), &post(&node, "", &[0; 1_001]), |_| false).await;
    assert!(large.starts_with("HTTP/1.1 413"), "{large}");
    let lease = format!("POST /leases HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n{}", "x".repeat(101));
    let lease = raw(node.authority(), lease.as_bytes(), |_| false).await;
    assert!(lease.starts_with("HTTP/1.1 413") && lease.contains("request body too large"), "{lease}");
    // Two at the same time: together they are too large.
    let whole = post(&node, "", &[0; 900]);
    let mut first = TcpStream::connect(node.authority()).await.unwrap();
    first.write_all(&whole[..whole.len() - 1]).await.unwrap();
    let bodies = &node.transport.peers().context().bodies;
    until("the first is held", || bodies.load(std::sync::atomic::Ordering::Relaxed) == 899).await;
    let second = raw(node.authority(), &whole, |_| false).await;
    assert!(second.starts_with("HTTP/1.1 503"), "{second}");
    drop(first);
    until("all is let go", || bodies.load(std::sync::atomic::Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn connections_that_do_nothing_give_way_to_those_of_members() {
    let limits = Limits { connections: 8, ..Limits::default() };
    let a = Node::with(0xa1, CLUSTER, limits).await;
    let mut idle = Vec::new();
    for _ in 0..30 {
        idle.push(TcpStream::connect(a.authority()).await.unwrap());
    }
    let b = Node::new(0xb2).await;
    a.knows(&[&b]);
    b.knows(&[&a]);
    a.attached(&b).await;
    for _ in 0..30 {
        idle.push(TcpStream::connect(a.authority()).await.unwrap());
    }
    // The streams are in use: they stay open.
    a.transport.send(vec![heartbeat(&a, &b, 7)]);
    until("the stream carries", || b.host.indexes(MessageType::MsgHeartbeat) == [7]).await;
    let answer =
        raw(a.authority(), b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", |_| false).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(a.lines.with("lost TCP").len(), 0);
}

#[tokio::test]
async fn the_oldest_unknown_sender_gives_way_to_one_that_joins() {
    let limits = Limits { remotes: 3, remote_kept: Duration::ZERO, ..Limits::default() };
    let node = Node::with(0xb2, CLUSTER, limits).await;
    let known = |id: u64| node.transport.peers().table().find(id).is_some();
    for stranger in 1..=10 {
        node.transport.peers().add_remote(stranger, "http://127.0.0.1:9");
    }
    assert_eq!((1..=10).filter(|id| known(*id)).collect::<Vec<_>>(), [8, 9, 10]);
    let limits = Limits { remotes: 3, remote_kept: Duration::from_mins(1), ..Limits::default() };
    let node = Node::with(0xb3, CLUSTER, limits).await;
    let known = |id: u64| node.transport.peers().table().find(id).is_some();
    for stranger in 1..=10 {
        node.transport.peers().add_remote(stranger, "http://127.0.0.1:9");
    }
    assert_eq!(
        (1..=10).filter(|id| known(*id)).collect::<Vec<_>>(),
        [1, 2, 3],
        "not before they had their time"
    );
}
