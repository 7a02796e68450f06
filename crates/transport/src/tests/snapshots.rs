//! Snapshots between two members: whole ones, of all sizes, at all speeds, and many at once.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use proto::raftpb::Message;
use tokio::{sync::Notify, time::sleep};

use super::{
    databases::{Habit, MADE, Plan, Sink, Source, metric, statuses, wanted, whole},
    world::{CLUSTER, Node, pair, pair_with, until, within},
};
use crate::Limits;

#[tokio::test]
async fn a_snapshot_crosses_whole_and_its_end_is_told() {
    const BYTES: u64 = 3_000_001;
    let (a, b) = pair().await;
    let (source, sink) = (Source::of(&a, Plan::of(BYTES)), Sink::of(&b, Habit::default()));
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("it is told", || !statuses(&a).is_empty()).await;
    assert_eq!(statuses(&a), [(b.id, true)]);
    assert_eq!(*source.asked.lock().unwrap(), [wanted(a.id, b.id)]);
    assert_eq!(sink.taken(), [whole(&a, &b, BYTES)]);
    assert_eq!((a.host.unreachables(), b.host.unreachables()), (0, 0));
    assert!(a.transport.stats()[0].sent_bytes > BYTES && b.transport.stats()[0].received_bytes > BYTES);
    for (node, verb, other) in [(&a, "send", "To=\"b2\""), (&b, "receive", "From=\"a1\"")] {
        let series = |name| metric(node, &format!("etcd_network_snapshot_{verb}_{name}{{{other}}}"));
        assert_eq!(series("inflights_total"), Some(0.0));
        assert_eq!((series("success"), series("failures")), (Some(1.0), None));
        assert_eq!(series("total_duration_seconds_count"), Some(1.0));
    }
    assert_eq!(metric(&a, "quorate_peer_snapshot_sent_bytes_total{To=\"b2\"}"), Some(3_000_001.0));
    let words = format!("index={MADE}");
    for (node, lines) in [
        (&a, ["sending database snapshot", "sent database snapshot"]),
        (&b, ["receiving database snapshot", "received and saved database snapshot"]),
    ] {
        for line in lines {
            assert!(node.lines.with(line).iter().all(|line| line.contains(&words)), "{line}");
            assert_eq!(node.lines.with(line).len(), 1, "{line}");
        }
    }
}

#[tokio::test]
async fn sizes_and_pieces_of_all_kinds_cross_whole() {
    let (a, b) = pair().await;
    let sink = Sink::of(&b, Habit::default());
    let mut expected = Vec::new();
    for (bytes, piece) in
        [(0, 1), (1, 1), (3_000, 1), (65_536, 65_536), (65_537, 65_536), (5 << 20, 2 << 20), (9, 10)]
    {
        Source::of(&a, Plan { piece, ..Plan::of(bytes) });
        a.transport.send(vec![wanted(a.id, b.id)]);
        expected.push(whole(&a, &b, bytes));
        until("it is here", || sink.taken() == expected && statuses(&a).len() == expected.len()).await;
    }
    assert!(statuses(&a).iter().all(|(_, delivered)| *delivered));
}

/// 128 MiB. What the host has given is never far ahead of what the other host has read: sockets hold some megabytes.
#[tokio::test]
async fn a_large_database_is_never_held() {
    const BYTES: u64 = 128 << 20;
    const AHEAD_MAX: u64 = 16 << 20;
    let (a, b) = pair().await;
    let gate = Arc::new(Notify::new());
    let source = Source::of(&a, Plan { piece: 256 << 10, ..Plan::of(BYTES) });
    let sink = Sink::of(&b, Habit { gate: Some(Arc::clone(&gate)), ..Habit::default() });
    a.transport.send(vec![wanted(a.id, b.id)]);
    let mut last = 0;
    // It stops by itself.
    until("nothing more is given", || {
        source.given() > 0 && source.given() == std::mem::replace(&mut last, source.given())
    })
    .await;
    sleep(Duration::from_millis(300)).await;
    assert!(source.given() < AHEAD_MAX, "{} bytes while nobody reads", source.given());
    gate.notify_one();
    let mut ahead = 0;
    within(Duration::from_mins(1), async {
        while statuses(&a).is_empty() {
            ahead = ahead.max(source.given().saturating_sub(sink.read()));
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(ahead < AHEAD_MAX, "{ahead} bytes ahead");
    assert_eq!((statuses(&a), sink.taken()), (vec![(b.id, true)], vec![whole(&a, &b, BYTES)]));
}

/// Deadlines are those of the other member: a host that takes its time between two pieces, and after the last, breaks nothing.
#[tokio::test]
async fn a_slow_host_is_waited_for() {
    let deadline = Duration::from_millis(200);
    let limits = Limits { deadline, heartbeat: deadline / 4, ..Limits::default() };
    let (a, b) = pair_with(limits).await;
    Source::of(&a, Plan::of(20 << 20));
    let sink = Sink::of(&b, Habit { pause: 2 * deadline, install: 5 * deadline, ..Habit::default() });
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("it is here", || statuses(&a) == [(b.id, true)]).await;
    assert_eq!(sink.taken(), [whole(&a, &b, 20 << 20)]);
}

/// A connection is not idle while its snapshot is installed, however many others come.
#[tokio::test]
async fn a_connection_whose_snapshot_is_installed_is_not_replaced() {
    let b = Node::with(0xb2, CLUSTER, Limits { connections: 4, ..Limits::default() }).await;
    let a = Node::new(0xa1).await;
    a.knows(&[&b]);
    Source::of(&a, Plan::of(1_000));
    let sink = Sink::of(&b, Habit { install: Duration::from_secs(1), ..Habit::default() });
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("it is read", || sink.read() == 1_000).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(tokio::net::TcpStream::connect(b.authority()).await.unwrap());
        sleep(Duration::from_millis(10)).await;
    }
    until("it is told", || !statuses(&a).is_empty()).await;
    assert_eq!(statuses(&a), [(b.id, true)]);
}

#[tokio::test]
async fn how_far_it_is_is_told_while_it_is_under_way() {
    let limits = Limits { snapshot_progress: Duration::from_millis(100), ..Limits::default() };
    let (a, b) = pair_with(limits).await;
    Source::of(&a, Plan { piece: 1_000, pause: Duration::from_millis(50), ..Plan::of(10_000) });
    Sink::of(&b, Habit::default());
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("it is here", || statuses(&a) == [(b.id, true)]).await;
    let lines = a.lines.with("a database snapshot is under way");
    assert!((2..=6).contains(&lines.len()), "{lines:#?}");
    assert!(
        lines.iter().all(|line| line.contains("remote-peer-id=b2") && line.contains(" bytes=10000")),
        "{lines:#?}"
    );
    assert!(a.lines.with("took longer than its receiver waits").is_empty());
}

/// One at a time, in the order of their requests; a turn ends with the last byte, before the answer.
#[tokio::test]
async fn snapshots_to_many_members_take_turns() {
    let a = Node::with(0xa1, CLUSTER, Limits { snapshots_sent: 1, ..Limits::default() }).await;
    let others = [Node::new(0xb1).await, Node::new(0xb2).await, Node::new(0xb3).await];
    a.knows(&others.iter().collect::<Vec<_>>());
    let source = Source::of(&a, Plan { piece: 1_000, pause: Duration::from_millis(20), ..Plan::of(10_000) });
    let sinks: Vec<_> = others
        .iter()
        .map(|b| Sink::of(b, Habit { install: Duration::from_secs(1), ..Habit::default() }))
        .collect();
    for other in [2, 0, 1] {
        a.transport.send(vec![wanted(a.id, others[other].id)]);
        sleep(Duration::from_millis(30)).await;
    }
    until("the first is under way", || source.given() >= 5_000).await;
    assert_eq!(source.asked(), 1);
    until("the second is under way", || source.asked() == 2).await;
    assert!(source.given() >= 10_000 && statuses(&a).is_empty(), "after the last byte, before the answer");
    until("all are read", || sinks.iter().all(|sink| sink.read() == 10_000)).await;
    until("all are told", || statuses(&a).len() == 3).await;
    assert_eq!(statuses(&a), [(0xb3, true), (0xb1, true), (0xb2, true)]);
    let asked: Vec<u64> = source.asked.lock().unwrap().iter().map(Message::to).collect();
    assert_eq!(asked, [0xb3, 0xb1, 0xb2]);
}

#[tokio::test]
async fn another_one_for_the_same_member_waits_for_nothing_and_is_not_sent() {
    let (a, b) = pair().await;
    let source = Source::of(&a, Plan::of(1_000));
    let sink = Sink::of(&b, Habit { install: Duration::from_millis(300), ..Habit::default() });
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("it is read", || sink.read() == 1_000).await;
    a.transport.send(vec![wanted(a.id, b.id), wanted(a.id, b.id)]);
    until("it is told", || !statuses(&a).is_empty()).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!((statuses(&a), source.asked(), sink.taken().len()), (vec![(b.id, true)], 1, 1));
    // The end was told: raft may ask again.
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("the next one is told", || statuses(&a).len() == 2).await;
}

/// Raft may ask for the next one from inside of the report, on another thread.
#[tokio::test]
async fn the_next_one_may_come_as_soon_as_the_last_is_told() {
    let (a, b) = pair().await;
    Source::of(&a, Plan::of(1_000));
    let sink = Sink::of(&b, Habit::default());
    let (peer, message) = (a.transport.peers().member(b.id).unwrap(), wanted(a.id, b.id));
    *a.host.told.lock().unwrap() = Some(Box::new(move || {
        peer.push(message.clone());
    }));
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("several are told", || statuses(&a).len() >= 3).await;
    *a.host.told.lock().unwrap() = None;
    assert!(sink.taken().len() >= 3);
}

#[tokio::test]
async fn of_two_that_wait_for_their_turn_the_newer_is_sent() {
    let a = Node::with(0xa1, CLUSTER, Limits { snapshots_sent: 1, ..Limits::default() }).await;
    let (b, c) = (Node::new(0xb2).await, Node::new(0xc3).await);
    a.knows(&[&b, &c]);
    let source = Source::of(&a, Plan { piece: 100, pause: Duration::from_millis(50), ..Plan::of(1_000) });
    let sinks = [Sink::of(&b, Habit::default()), Sink::of(&c, Habit::default())];
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("the first is under way", || sinks[0].begun.load(Ordering::Relaxed) == 1).await;
    a.transport.send(vec![wanted(a.id, c.id)]);
    sleep(Duration::from_millis(50)).await;
    let mut newer = wanted(a.id, c.id);
    newer.term = Some(4);
    a.transport.send(vec![newer.clone()]);
    until("both are told", || statuses(&a) == [(b.id, true), (c.id, true)]).await;
    assert_eq!(*source.asked.lock().unwrap(), [wanted(a.id, b.id), newer]);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(statuses(&a).len(), 2);
}

#[tokio::test]
async fn raft_hears_of_a_snapshot_that_nobody_can_be_sent() {
    let a = Node::new(0xa1).await;
    // Unknown; then known from a request of its own; 0 is nobody.
    a.transport.send(vec![wanted(a.id, 0xb2), wanted(a.id, 0)]);
    until("it is told", || statuses(&a) == [(0xb2, false)]).await;
    a.transport.peers().add_remote(0xb2, "http://127.0.0.1:9");
    a.transport.send(vec![wanted(a.id, 0xb2)]);
    until("it is told", || statuses(&a) == [(0xb2, false); 2]).await;
}
