//! Snapshots that end early: by the host that gives, the host that takes, the connection, or a change of members.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    databases::{Habit, Plan, Sink, Source, metric, statuses, wanted, whole},
    world::{CLUSTER, Node, heartbeat, pair, pair_with, until},
};
use crate::{Limits, SnapshotRefusal};

/// Long enough that it does not hide in the buffers of sockets.
const LARGE: u64 = 64 << 20;

fn in_flight(node: &Node) -> Option<f64> {
    metric(node, "etcd_network_snapshot_send_inflights_total{To=\"b2\"}")
}

/// The body breaks, and the receiver never sees an end that looks like one. The peer is not to blame.
#[tokio::test]
async fn a_host_that_gives_too_little_too_much_or_an_error_breaks_the_body() {
    let plans = [
        (Plan { given: 600_000, error: Some("the disk burns"), ..Plan::of(LARGE) }, "the disk burns"),
        (Plan { given: 600_000, ..Plan::of(600_001) }, "the database ended 1 of 600001 bytes early"),
        (Plan { given: 0, ..Plan::of(1) }, "the database ended 1 of 1 bytes early"),
        (Plan { given: 600_000, ..Plan::of(599_999) }, "the database is longer than 599999 bytes"),
    ];
    for (plan, why) in plans {
        let (a, b) = pair().await;
        let source = Source::of(&a, plan.clone());
        let sink = Sink::of(&b, Habit::default());
        let begun = Instant::now();
        a.transport.send(vec![wanted(a.id, b.id)]);
        until("it is told", || !statuses(&a).is_empty()).await;
        assert!(begun.elapsed() >= Limits::default().snapshot_retry, "raft would ask again at once");
        assert_eq!((statuses(&a), a.host.unreachables(), source.asked()), (vec![(b.id, false)], 0, 1));
        if plan.given > 0 {
            until("the other host heard", || sink.taken().len() == 1).await;
            let taken = sink.taken().remove(0);
            assert_eq!(taken.error.as_deref(), Some("unexpected EOF"), "{why}");
            assert!(taken.bytes < plan.bytes);
            let failures = "etcd_network_snapshot_receive_failures{From=\"a1\"}";
            assert_eq!(metric(&b, failures), Some(1.0));
        }
        let lines = a.lines.with("failed to send database snapshot");
        assert!(lines.len() == 1 && lines[0].contains(why), "{lines:#?}");
        assert_eq!(metric(&a, "etcd_network_snapshot_send_failures{To=\"b2\"}"), Some(1.0));
        assert_eq!(in_flight(&a), Some(0.0));
        assert!(a.transport.active_since(b.id).is_some());
    }
}

#[tokio::test]
async fn a_host_without_a_snapshot_is_asked_again_after_a_pause() {
    let (a, b) = pair().await;
    a.transport.send(vec![wanted(a.id, b.id)]);
    sleep(Duration::from_millis(700)).await;
    assert!(statuses(&a).is_empty());
    until("it is told", || statuses(&a) == [(b.id, false)]).await;
    let lines = a.lines.with("failed to send database snapshot");
    assert!(lines.len() == 1 && lines[0].contains("there is none"), "{lines:#?}");
    assert_eq!(a.host.unreachables(), 0);
}

/// The refusal arrives although most of the body is still to come, and the rest is not sent.
#[tokio::test]
async fn a_refusal_of_the_host_is_told_with_its_reason() {
    let refusals = [
        (
            SnapshotRefusal::Save("no space left on device".to_owned()),
            "failed to save KV snapshot (no space left on device)",
            "failed to save incoming database snapshot",
        ),
        (
            SnapshotRefusal::Process("raft: stopped".to_owned()),
            "failed to process raft message (raft: stopped)",
            "failed to process Raft message",
        ),
    ];
    let limits = Limits { snapshot_retry: Duration::from_millis(100), ..Limits::default() };
    for (refusal, text, line) in refusals {
        for after in [1, LARGE / 2, LARGE] {
            let (a, b) = pair_with(limits.clone()).await;
            let source = Source::of(&a, Plan::of(LARGE));
            Sink::of(&b, Habit { refusal: Some((after, refusal.clone())), ..Habit::default() });
            let begun = Instant::now();
            a.transport.send(vec![wanted(a.id, b.id)]);
            until("it is told", || !statuses(&a).is_empty()).await;
            assert!(begun.elapsed() >= 2 * limits.snapshot_retry, "one there, one here");
            assert_eq!((statuses(&a), a.host.unreachables()), (vec![(b.id, false)], 1));
            let lines = a.lines.with("failed to send database snapshot");
            assert!(lines.len() == 1 && lines[0].contains(text), "{lines:#?}");
            assert_eq!(b.lines.with(line).len(), 1, "{line}");
            until("the host noticed", || source.ended() == 1).await;
            assert!(after > 1 || source.given() < LARGE, "all of it was sent");
        }
    }
}

#[tokio::test]
async fn a_panic_of_the_host_is_a_refusal_and_frees_the_turn() {
    let limits = Limits { snapshot_retry: Duration::from_millis(50), ..Limits::default() };
    let (a, b) = pair_with(limits).await;
    Source::of(&a, Plan::of(1_000));
    *b.host.take.lock().unwrap() = Some(Box::new(|_, _| Box::pin(async { panic!("tested") })));
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("it is told", || statuses(&a) == [(b.id, false)]).await;
    assert!(a.transport.active_since(b.id).is_none(), "as in etcd");
    assert_eq!(metric(&b, "etcd_network_snapshot_receive_inflights_total{From=\"a1\"}"), Some(0.0));
    let sink = Sink::of(&b, Habit::default());
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("the next one is told", || statuses(&a) == [(b.id, false), (b.id, true)]).await;
    assert_eq!(sink.taken(), [whole(&a, &b, 1_000)]);
    assert!(a.transport.active_since(b.id).is_some());
}

#[tokio::test]
async fn a_receiver_that_closes_its_port_is_reported() {
    let (a, mut b) = pair().await;
    let source = Source::of(&a, Plan { pause: Duration::from_millis(1), ..Plan::of(LARGE) });
    let sink = Sink::of(&b, Habit::default());
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("it is under way", || sink.read() > 1_000_000).await;
    b.stop_serving().await;
    until("the other host heard", || sink.taken().len() == 1).await;
    assert!(sink.taken()[0].error.is_some());
    until("this host heard", || source.ended() == 1).await;
    assert!(a.host.unreachable.lock().unwrap().contains(&b.id));
    until("it is told", || statuses(&a) == [(b.id, false)]).await;
    assert_eq!(in_flight(&a), Some(0.0));
    // Nobody listens.
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("it is told", || statuses(&a) == [(b.id, false); 2]).await;
    assert_eq!(a.lines.with("failed to send database snapshot").len(), 2);
}

/// A member that leaves is given up at once, and raft is told nothing of it any more.
#[tokio::test]
async fn a_member_that_is_removed_is_sent_nothing_more() {
    for stops in [false, true] {
        let (a, b) = pair().await;
        let source = Source::of(&a, Plan { pause: Duration::from_millis(1), ..Plan::of(LARGE) });
        let sink = Sink::of(&b, Habit::default());
        a.transport.send(vec![wanted(a.id, b.id)]);
        until("it is under way", || sink.read() > 1_000_000).await;
        let begun = Instant::now();
        if stops {
            a.transport.stop();
        } else {
            a.transport.update_peers(&[]);
        }
        until("both hosts heard", || source.ended() == 1 && sink.taken().len() == 1).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(sink.taken()[0].error.as_deref(), Some("unexpected EOF"));
        assert_eq!(in_flight(&a), Some(0.0));
        sleep(Duration::from_millis(1_200)).await;
        assert!(statuses(&a).is_empty());
        // The turn is free again.
        let context = a.transport.peers().context();
        assert_eq!(context.sending.available_permits(), Limits::default().snapshots_sent);
    }
}

#[tokio::test]
async fn a_member_that_is_removed_while_it_waits_for_its_turn_takes_none() {
    let a = Node::with(0xa1, CLUSTER, Limits { snapshots_sent: 1, ..Limits::default() }).await;
    let (b, c) = (Node::new(0xb2).await, Node::new(0xc3).await);
    a.knows(&[&b, &c]);
    let source = Source::of(&a, Plan { piece: 100, pause: Duration::from_millis(50), ..Plan::of(1_000) });
    let sink = Sink::of(&b, Habit::default());
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("the first is under way", || sink.begun.load(Ordering::Relaxed) == 1).await;
    a.transport.send(vec![wanted(a.id, c.id)]);
    sleep(Duration::from_millis(50)).await;
    a.knows(&[&b]);
    until("the first is told", || statuses(&a) == [(b.id, true)]).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!((source.asked(), statuses(&a).len()), (1, 1));
    a.knows(&[&b, &c]);
    Sink::of(&c, Habit::default());
    a.transport.send(vec![wanted(a.id, c.id)]);
    until("the turn is free", || statuses(&a) == [(b.id, true), (c.id, true)]).await;
}

/// What is here can be installed, whoever has gone meanwhile; and no other comes between.
#[tokio::test]
async fn a_sender_that_dies_while_its_snapshot_is_installed_stops_nothing() {
    let limits = Limits { snapshot_retry: Duration::from_millis(20), ..Limits::default() };
    let (a, b) = pair_with(limits.clone()).await;
    let c = Node::with(0xc3, CLUSTER, limits).await;
    c.knows(&[&b]);
    Source::of(&a, Plan::of(1_000));
    Source::of(&c, Plan::of(1_000));
    let sink = Sink::of(&b, Habit { install: Duration::from_millis(800), ..Habit::default() });
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("it is read", || sink.read() == 1_000).await;
    a.transport.stop();
    c.transport.send(vec![wanted(c.id, b.id)]);
    until("the other one is refused", || statuses(&c) == [(b.id, false)]).await;
    let lines = c.lines.with("failed to save KV snapshot (another snapshot is being received)");
    assert_eq!(lines.len(), 1, "{:#?}", c.lines.with("failed to send"));
    assert!(sink.taken().is_empty());
    until("it is installed", || sink.taken() == [whole(&a, &b, 1_000)]).await;
    until("the turn is free", || b.transport.peers().context().receiving.available_permits() == 1).await;
    c.transport.send(vec![wanted(c.id, b.id)]);
    until("it is told", || statuses(&c) == [(b.id, false), (b.id, true)]).await;
    let unknown = "etcd_network_snapshot_receive_success{From=\"UNKNOWN_SNAPSHOT_SENDER\"}";
    assert_eq!(metric(&b, unknown), Some(1.0), "whoever is no member has no series");
    assert_eq!(metric(&b, "etcd_network_snapshot_receive_success{From=\"a1\"}"), Some(1.0));
}

/// An etcd member would cut the body in the same way.
#[tokio::test]
async fn a_host_that_gives_slowly_is_cut_by_the_receiver() {
    let deadline = Duration::from_millis(300);
    let receiver = Limits { deadline, heartbeat: deadline / 4, ..Limits::default() };
    let (a, b) = (Node::new(0xa1).await, Node::with(0xb2, CLUSTER, receiver).await);
    a.knows(&[&b]);
    let source = Source::of(&a, Plan { pause: Duration::from_secs(2), ..Plan::of(LARGE) });
    let sink = Sink::of(&b, Habit::default());
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("the other host heard", || sink.taken().len() == 1).await;
    assert_eq!(sink.taken()[0].error.as_deref(), Some("i/o timeout"));
    until("it is told", || statuses(&a) == [(b.id, false)]).await;
    let lines = a.lines.with("failed to send database snapshot");
    assert!(lines.len() == 1 && lines[0].contains("failed to save KV snapshot (i/o timeout)"), "{lines:#?}");
    until("this host heard", || source.ended() == 1).await;
}

#[tokio::test]
async fn a_piece_that_takes_longer_than_a_receiver_waits_is_told() {
    let sender = Limits {
        deadline: Duration::from_millis(100),
        heartbeat: Duration::from_millis(30),
        ..Limits::default()
    };
    let (a, b) = (Node::with(0xa1, CLUSTER, sender).await, Node::new(0xb2).await);
    a.knows(&[&b]);
    Source::of(&a, Plan { piece: 500, pause: Duration::from_millis(250), ..Plan::of(1_000) });
    Sink::of(&b, Habit::default());
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("it is told", || statuses(&a) == [(b.id, true)]).await;
    assert!(!a.lines.with("took longer than its receiver waits").is_empty());
}

/// Raft hears of the others while a snapshot crosses.
#[tokio::test]
async fn other_messages_pass_a_snapshot() {
    let (a, b) = pair().await;
    Source::of(&a, Plan { pause: Duration::from_millis(2), ..Plan::of(8 << 20) });
    let sink = Sink::of(&b, Habit::default());
    a.transport.send(vec![wanted(a.id, b.id)]);
    until("it is under way", || sink.read() > 0).await;
    let mut count = 0;
    while statuses(&a).is_empty() {
        count += 1;
        a.transport.send(vec![heartbeat(&a, &b, count)]);
        until("the heartbeat is here", || b.host.delivered.lock().unwrap().len() as u64 == count).await;
    }
    assert!(count > 10, "{count}");
    assert_eq!(statuses(&a), [(b.id, true)]);
}
