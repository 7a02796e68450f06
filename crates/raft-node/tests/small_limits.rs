//! The node's limits, set so small that each is reached: what is refused, what waits, and that everything still makes
//! progress.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

mod switch;

use proto::{etcdserverpb as pb, raftpb};
use raft_node::{Handle, Limits, ProposeError, ReadError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use switch::{LARGE, Node, Switch, TICK, delete_all, has, put};
use wal::{MemDisk, Wal};

/// Small segments, so that released log can be observed.
const LOG: wal::Options = wal::Options { segment_bytes: 4 << 10, ..wal::Options::DEFAULT };

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn count(&self, words: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| line.contains(words)).count()
    }
}

impl slog::Drain for Lines {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
        self.0.lock().unwrap().push(record.msg().to_string());
        Ok(())
    }
}

async fn log_of(node: Node) -> Wal<MemDisk> {
    Wal::open_with(node.stop().await, LOG).unwrap().0
}

/// A cluster of members with these limits, with a leader.
async fn cluster(members: u64, limits: &Limits) -> (Arc<Switch>, Vec<Node>) {
    cluster_telling(&Lines::default(), members, limits).await
}

/// [`cluster`], whose members log to `lines`.
async fn cluster_telling(lines: &Lines, members: u64, limits: &Limits) -> (Arc<Switch>, Vec<Node>) {
    let switch = Arc::new(Switch::default());
    let log = slog::Logger::root(lines.clone(), slog::o!());
    let nodes = switch::start(&switch, members, limits, LOG, &log);
    for node in &nodes {
        node.handle.watch_leader().wait_for(|now| now.leader != 0).await.unwrap();
    }
    (switch, nodes)
}

/// Puts queued together before any is handed over; returns how each ended.
async fn puts(handle: &Handle, count: usize) -> Vec<Result<(), ProposeError>> {
    let asked: Vec<_> = (0..count).map(|n| handle.propose(put(&format!("k{n}")), None)).collect();
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(answer.await.map(drop));
    }
    answers
}

fn refused(answers: &[Result<(), ProposeError>]) -> usize {
    answers.iter().filter(|answer| matches!(answer, Err(ProposeError::TooManyRequests))).count()
}

#[tokio::test]
async fn a_full_inbox_refuses_what_is_more_and_then_takes_again() {
    let by_count = Limits { inbox_entries: 3, ..Limits::default() };
    let by_bytes = Limits { inbox_bytes: 60, ..Limits::default() };
    let by_waiters = Limits { waiters: 3, ..Limits::default() };
    for limits in [by_count, by_bytes, by_waiters] {
        let (_, mut nodes) = cluster(1, &limits).await;
        let node = nodes.pop().unwrap();
        let answers = puts(&node.handle, 10).await;
        assert_eq!(refused(&answers), 7, "{limits:?}: {answers:?}");
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
        assert_eq!(node.handle.status().pending_proposals, 0);
        assert!(puts(&node.handle, 1).await[0].is_ok());
        log_of(node).await;
    }
}

/// Reads of current rounds count too: without a leader nothing else would bound them.
#[tokio::test]
async fn so_many_reads_wait_in_all() {
    let limits = Limits { inbox_entries: 4, ..Limits::default() };
    let (switch, nodes) = cluster(3, &limits).await;
    *switch.cut.lock().unwrap() = [1, 2, 3].into();
    let handle = nodes[0].handle.clone();
    let deadline = Instant::now() + Duration::from_millis(600);
    let reads: Vec<_> = (0..10)
        .map(|n| {
            let handle = handle.clone();
            tokio::spawn(async move {
                // Some come when the first are already in a round.
                tokio::time::sleep(Duration::from_millis(10 * n)).await;
                handle.read_barrier(Some(deadline)).await
            })
        })
        .collect();
    let mut many = 0;
    for read in reads {
        many += usize::from(read.await.unwrap() == Err(ReadError::TooManyRequests));
    }
    assert_eq!(many, 6);
    switch.cut.lock().unwrap().clear();
    // Their rounds end, with or without a leader, and make room.
    let begun = Instant::now();
    while handle.read_barrier(None).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(TICK).await;
    }
    for node in nodes {
        log_of(node).await;
    }
}

#[tokio::test]
async fn peers_messages_that_are_too_many_are_dropped_and_counted() {
    let by_count = Limits { inbox_messages: 2, ..Limits::default() };
    let by_bytes = Limits { inbox_message_bytes: 1, ..Limits::default() };
    for (limits, taken) in [(by_count, 2), (by_bytes, 1)] {
        let (_, mut nodes) = cluster(1, &limits).await;
        let node = nodes.pop().unwrap();
        let heartbeat = raftpb::Message {
            r#type: Some(raftpb::MessageType::MsgHeartbeatResp.into()),
            from: Some(9),
            to: Some(1),
            term: Some(1),
            ..Default::default()
        };
        for _ in 0..10 {
            node.handle.deliver(heartbeat.clone());
        }
        assert_eq!(node.handle.meters().peer_drops("full"), 10 - taken, "{limits:?}");
        node.handle.deliver(raftpb::Message { term: None, ..heartbeat.clone() });
        assert_eq!(node.handle.meters().peer_drops("invalid"), 1);
        assert!(puts(&node.handle, 1).await[0].is_ok());
        for _ in 0..taken {
            node.handle.deliver(heartbeat.clone());
        }
        assert_eq!(node.handle.meters().peer_drops("full"), 10 - taken, "there is room again");
        log_of(node).await;
    }
}

/// Each of them once was a line: of the node for invalid ones, of raft-rs for a late candidate.
#[tokio::test]
async fn what_peers_send_is_logged_a_few_times_and_counted() {
    let limits = Limits { log_lines: 5, ..Limits::default() };
    let lines = Lines::default();
    let (_, mut nodes) = cluster_telling(&lines, 1, &limits).await;
    let node = nodes.pop().unwrap();
    for number in 0..1_000 {
        let vote = raftpb::Message {
            r#type: Some(raftpb::MessageType::MsgVote.into()),
            from: Some(10 + number),
            to: Some(1),
            term: Some(1),
            ..Default::default()
        };
        node.handle.deliver(raftpb::Message { term: None, ..vote.clone() });
        node.handle.deliver(vote);
    }
    assert!(puts(&node.handle, 1).await[0].is_ok());
    assert_eq!(node.handle.meters().peer_drops("invalid"), 1_000);
    assert_eq!((lines.count("message that is not valid"), lines.count("a message with lower term")), (5, 5));
    log_of(node).await;
}

#[tokio::test]
async fn a_batch_smaller_than_an_entry_still_takes_one_and_all_follow() {
    let small = Limits { batch_entries: 0, batch_bytes: 0, gather_yields: 0, ..Limits::default() };
    let some = Limits { batch_entries: 3, ..Limits::default() };
    for (limits, syncs) in [(small, 40), (some, 14), (Limits::default(), 1)] {
        let (_, mut nodes) = cluster(1, &limits).await;
        let node = nodes.pop().unwrap();
        let before = node.disk.operations();
        assert!(puts(&node.handle, 40).await.iter().all(Result::is_ok));
        let operations = node.disk.operations() - before;
        assert!(operations >= 2 * syncs, "{operations} operations, at least a write and a sync a batch");
        assert!(has(&node.handle, "k39"));
        log_of(node).await;
    }
}

#[tokio::test]
async fn the_engine_is_flushed_every_so_many_bytes_and_the_log_goes_behind_it() {
    let never = Limits { flush_log_bytes: u64::MAX, keep_entries: 0, ..Limits::default() };
    let always = Limits { flush_log_bytes: 1, keep_entries: 0, ..Limits::default() };
    let keeps = Limits { flush_log_bytes: 1, keep_entries: 1_000_000, ..Limits::default() };
    let by_time = Limits { flush_every: Duration::from_millis(1), ..never.clone() };
    for (limits, goes) in [(never, false), (always, true), (keeps, false), (by_time, true)] {
        let (_, mut nodes) = cluster(1, &limits).await;
        let node = nodes.pop().unwrap();
        for _ in 0..10 {
            assert!(puts(&node.handle, 100).await.iter().all(Result::is_ok));
            tokio::time::sleep(TICK).await;
        }
        let wal = log_of(node).await;
        assert_eq!(wal.first_index() > 1, goes, "{}: {limits:?}", wal.first_index());
    }
}

#[tokio::test]
async fn the_log_is_kept_for_a_member_that_lags_and_not_for_ever() {
    let small = Limits { flush_log_bytes: 1, keep_entries: 0, ..Limits::default() };
    let little = Limits { keep_lagging_steps: 1, ..small.clone() };
    let nothing = Limits { keep_lagging_steps: 0, ..small.clone() };
    let much = Limits { keep_lagging_steps: 1_000_000, ..small };
    for (limits, goes) in [(little, true), (nothing, true), (much, false)] {
        let (switch, mut nodes) = cluster(3, &limits).await;
        let leader = nodes[0].handle.status().leader;
        let lagging = if leader == 3 { 2 } else { 3 };
        switch.cut.lock().unwrap().insert(lagging);
        let at = nodes.iter().position(|node| node.handle.options().member == leader).unwrap();
        for _ in 0..10 {
            assert!(puts(&nodes[at].handle, 100).await.iter().all(Result::is_ok));
            tokio::time::sleep(TICK).await;
        }
        let wal = log_of(nodes.remove(at)).await;
        assert_eq!(wal.first_index() > 10, goes, "{}: {limits:?}", wal.first_index());
        for node in nodes {
            log_of(node).await;
        }
    }
}

/// Deadlines built on another thread, renewals that wait, and one that finds no room.
#[tokio::test]
async fn leases_end_and_are_renewed_with_the_smallest_limits() {
    let limits = Limits { deadlines_inline: 0, renewals_waiting: 0, follower_lag: 0, ..Limits::default() };
    let (_, nodes) = cluster(3, &limits).await;
    let handle = nodes[0].handle.clone();
    let grant = |id, ttl| pb::LeaseGrantRequest { id, ttl };
    handle.propose(grant(7, 2), None).await.unwrap();
    handle.propose(grant(8, 1_000), None).await.unwrap();
    let leader = nodes.iter().map(|node| &node.handle).find(|handle| handle.status().is_leader).unwrap();
    assert_eq!(leader.renew_lease(8).await, Ok(1_000));
    let begun = Instant::now();
    while handle.machine().lease(7).is_some() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the lease does not end");
        tokio::time::sleep(TICK).await;
    }
    assert!(handle.machine().lease(8).is_some());
    for node in nodes {
        log_of(node).await;
    }
}

/// While a delete of many keys is applied, puts are logged up to a limit; the rest wait.
#[tokio::test]
async fn so_many_bytes_wait_to_be_applied() {
    let switch = Switch::slow(LARGE as u64 / 2, 100 * TICK);
    let limits = Limits { backlog_bytes: 2_000, ..Limits::default() };
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let nodes = switch::start(&switch, 1, &limits, LOG, &log);
    let handle = nodes[0].handle.clone();
    assert!(puts(&handle, LARGE).await.iter().all(Result::is_ok));
    let before = handle.status().last;
    let own = handle.clone();
    let deleted = tokio::spawn(async move { own.propose(delete_all(), None).await });
    let mut asked = Vec::new();
    for number in 0..10 {
        tokio::time::sleep(TICK).await;
        let put = pb::PutRequest {
            key: format!("m{number}").into(),
            value: vec![7; 1_000].into(),
            ..Default::default()
        };
        let own = handle.clone();
        asked.push(tokio::spawn(async move { own.propose(put, None).await }));
    }
    let meanwhile = handle.status();
    assert!(meanwhile.applied <= before, "the delete is still applied");
    assert_eq!(meanwhile.last - before, 3, "the delete and two puts are logged");
    deleted.await.unwrap().unwrap();
    for answer in asked {
        answer.await.unwrap().unwrap();
    }
    assert!(has(&handle, "m9") && !has(&handle, "k0"));
    for node in nodes {
        log_of(node).await;
    }
}

/// All limits at their smallest, at once.
#[tokio::test]
async fn the_smallest_limits_let_everything_through() {
    let limits = Limits {
        backlog_entries: 0,
        backlog_bytes: 0,
        uncommitted_entries: 0,
        uncommitted_bytes: 0,
        batch_entries: 0,
        batch_bytes: 0,
        message_bytes: 0,
        inflight_messages: 0,
        group_bytes: 0,
        cache_bytes: 0,
        seen_reads: 0,
        peer_reads: 0,
        read_attempts: 0,
        read_retry: Duration::from_millis(10),
        flush_log_bytes: 0,
        keep_entries: 0,
        gather_yields: 0,
        deadlines_inline: 0,
        background_every: Duration::ZERO,
        log_lines: 0,
        ..Limits::default()
    };
    let (_, nodes) = cluster(3, &limits).await;
    for node in &nodes {
        let answers = puts(&node.handle, 30).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    for node in &nodes {
        let begun = Instant::now();
        // With one read of peers at a time, another member may have to ask again.
        while node.handle.read_barrier(None).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20));
        }
        assert!((0..30).all(|n| has(&node.handle, &format!("k{n}"))));
    }
    for node in nodes {
        log_of(node).await;
    }
}
