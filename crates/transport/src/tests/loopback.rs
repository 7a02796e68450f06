//! Transports over loopback: what arrives, in which order, and what happens on failures.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use proto::raftpb::{Message, MessageType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::world::{CLUSTER, Node, append, heartbeat, pair, pair_with, until, within};
use crate::{Limits, codec::Kind, fetch, fetch_members, fetch_version};

#[tokio::test]
async fn appends_and_others_arrive_whole_and_in_order() {
    let (a, b) = pair().await;
    let mut index = 0;
    for _ in 0..50 {
        let mut batch = Vec::new();
        for _ in 0..20 {
            batch.push(append(&a, &b, index, 2, 300));
            index += 2;
            batch.push(heartbeat(&a, &b, index));
        }
        a.transport.send(batch);
        tokio::task::yield_now().await;
    }
    until("all arrived", || b.host.delivered.lock().unwrap().len() == 2000).await;
    let expected: Vec<u64> = (0..1000).map(|i| i * 2).collect();
    assert_eq!(b.host.indexes(MessageType::MsgApp), expected);
    assert_eq!(b.host.indexes(MessageType::MsgHeartbeat), expected.iter().map(|i| i + 2).collect::<Vec<_>>());
    let first = b.host.delivered.lock().unwrap().iter().find(|m| m.r#type() == MessageType::MsgApp).cloned();
    assert_eq!(first, Some(append(&a, &b, 0, 2, 300)));
    assert_eq!(a.host.unreachables(), 0);
    assert!(b.host.batches.load(Ordering::Relaxed) < 1000, "batches stay batches");
    assert!(a.transport.active_since(b.id).is_some());
    assert!(a.transport.stats()[0].sent_bytes > 600_000);
}

#[tokio::test]
async fn large_messages_cross_both_ways_at_once() {
    let (a, b) = pair().await;
    for i in 0..8 {
        a.transport.send(vec![append(&a, &b, i, 1, 1 << 20)]);
        b.transport.send(vec![append(&b, &a, i, 1, 1 << 20)]);
    }
    for node in [&a, &b] {
        until("all arrived", || node.host.delivered.lock().unwrap().len() == 8).await;
        assert!(node.host.delivered.lock().unwrap().iter().all(|m| m.entries[0].data().len() == 1 << 20));
    }
}

#[tokio::test]
async fn messages_are_posted_while_there_is_no_stream() {
    let (a, b) = (Node::new(0xa1).await, Node::new(0xb2).await);
    a.knows(&[&b]); // b does not know a: it dials no streams, and 404s a's
    a.transport.send(vec![heartbeat(&a, &b, 7), append(&a, &b, 7, 1, 10)]);
    until("both arrived", || b.host.delivered.lock().unwrap().len() == 2).await;
    // a posted with its URLs, so b can answer it, by POST, without knowing it as a member.
    b.transport.send(vec![heartbeat(&b, &a, 9)]);
    until("the answer arrived", || a.host.indexes(MessageType::MsgHeartbeat) == [9]).await;
    assert!(b.transport.active_since(a.id).is_none());
}

#[tokio::test]
async fn what_was_on_its_way_to_a_remote_arrives_when_it_turns_out_to_be_a_member() {
    let (a, b) = (Node::new(0xa1).await, Node::new(0xb2).await);
    a.knows(&[&b]);
    a.transport.send(vec![heartbeat(&a, &b, 7)]);
    until("b knows a as a remote", || !b.host.indexes(MessageType::MsgHeartbeat).is_empty()).await;
    b.transport.send((0..20).map(|commit| heartbeat(&b, &a, commit)).collect());
    tokio::task::yield_now().await; // the router has handed out
    b.knows(&[&a]);
    until("all arrived", || a.host.indexes(MessageType::MsgHeartbeat).len() == 20).await;
}

#[tokio::test]
async fn three_members_in_a_ring_of_streams() {
    let limits = Limits { farewell: Duration::from_millis(100), ..Limits::default() };
    let a = Node::with(1, CLUSTER, limits).await;
    let (b, c) = (Node::new(2).await, Node::new(3).await);
    a.knows(&[&a, &b, &c]); // oneself is skipped
    b.knows(&[&a, &c]);
    c.knows(&[&a, &b]);
    a.attached(&b).await;
    a.attached(&c).await;
    a.transport.send(vec![heartbeat(&a, &b, 1), heartbeat(&a, &c, 2), heartbeat(&a, &a, 3)]);
    until("b has its own", || b.host.indexes(MessageType::MsgHeartbeat) == [1]).await;
    until("c has its own", || c.host.indexes(MessageType::MsgHeartbeat) == [2]).await;
    assert!(a.transport.peers().member(1).is_none());
    // c leaves a's cluster. What is on its way arrives, since it may be its removal; then its streams end.
    let leaving = a.transport.peers().member(3).unwrap();
    a.transport.send(vec![heartbeat(&a, &c, 4)]);
    a.transport.update_peers(&[(2, vec![b.url.clone()])]);
    assert_eq!(a.transport.stats().len(), 1);
    until("c has the last of its own", || c.host.indexes(MessageType::MsgHeartbeat) == [2, 4]).await;
    until("its streams end", || !leaving.lane(Kind::Message).is_attached()).await;
    a.transport.send(vec![heartbeat(&a, &b, 5)]);
    until("b still has its own", || b.host.indexes(MessageType::MsgHeartbeat) == [1, 5]).await;
}

#[tokio::test]
async fn a_restarted_port_is_found_again_and_the_loss_is_reported() {
    let (mut a, mut b) = pair().await;
    b.stop_serving().await;
    until("a's dialers found the port closed", || a.transport.active_since(b.id).is_none()).await;
    assert!(!b.transport.peers().member(a.id).unwrap().lane(Kind::MsgApp).is_attached());
    assert!(b.host.unreachables() > 0, "b lost its writers");
    b.serve_again().await;
    b.attached(&a).await;
    b.transport.send(vec![append(&b, &a, 5, 1, 10)]);
    until("delivered again", || a.host.indexes(MessageType::MsgApp) == [5]).await;
    a.stop_serving().await;
    a.serve_again().await;
    a.attached(&b).await;
    a.transport.send(vec![append(&a, &b, 6, 1, 10)]);
    until("delivered again", || b.host.indexes(MessageType::MsgApp) == [6]).await;
}

#[tokio::test]
async fn another_cluster_is_refused_both_ways() {
    let (a, stranger) = (Node::new(0xa1).await, Node::of_cluster(0xb2, 0xc2).await);
    a.knows(&[&stranger]);
    stranger.knows(&[&a]);
    a.transport.send(vec![heartbeat(&a, &stranger, 1)]);
    stranger.transport.send(vec![heartbeat(&stranger, &a, 1)]);
    until("both posts failed", || a.host.unreachables() > 0 && stranger.host.unreachables() > 0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        a.host.delivered.lock().unwrap().is_empty() && stranger.host.delivered.lock().unwrap().is_empty()
    );
    assert!(a.transport.active_since(0xb2).is_none());
    assert_eq!(a.host.rejected.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_removed_member_is_told_once_and_its_messages_are_dropped() {
    let (a, b) = (Node::new(0xa1).await, Node::new(0xb2).await);
    a.host.removed.lock().unwrap().insert(b.id);
    b.knows(&[&a]);
    until("b was told", || b.host.rejected.load(Ordering::Relaxed) > 0).await;
    b.transport.send(vec![heartbeat(&b, &a, 1)]);
    until("the post failed", || b.host.unreachables() > 0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(b.host.rejected.load(Ordering::Relaxed), 1);
    assert!(a.host.delivered.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_full_queue_drops_and_reports() {
    const LANE: usize = 50;
    let (a, b) = pair_with(Limits { lane_messages: LANE, post_messages: 3, ..Limits::default() }).await;
    // No await: the connection does not run, and all messages reach the lane at once.
    let many = LANE as u64 + 10;
    a.transport.send((0..many).map(|i| heartbeat(&a, &b, i)).collect());
    until("the rest arrived", || b.host.delivered.lock().unwrap().len() == LANE).await;
    assert_eq!(a.host.unreachables(), 10);
    assert_eq!(a.transport.stats()[0].sent_failures, 10);
    // To an unreachable member, by POST: the queue is short.
    let nowhere = Node::new(0xdd).await;
    a.transport.update_peers(&[(b.id, vec![b.url.clone()]), (0xdd, vec!["http://127.0.0.1:9".into()])]);
    a.transport.send((0..40).map(|i| heartbeat(&a, &nowhere, i)).collect());
    until("all reported", || a.host.unreachables() == 10 + 40).await;
}

#[tokio::test]
async fn a_full_outbox_is_reported_from_inside_the_runtime() {
    const INBOX: usize = 200;
    const LANE: usize = 50;
    let (a, b) = pair_with(Limits { inbox_messages: INBOX, lane_messages: LANE, ..Limits::default() }).await;
    // The router does not run before the await: the inbox fills, then the lane.
    let over = 25;
    for _ in 0..=INBOX / 30 {
        a.transport.send((0..30).map(|i| heartbeat(&a, &b, i)).collect());
    }
    let snapshot = Message { r#type: Some(MessageType::MsgSnap.into()), ..heartbeat(&a, &b, 1) };
    a.transport.send(vec![snapshot; over]);
    assert_eq!(a.host.unreachables(), 0, "nothing is called from send");
    until("the lane arrived", || b.host.delivered.lock().unwrap().len() == LANE).await;
    assert_eq!(*a.host.snapshots.lock().unwrap(), [(b.id, false)]);
    assert_eq!(a.host.unreachables(), INBOX - LANE + 1);
}

/// A peer that answers the msgapp GET with these bytes and closes, and never answers the message GET. Counts the dials.
async fn false_peer(a: &Node, answer: Vec<u8>) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    a.transport.update_peers(&[(0xb2, vec![url])]);
    let (begun, mut dials, mut held) = (Instant::now(), 0, Vec::new());
    while begun.elapsed() < Duration::from_millis(450) {
        let accepted = tokio::time::timeout(Duration::from_millis(450), listener.accept()).await;
        let Ok(Ok((mut stream, _))) = accepted else { break };
        let mut request = vec![0; 2000];
        let n = stream.read(&mut request).await.unwrap();
        if request[..n].starts_with(b"GET /raft/stream/msgapp/a1 HTTP/1.1\r\n") {
            dials += 1;
            let head = "HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.3\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(&[head.as_bytes(), &answer].concat()).await.unwrap();
        } else {
            held.push(stream);
        }
    }
    dials
}

#[tokio::test]
async fn garbage_and_cut_streams_end_the_connection_and_are_redialled_at_the_limit() {
    for answer in [
        &b"nonsense"[..],
        b"1\r\n\x07\r\n",
        b"9\r\n\x02\xff\xff\xff\xff\xff\xff\xff\xff\r\n",
        b"5\r\n\x02\0\0\0\0", // cut in a length
        b"0\r\n\r\n",
    ] {
        let a = Node::new(0xa1).await;
        let dials = false_peer(&a, answer.to_vec()).await;
        assert!((3..=7).contains(&dials), "{dials} dials in 0.45 s for {answer:?}");
        assert!(a.host.delivered.lock().unwrap().is_empty());
        a.transport.stop();
    }
}

#[tokio::test]
async fn what_was_whole_before_the_cut_is_delivered() {
    let a = Node::new(0xa1).await;
    let (mut encoder, mut body) = (crate::codec::Encoder::new(Kind::MsgApp), bytes::BytesMut::new());
    let b = Node::new(0xb2).await;
    encoder.encode(&append(&b, &a, 4, 1, 10), &mut body);
    encoder.encode(&append(&b, &a, 5, 1, 1000), &mut body);
    let body = &body[..body.len() - 500]; // the second is cut
    let wire = [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n0\r\n\r\n"].concat();
    false_peer(&a, wire).await;
    let indexes = a.host.indexes(MessageType::MsgApp);
    assert!(!indexes.is_empty() && indexes.iter().all(|index| *index == 4), "{indexes:?}");
}

#[tokio::test]
async fn messages_for_others_are_not_delivered() {
    let (a, b) = pair().await;
    // The lane is chosen by the recipient, so a wrong one must be forced.
    let stray = Message { to: Some(0xff), ..heartbeat(&a, &b, 1) };
    a.transport.peers().member(b.id).unwrap().push(stray);
    a.transport.send(vec![heartbeat(&a, &b, 2)]);
    until("the right one arrived", || b.host.indexes(MessageType::MsgHeartbeat) == [2]).await;
}

#[tokio::test]
async fn silent_streams_stay_up_by_link_heartbeats() {
    let (a, b) = pair().await;
    let since = a.transport.active_since(b.id);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(since.is_some());
    assert_eq!(a.transport.active_since(b.id), since);
    assert_eq!(a.host.unreachables() + b.host.unreachables(), 0);
    assert!(a.host.delivered.lock().unwrap().is_empty(), "link heartbeats are not raft's");
    let stats = a.transport.stats()[0];
    assert!(stats.round_trip > Duration::ZERO, "probed after 4 s");
    assert!(stats.received_bytes > 0);
}

#[tokio::test]
async fn a_silent_peer_is_dropped_after_five_seconds() {
    let a = Node::new(0xa1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    a.transport.update_peers(&[(0xb2, vec![format!("http://{}", listener.local_addr().unwrap())])]);
    let (mut stream, _) = listener.accept().await.unwrap();
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.3\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    until("up", || a.transport.active_since(0xb2).is_some()).await;
    let begun = Instant::now();
    let mut sink = Vec::new();
    within(Duration::from_secs(7), stream.read_to_end(&mut sink)).await.ok();
    assert!(begun.elapsed() > Duration::from_millis(4500), "{:?}", begun.elapsed());
    assert!(a.transport.active_since(0xb2).is_none());
}

#[tokio::test]
async fn sends_from_another_thread_are_woken_and_ordered() {
    let (a, b) = pair().await;
    let transport = a.transport.clone();
    let messages: Vec<_> = (0..1000).map(|i| append(&a, &b, i, 1, 50)).collect();
    let thread = std::thread::spawn(move || {
        for message in messages {
            transport.send(vec![message]);
        }
    });
    until("all arrived", || b.host.delivered.lock().unwrap().len() == 1000).await;
    thread.join().unwrap();
    assert_eq!(b.host.indexes(MessageType::MsgApp), (0..1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn members_and_versions_are_fetched_from_the_first_that_answers() {
    let a = Node::new(0xa1).await;
    let limit = Duration::from_secs(3);
    let urls = ["http://127.0.0.1:9".to_owned(), a.url.clone()];
    let found = within(limit, fetch_members(&urls, limit)).await.unwrap();
    assert_eq!((found.cluster, found.members[0].id, found.members[0].name.as_str()), (0xc1, 0xa1, "a"));
    let versions = fetch_version(&a.url, limit).await.unwrap();
    assert_eq!((versions.etcdserver.as_str(), versions.etcdcluster.as_str()), ("3.7.3", "3.7.0"));
    let downgrade = fetch::get(&a.url, "/downgrade/enabled", limit).await.unwrap();
    assert_eq!(downgrade.text(), "false");
    assert!(fetch_members(&urls[..1], limit).await.is_err());
    assert!(fetch_members(&[], limit).await.is_err());
}

/// With the smallest limits it is slower, and all arrives in order.
#[tokio::test]
async fn the_smallest_limits_let_everything_through() {
    let limits = Limits {
        batch_bytes: 0,
        read_bytes: 0,
        read_batch_bytes: 0,
        buffer_kept_bytes: 0,
        post_workers: 0,
        lease_questions: 0,
        connection_bytes: 0,
        ..Limits::default()
    };
    let (a, b) = pair_with(limits).await;
    let messages: Vec<Message> = (0..50).map(|n| append(&a, &b, 2 * n, 2, 300)).collect();
    a.transport.send(messages.clone());
    a.transport.send((0..50).map(|n| heartbeat(&a, &b, n)).collect());
    until("all arrived", || b.host.delivered.lock().unwrap().len() == 100).await;
    assert_eq!(b.host.indexes(MessageType::MsgApp), (0..50).map(|n| 2 * n).collect::<Vec<_>>());
    assert_eq!(b.host.indexes(MessageType::MsgHeartbeat), (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_message_larger_than_a_lane_fits_an_empty_one() {
    let (a, b) = pair_with(Limits { lane_bytes: 1_000, ..Limits::default() }).await;
    a.transport.send((0..5).map(|n| append(&a, &b, n, 1, 5_000)).collect());
    until("the first arrived", || b.host.indexes(MessageType::MsgApp) == [0]).await;
    assert_eq!(a.host.unreachables(), 4);
}

/// Memory is not reserved for an announced length.
#[tokio::test]
async fn a_frame_that_announces_too_much_ends_the_stream() {
    let small = Limits { frame_bytes: 500, ..Limits::default() };
    let (a, b) = (Node::new(0xa1).await, Node::with(0xb2, CLUSTER, small).await);
    a.knows(&[&b]);
    b.knows(&[&a]);
    a.attached(&b).await;
    a.transport.send(vec![append(&a, &b, 0, 1, 1_000)]);
    until("the stream ended", || !b.lines.with("exceeds the limit of 500").is_empty()).await;
    assert!(b.host.indexes(MessageType::MsgApp).is_empty());
    a.attached(&b).await;
    a.transport.send(vec![append(&a, &b, 0, 1, 100)]);
    until("the next one carries", || b.host.indexes(MessageType::MsgApp) == [0]).await;
}
