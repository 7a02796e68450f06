//! Each limit of the core, set so small that it is reached.

use crate::net::{ELECTION_TICKS, Net};
use proto::raftpb::MessageType;
use raft_node::Limits;
use raft_node::core::Input;

/// The numbers of entries in messages of this kind from one member to another.
fn sizes(net: &Net, kind: MessageType, from: u64, to: u64) -> Vec<usize> {
    let sent = net.sent.iter().filter(|m| m.r#type() == kind && m.from() == from && m.to() == to);
    sent.map(|message| message.entries.len()).filter(|entries| *entries > 0).collect()
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("key{n}")).collect()
}

fn puts(net: &mut Net, at: u64, count: usize) {
    for key in keys(count) {
        net.put(at, &key);
    }
}

fn have_all(net: &Net, count: usize) -> bool {
    keys(count).iter().all(|key| (1..=3).all(|node| net.has(node, key)))
}

#[test]
fn what_is_forwarded_is_cut_into_messages_of_so_many_bytes() {
    // A put takes 18 bytes.
    for (message_bytes, expected) in [(0, vec![1; 7]), (30, vec![2, 2, 2, 1]), (1 << 20, vec![7])] {
        let limits = Limits { message_bytes, ..Limits::default() };
        let mut net = Net::led_with(3, 1, &limits);
        puts(&mut net, 2, 7);
        net.settle();
        assert_eq!(sizes(&net, MessageType::MsgProp, 2, 1), expected, "{message_bytes}");
        assert!(have_all(&net, 7));
    }
}

#[test]
fn what_is_forwarded_is_cut_into_messages_of_as_many_entries_as_a_peer_takes() {
    let limits = Limits { peer_entries: 3, ..Limits::default() };
    let mut net = Net::led_with(3, 1, &limits);
    for key in keys(7) {
        net.put(2, &key);
    }
    let now = net.now;
    let batch = net.node(2).waiting.drain(..).collect();
    net.node(2).core.step(now, Input::Propose(batch));
    let work = net.node(2).core.work().unwrap().unwrap();
    let messages = net.node(2).core.persist(work).unwrap().messages;
    let sizes: Vec<usize> = messages.iter().map(|message| message.entries.len()).collect();
    assert_eq!(sizes, [3, 3, 1]);
}

#[test]
fn a_follower_that_was_away_gets_the_log_in_messages_of_at_least_one_entry() {
    for (message_bytes, most) in [(0, 1), (1 << 20, 20)] {
        let limits = Limits { message_bytes, ..Limits::default() };
        let mut net = Net::led_with(3, 1, &limits);
        net.isolate(3, true);
        puts(&mut net, 1, 20);
        net.settle();
        net.isolate(3, false);
        net.sent.clear();
        net.ticks(5);
        let sizes = sizes(&net, MessageType::MsgApp, 1, 3);
        assert_eq!(sizes.iter().copied().max(), Some(most), "{sizes:?}");
        assert!(have_all(&net, 20));
    }
}

#[test]
fn so_many_appends_are_in_flight_to_a_member_and_the_rest_follows() {
    let limits = Limits { inflight_messages: 2, ..Limits::default() };
    let mut net = Net::led_with(3, 1, &limits);
    net.sent.clear();
    net.lose = Some(MessageType::MsgAppResp);
    for key in keys(6) {
        net.put(1, &key);
        net.settle();
    }
    assert_eq!(sizes(&net, MessageType::MsgApp, 1, 3), [1, 1]);
    net.lose = None;
    net.ticks(6);
    assert!(have_all(&net, 6));
}

#[test]
fn what_the_cache_lost_comes_from_the_log() {
    for (cache_bytes, reads) in [(0, true), (200, true), (16 << 20, false)] {
        let limits = Limits { cache_bytes, ..Limits::default() };
        let mut net = Net::led_with(3, 1, &limits);
        net.isolate(3, true);
        puts(&mut net, 1, 20);
        net.settle();
        let before = net.nodes[&1].log_reads();
        net.isolate(3, false);
        net.ticks(5);
        assert_eq!(net.nodes[&1].log_reads() > before, reads, "{cache_bytes}");
        assert!(have_all(&net, 20));
    }
}

#[test]
fn committed_entries_come_in_groups_of_so_many_bytes_and_at_least_one_entry() {
    // raft hands them over in two pieces, each of them bounded.
    for (group_bytes, most) in [(0, 2), (1 << 20, 9)] {
        let limits = Limits { group_bytes, ..Limits::default() };
        let mut net = Net::led_with(3, 1, &limits);
        net.node(1).groups.clear();
        puts(&mut net, 1, 9);
        net.settle();
        assert_eq!(net.nodes[&1].groups.iter().max(), Some(&most));
        assert!(have_all(&net, 9));
    }
}

#[test]
fn nothing_enters_the_log_while_too_much_is_not_committed() {
    let by_count = Limits { uncommitted_entries: 2, ..Limits::default() };
    let by_bytes = Limits { uncommitted_bytes: 20, ..Limits::default() };
    for (limits, logged) in [(by_count, 3), (by_bytes, 2)] {
        let mut net = Net::led_with(3, 1, &limits);
        let (_, _, before) = net.nodes[&1].core.indexes();
        net.isolate(1, true);
        for key in keys(6) {
            net.put(1, &key);
            net.settle();
        }
        let (_, _, last) = net.nodes[&1].core.indexes();
        assert_eq!(
            (last - before, net.nodes[&1].waiting.len()),
            (logged, 6 - usize::try_from(logged).unwrap())
        );
        net.isolate(1, false);
        net.ticks(ELECTION_TICKS / 2);
        assert!(have_all(&net, 6), "{limits:?}");
    }
}

#[test]
fn nothing_enters_the_log_while_too_much_is_not_applied() {
    let limits = Limits { backlog_entries: 1, ..Limits::default() };
    let mut net = Net::led_with(1, 1, &limits);
    puts(&mut net, 1, 2);
    let now = net.now;
    let batch = net.node(1).waiting.drain(..).collect();
    let core = &mut net.node(1).core;
    core.step(now, Input::Propose(batch));
    let work = core.work().unwrap().unwrap();
    let committed = core.persist(work).unwrap().committed;
    assert_eq!((committed.len(), core.takes_proposals()), (2, false));
    let node = net.node(1);
    let outcomes = node.machine.apply(&committed[..1]).unwrap();
    node.core.applied(now, committed[0].index, &outcomes).unwrap();
    assert!(node.core.takes_proposals());
}

/// With the smallest limits everything still makes progress, a piece at a time.
#[test]
fn the_smallest_limits_let_one_piece_through() {
    let limits = Limits {
        backlog_entries: 0,
        backlog_bytes: 0,
        uncommitted_entries: 0,
        uncommitted_bytes: 0,
        raft_uncommitted_bytes: 0,
        message_bytes: 0,
        inflight_messages: 0,
        group_bytes: 0,
        cache_bytes: 0,
        seen_reads: 0,
        peer_reads: 0,
        read_attempts: 0,
        forward_hops: 0,
        ..Limits::default()
    };
    let mut net = Net::led_with(3, 1, &limits);
    for (at, key) in keys(12).iter().enumerate() {
        net.put(1 + at as u64 % 3, key);
    }
    net.ticks(3);
    for node in 1..=3 {
        net.step(node, Input::Read(node));
    }
    net.ticks(3 * ELECTION_TICKS);
    assert!(have_all(&net, 12));
    assert!((1..=3).all(|node| net.nodes[&node].reads.iter().any(|read| read.result == Ok(()))));
}

/// Entries beyond the cache are read from the log: a disk that cannot be read ends the search, and the process.
#[test]
fn a_leader_whose_log_cannot_be_read_does_not_look_for_revokes_for_ever() {
    let mut net = Net::led_with(3, 1, &Limits { cache_bytes: 1, ..Limits::default() });
    net.isolate(1, true);
    for key in ["a", "b", "c"] {
        net.put(1, key);
    }
    net.settle();
    let leader = net.node(1);
    leader.disk.trouble(wal::Trouble::NoReads);
    assert!(leader.core.pending_revokes().is_err());
}
