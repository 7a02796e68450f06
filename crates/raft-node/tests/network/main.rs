//! Scenarios of a few members: elections, replication, forwarding, reads, membership changes, hazards of raft-rs.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

mod limits;
mod members;
mod net;
mod snapshots;
mod strangers;

use net::{ELECTION_TICKS, Net, Node};
use proto::raftpb::{self, MessageType};
use raft_node::convert::{Incoming, incoming};
use raft_node::core::Input;
use raft_node::{Limits, ReadError};

#[test]
fn the_members_elect_a_leader_without_help_and_replicate() {
    let mut net = Net::new(3);
    net.ticks(2 * ELECTION_TICKS);
    let leader = net.leader();
    assert_ne!(leader, 0);
    let id = net.put(leader, "k");
    net.settle();
    assert!((1..=3).all(|node| net.has(node, "k")));
    assert!(net.nodes[&leader].outcomes.iter().any(|outcome| outcome.request_id == id));
}

#[test]
fn the_leader_sends_before_its_own_write_and_followers_after_theirs() {
    let mut net = Net::led_by(3, 1);
    let now = net.now;
    net.put(1, "k");
    let batch = net.node(1).waiting.drain(..).collect();
    net.step(1, Input::Propose(batch));
    let work = net.node(1).core.work().unwrap().unwrap();
    let appends: Vec<_> =
        work.messages.iter().filter(|m| m.r#type() == MessageType::MsgApp).cloned().collect();
    assert_eq!(appends.len(), 2, "one for each follower");
    net.node(1).core.persist(work).unwrap();
    let Incoming::Step(append) = incoming(appends[0].clone(), appends[0].to(), &Limits::default()).unwrap()
    else {
        panic!()
    };
    let follower = net.node(appends[0].to());
    follower.core.step(now, Input::Message(append));
    let work = follower.core.work().unwrap().unwrap();
    assert!(work.messages.is_empty(), "no acknowledgement before the write");
    let syncs = follower.disk.operations();
    let persisted = follower.core.persist(work).unwrap();
    assert!(follower.disk.operations() > syncs);
    assert_eq!(persisted.messages[0].r#type(), MessageType::MsgAppResp);
}

#[test]
fn a_follower_forwards_and_gets_its_answer_when_the_entry_comes_back() {
    let mut net = Net::led_by(3, 1);
    let id = net.put(2, "k");
    net.settle();
    assert!(net.nodes[&2].outcomes.iter().any(|outcome| outcome.request_id == id));
    assert_eq!(net.sent.iter().filter(|m| m.r#type() == MessageType::MsgProp).count(), 1);
}

#[test]
fn without_a_leader_a_proposal_waits_and_is_sent_once() {
    let mut net = Net::new(3);
    net.put(2, "k");
    net.settle();
    assert_eq!(net.nodes[&2].waiting.len(), 1);
    net.campaign(1);
    net.ticks(5);
    assert!(net.has(3, "k"));
    assert_eq!(net.sent.iter().filter(|m| m.r#type() == MessageType::MsgProp).count(), 1);
}

#[test]
fn a_forwarded_proposal_that_was_lost_is_never_sent_again() {
    let mut net = Net::led_by(3, 1);
    net.cut.insert((2, 1));
    net.put(2, "k");
    net.settle();
    net.cut.clear();
    net.ticks(20);
    assert!(!net.has(1, "k") && net.nodes[&2].waiting.is_empty());
}

#[test]
fn reads_are_served_at_every_member_once_it_has_applied_what_was_committed() {
    let mut net = Net::led_by(3, 1);
    for (token, node) in [(1, 1), (2, 2), (3, 3)] {
        net.step(node, Input::Read(token));
    }
    net.settle();
    for (token, node) in [(1, 1), (2, 2), (3, 3)] {
        let done = &net.nodes[&node].reads;
        assert_eq!((&done[0].tokens[..], done[0].result), (&[token][..], Ok(())), "at {node}");
    }
}

#[test]
fn reads_that_come_during_a_round_start_the_next_without_waiting_for_a_tick() {
    for members in [1, 3] {
        let mut net = Net::led_by(members, 1);
        for token in [1, 2] {
            net.step(1, Input::Read(token));
        }
        net.settle();
        let served: Vec<_> = net.nodes[&1].reads.iter().map(|read| (&read.tokens[..], read.result)).collect();
        assert_eq!(served, [(&[1][..], Ok(())), (&[2][..], Ok(()))], "of {members}");
    }
}

#[test]
fn a_read_at_a_lagging_follower_waits_for_what_was_acknowledged_elsewhere() {
    let mut net = Net::led_by(3, 1);
    net.cut.insert((1, 3));
    net.put(1, "k");
    net.settle();
    assert!(net.has(1, "k") && !net.has(3, "k"));
    net.step(3, Input::Read(1));
    net.settle();
    assert!(net.nodes[&3].reads.is_empty());
    net.cut.clear();
    net.ticks(6);
    assert!(net.has(3, "k"));
    assert_eq!(net.nodes[&3].reads[0].result, Ok(()));
}

#[test]
fn a_leader_alone_confirms_no_read() {
    let mut net = Net::led_by(3, 1);
    net.isolate(1, true);
    net.step(1, Input::Read(1));
    net.ticks(3);
    assert!(net.nodes[&1].reads.is_empty());
}

#[test]
fn reads_under_way_end_when_a_new_leader_comes() {
    let mut net = Net::led_by(3, 1);
    net.isolate(1, true);
    net.step(2, Input::Read(1));
    net.step(1, Input::Read(2));
    net.settle();
    net.ticks(2 * ELECTION_TICKS);
    assert_eq!(net.nodes[&2].reads[0].result, Err(ReadError::LeaderChanged));
    net.isolate(1, false);
    net.ticks(3);
    assert_eq!(net.nodes[&1].reads[0].result, Err(ReadError::LeaderChanged));
}

/// raft-rs silently drops a ReadIndex before the first commit of the term.
#[test]
fn a_read_that_raft_dropped_is_asked_again_on_the_first_commit_of_the_term() {
    let mut net = Net::new(3);
    net.lose = Some(MessageType::MsgAppResp);
    net.campaign(1);
    net.step(1, Input::Read(7));
    net.settle();
    net.lose = None;
    // One heartbeat brings the acknowledgement, and with it the first commit: long before the retry is due.
    net.ticks(1);
    assert_eq!(net.nodes[&1].reads[0].result, Ok(()));
}

#[test]
fn a_read_without_a_leader_is_retried_with_fresh_contexts_every_half_second() {
    let mut net = Net::led_by(3, 1);
    net.cut.insert((3, 1));
    net.step(3, Input::Read(1));
    net.settle();
    net.ticks(6);
    let contexts: Vec<_> = net
        .sent
        .iter()
        .filter(|m| m.r#type() == MessageType::MsgReadIndex)
        .map(|m| m.entries[0].data().to_vec())
        .collect();
    assert_eq!(contexts.len(), 2, "{contexts:?}");
    assert!(contexts[0] != contexts[1] && contexts.iter().all(|context| context.len() == 8));
    net.cut.clear();
    net.ticks(6);
    assert_eq!(net.nodes[&3].reads[0].result, Ok(()));
}

/// The clock alone must trigger it: the simulator once found a member that spun until the next tick.
#[test]
fn a_read_that_is_due_is_asked_again_without_a_tick_or_an_input() {
    let mut net = Net::led_by(3, 1);
    net.cut.insert((2, 1));
    net.step(2, Input::Read(1));
    net.settle();
    net.cut.clear();
    net.now = net.nodes[&2].core.wake_at().unwrap();
    let now = net.now;
    net.node(2).core.wake(now);
    net.settle();
    assert_eq!(net.nodes[&2].reads[0].result, Ok(()));
    assert_eq!(net.nodes[&2].core.wake_at(), None);
}

/// A repeated context could serve a newer read at an old index (etcd issue 20418).
#[test]
fn the_leader_takes_a_context_of_a_peer_once() {
    let mut net = Net::led_by(3, 1);
    let read = raftpb::Message {
        r#type: Some(MessageType::MsgReadIndex.into()),
        to: Some(1),
        from: Some(2),
        entries: vec![raftpb::Entry {
            data: Some(77u64.to_be_bytes().to_vec().into()),
            ..Default::default()
        }],
        ..Default::default()
    };
    let answers = |net: &Net| net.sent.iter().filter(|m| m.r#type() == MessageType::MsgReadIndexResp).count();
    net.deliver(&read);
    net.settle();
    assert_eq!(answers(&net), 1);
    net.deliver(&read);
    net.settle();
    assert_eq!(answers(&net), 1);
}

#[test]
fn the_commit_index_is_raised_to_what_the_engine_has_applied() {
    let mut net = Net::led_by(3, 1);
    net.put(1, "k");
    net.settle();
    // The member never settled, so the newest commit index was not written, but the engine has applied it.
    let written = net.nodes[&2].core.log().hard_state().commit;
    let applied = net.nodes[&2].machine.applied().0;
    assert!(written <= applied);
    net.restart(2, 2);
    let (commit, again, _) = net.nodes[&2].core.indexes();
    assert!(commit >= applied && again == applied);
    net.put(1, "l");
    net.ticks(3);
    assert!(net.has(2, "l"));
}

#[test]
fn a_log_that_ends_before_the_engine_is_refused() {
    let mut net = Net::led_by(1, 1);
    net.put(1, "k");
    net.settle();
    let engine = net.nodes[&1].engine.clone();
    let fresh = Net::new(1).nodes.remove(&1).unwrap().disk;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Node::start(1, fresh, engine, 3, &Limits::default())
    }));
    assert!(result.is_err(), "the log lacks entries that were applied");
}

/// Each of these makes raft-rs 0.7.0 panic, or answer wrongly.
#[test]
fn what_no_correct_peer_sends_is_dropped() {
    let mut net = Net::led_by(3, 1);
    net.put(1, "k");
    net.settle();
    let term = net.nodes[&1].core.leadership().term;
    let message = |kind: MessageType, from, to| raftpb::Message {
        r#type: Some(kind.into()),
        from: Some(from),
        to: Some(to),
        term: Some(term),
        ..Default::default()
    };
    let bad = [
        raftpb::Message { commit: Some(1000), ..message(MessageType::MsgHeartbeat, 1, 2) },
        raftpb::Message { index: Some(5), log_term: Some(1), ..message(MessageType::MsgApp, 1, 2) },
        raftpb::Message { index: Some(u64::MAX), ..message(MessageType::MsgAppResp, 2, 1) },
        message(MessageType::MsgTransferLeader, 3, 2),
        raftpb::Message { term: Some(term + 5), ..message(MessageType::MsgTransferLeader, 3, 1) },
    ];
    for message in bad {
        net.deliver(&message);
        net.settle();
    }
    assert_eq!(net.leader(), 1);
    net.put(2, "l");
    net.settle();
    assert!(net.has(3, "l"));
}

#[test]
fn leadership_is_handed_over_and_proposals_wait_meanwhile() {
    let mut net = Net::led_by(3, 1);
    net.cut.insert((1, 2));
    net.step(1, Input::Transfer(2));
    net.settle();
    assert!(!net.nodes[&1].core.takes_proposals());
    net.put(1, "k");
    net.settle();
    assert_eq!(net.nodes[&1].waiting.len(), 1);
    net.cut.clear();
    net.ticks(ELECTION_TICKS + 1);
    net.step(1, Input::Transfer(2));
    net.settle();
    net.ticks(1);
    assert_eq!(net.leader(), 2);
    assert!(net.has(3, "k"));
}

#[test]
fn a_member_that_was_away_catches_up_from_the_log() {
    let mut net = Net::led_by(3, 1);
    net.isolate(3, true);
    for i in 0..500 {
        net.put(1, &format!("k{i}"));
        net.settle();
    }
    net.isolate(3, false);
    net.ticks(10);
    assert!(net.has(3, "k0") && net.has(3, "k499"));
}

/// What a leader decided by its own clock is never decided by another.
#[test]
fn entries_of_a_term_are_logged_by_its_leader_or_by_nobody() {
    let mut net = Net::led_by(3, 1);
    let term = net.nodes[&1].core.leadership().term;
    let entry = |net: &mut Net, node: u64| {
        net.put(node, "k");
        net.node(node).waiting.drain(..).collect::<Vec<_>>()
    };
    for (node, term) in [(2, term), (1, term - 1), (1, term + 1)] {
        let entries = entry(&mut net, node);
        let id = entries[0].id;
        net.step(node, Input::ProposeInTerm(term, entries));
        net.settle();
        assert!(net.nodes[&node].refused.iter().any(|(refused, _)| *refused == id), "{node} {term}");
        assert!(!net.has(1, "k") && net.nodes[&node].waiting.is_empty());
    }
    assert!(net.sent.iter().all(|message| message.r#type() != MessageType::MsgProp));
    // During a leadership transfer they are refused, too.
    let entries = entry(&mut net, 1);
    net.cut.insert((1, 2));
    net.step(1, Input::Transfer(2));
    net.step(1, Input::ProposeInTerm(term, entries));
    net.settle();
    assert!(!net.has(1, "k"));
    net.cut.clear();
    let mut net = Net::led_by(3, 1);
    let term = net.nodes[&1].core.leadership().term;
    let entries = entry(&mut net, 1);
    net.step(1, Input::ProposeInTerm(term, entries));
    net.settle();
    assert!(net.has(1, "k") && net.has(2, "k"));
}

/// A leader sends before its own write, and counts its own log for the majority only after it. Without the third
/// member, every entry here counts on two, one of them the leader.
#[test]
fn what_a_leader_counts_of_its_own_log_survives_the_loss_of_power() {
    for seed in 0..20 {
        let mut net = Net::led_by(3, 1);
        net.isolate(3, true);
        for key in ["a", "b", "c"] {
            net.put(1, key);
            net.settle();
        }
        let (commit, applied, last) = net.nodes[&1].core.indexes();
        assert_eq!((commit, applied), (last, last));
        let disk = net.nodes.remove(&1).unwrap().disk;
        disk.crash(seed);
        let (wal, replayed) = wal::Wal::open(disk).unwrap();
        assert_eq!(
            (wal.last_index(), wal.term(commit)),
            (last, Some(replayed.hard_state.term)),
            "seed {seed}"
        );
    }
}

/// An entry that the other lacks is not committed before this member's write is done.
#[test]
fn the_leaders_own_entry_counts_after_its_write() {
    let mut net = Net::led_by(3, 1);
    net.isolate(3, true);
    net.put(1, "k");
    let now = net.now;
    let batch = net.node(1).waiting.drain(..).collect();
    net.step(1, Input::Propose(batch));
    let (before, _, _) = net.nodes[&1].core.indexes();
    let work = net.node(1).core.work().unwrap().unwrap();
    let append = work.messages.iter().find(|message| message.to() == 2).unwrap().clone();
    // The other has it, and acknowledges it, before this member's disk does.
    net.deliver(&append);
    let acknowledged = raftpb::Message {
        r#type: Some(MessageType::MsgAppResp.into()),
        from: Some(2),
        to: Some(1),
        term: Some(append.term()),
        index: Some(append.index() + 1),
        ..Default::default()
    };
    let Incoming::Step(acknowledged) = incoming(acknowledged, 1, &Limits::default()).unwrap() else {
        panic!()
    };
    let core = &mut net.node(1).core;
    core.step(now, Input::Message(acknowledged));
    assert_eq!(core.indexes().0, before, "one of three has it on disk");
    let persisted = core.persist(work).unwrap();
    assert_eq!((core.indexes().0, persisted.committed.len()), (before + 1, 1));
}
