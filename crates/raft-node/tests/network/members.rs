//! Membership changes, by etcd's numbers.

use crate::net::{Net, Node, change, create_log, member};
use engine::MemoryEngine;
use machine::Effect;
use prost::Message as _;
use proto::raftpb;
use raft_node::bootstrap;
use raft_node::convert::{Rejected, incoming};
use raft_node::core::Input;
use raft_node::{Limits, ProposeError};
use std::sync::Arc;
use types::{ConfState, Entry, EntryKind, HardState};
use wal::MemDisk;

const ADD: raftpb::ConfChangeType = raftpb::ConfChangeType::ConfChangeAddNode;
const REMOVE: raftpb::ConfChangeType = raftpb::ConfChangeType::ConfChangeRemoveNode;
const UPDATE: raftpb::ConfChangeType = raftpb::ConfChangeType::ConfChangeUpdateNode;
const LEARNER: raftpb::ConfChangeType = raftpb::ConfChangeType::ConfChangeAddLearnerNode;

fn urls(id: u64, port: u64, rest: &str) -> String {
    format!(r#"{{"id":{id},"peerURLs":["http://127.0.0.1:{port}"]{rest}}}"#)
}

fn conf(voters: &[u64], learners: &[u64]) -> ConfState {
    ConfState { voters: voters.to_vec(), learners: learners.to_vec() }
}

/// The changes in a cluster's life as etcd 3.7 logs them, with the members after each.
fn life() -> Vec<(raftpb::ConfChange, ConfState)> {
    vec![
        (change(ADD, 4, Some(urls(4, 4, ""))), conf(&[1, 2, 3, 4], &[])),
        (change(LEARNER, 5, Some(urls(5, 5, r#","isLearner":true"#))), conf(&[1, 2, 3, 4], &[5])),
        (
            change(ADD, 5, Some(r#"{"id":5,"peerURLs":null,"isPromote":true}"#.into())),
            conf(&[1, 2, 3, 4, 5], &[]),
        ),
        (change(UPDATE, 5, Some(urls(5, 55, ""))), conf(&[1, 2, 3, 4, 5], &[])),
        (change(REMOVE, 4, None), conf(&[1, 2, 3, 5], &[])),
        // Refused alike on every member: the URL is taken.
        (change(ADD, 6, Some(urls(6, 55, ""))), conf(&[1, 2, 3, 5], &[])),
    ]
}

#[test]
fn a_log_written_by_etcd_replays_to_the_same_members() {
    let list: Vec<_> = (1..=3).map(member).collect();
    let (mut entries, _) = bootstrap::first_log(&list);
    let noop = Entry { term: 2, index: 4, kind: EntryKind::Normal, data: bytes::Bytes::new() };
    entries.push(noop);
    for (index, (change, _)) in (5..).zip(life()) {
        let change = raftpb::ConfChange { id: Some(1000 + index), ..change };
        let data = change.encode_to_vec().into();
        entries.push(Entry { term: 2, index, kind: EntryKind::ConfChange, data });
    }
    for upto in 0..life().len() {
        let commit = 5 + upto as u64;
        let disk = MemDisk::new();
        let mut wal = create_log(&disk, 2);
        wal.append(&entries, Some(&HardState { term: 2, vote: 1, commit })).unwrap();
        wal.sync().unwrap();
        drop(wal);
        let mut net = Net::new(1);
        net.nodes.clear();
        net.nodes.insert(2, Node::start(2, disk, Arc::new(MemoryEngine::default()), 1, &Limits::default()));
        net.settle();
        let node = &net.nodes[&2];
        let expected = &life()[upto].1;
        assert_eq!(node.machine.applied().0, commit);
        assert_eq!(
            (&node.core.conf_state(), &node.machine.conf_state()),
            (expected, expected),
            "step {upto}"
        );
    }
}

#[test]
fn a_leader_logs_every_kind_of_change_in_etcds_bytes() {
    for proposer in [1, 2] {
        let mut net = Net::led_by(3, 1);
        for (change, expected) in life() {
            let id = net.change(proposer, change.clone());
            net.ticks(2);
            assert!(net.nodes.values().all(|node| node.core.conf_state() == expected), "{change:?}");
            let outcomes = &net.nodes[&proposer].outcomes;
            let outcome = outcomes.iter().find(|outcome| outcome.request_id == id).unwrap();
            assert!(matches!(outcome.effect, Effect::Conf { .. }));
            let log = net.nodes[&3].core.log();
            let logged = log.entries(outcome.index, outcome.index + 1, u64::MAX).unwrap();
            let expected = raftpb::ConfChange { id: Some(id), ..change };
            assert_eq!(logged[0].data, expected.encode_to_vec());
        }
    }
}

#[test]
fn one_change_at_a_time_and_the_second_waits() {
    let mut net = Net::led_by(3, 1);
    net.isolate(1, true);
    net.change(1, life()[0].0.clone());
    net.change(1, life()[1].0.clone());
    net.settle();
    assert_eq!(net.nodes[&1].waiting.len(), 1);
    net.isolate(1, false);
    net.ticks(3);
    assert_eq!(net.nodes[&2].core.conf_state(), life()[1].1);
}

#[test]
fn what_cannot_be_read_as_a_change_never_enters_the_log() {
    let mut net = Net::led_by(3, 1);
    let (now, last) = (net.now, net.nodes[&1].core.indexes().2);
    net.node(1).propose(now, EntryKind::ConfChange, 9, b"\xff\xff".to_vec());
    net.settle();
    // An unknown kind, forwarded by a follower.
    let entry = raftpb::Entry {
        r#type: Some(raftpb::EntryType::EntryConfChange.into()),
        data: Some(vec![0x10, 9, 0x18, 4].into()),
        ..Default::default()
    };
    let forwarded = raftpb::Message {
        r#type: Some(raftpb::MessageType::MsgProp.into()),
        from: Some(2),
        to: Some(1),
        entries: vec![entry],
        ..Default::default()
    };
    assert!(matches!(incoming(forwarded, 1, &Limits::default()), Err(Rejected::Entry(_))));
    assert!(matches!(net.nodes[&1].refused[..], [(9, ProposeError::Fault)]));
    assert_eq!(net.nodes[&1].core.indexes().2, last);
}

#[test]
fn a_leader_that_is_to_be_removed_hands_leadership_over_first() {
    let mut net = Net::led_by(3, 1);
    net.change(1, change(REMOVE, 1, None));
    net.ticks(3);
    assert!(net.nodes[&1].core.is_removed());
    assert!([2, 3].contains(&net.nodes[&2].core.leadership().leader));
    net.put(2, "k");
    net.ticks(1);
    assert!(net.has(3, "k"));
}

/// Just after a quorum check no member counts as active. Of two members, the other could not know that the removal is
/// committed, nor be elected without it.
#[test]
fn a_leader_that_hears_of_nobody_does_not_log_its_own_removal() {
    let mut net = Net::led_by(2, 1);
    net.isolate(2, true);
    net.ticks(12);
    assert!(net.nodes[&1].core.leadership().is_leader && net.nodes[&1].core.best_transferee().is_none());
    let last = net.nodes[&1].core.indexes().2;
    net.change(1, change(REMOVE, 1, None));
    net.settle();
    assert_eq!((net.nodes[&1].core.indexes().2, net.nodes[&1].waiting.len()), (last, 1));
    net.isolate(2, false);
    net.ticks(5);
    assert!(net.nodes[&1].core.is_removed());
    net.put(2, "k");
    net.ticks(1);
    assert!(net.has(2, "k"));
}

/// raft-rs 0.7.0 panics as soon as anything persists at a leader that has applied its own removal.
#[test]
fn a_leader_that_applies_its_own_removal_stops_without_a_panic() {
    let mut net = Net::led_by(3, 1);
    // Member 1 logs the removal of member 2 everywhere, but dies before anybody knows that it is committed.
    net.cut.extend([(2, 1), (3, 1)]);
    net.change(1, change(REMOVE, 2, None));
    net.settle();
    net.isolate(1, true);
    net.ticks(40);
    let node = &net.nodes[&2];
    assert!(node.core.is_removed() && node.core.leadership().is_leader, "it was the leader that applied it");
    net.isolate(1, false);
    net.ticks(40);
    assert_eq!(net.nodes[&3].core.conf_state().voters, [1, 3]);
    net.put(3, "k");
    net.ticks(5);
    assert!(net.has(1, "k") && net.has(3, "k"));
    // Later inputs are ignored.
    net.step(2, Input::Campaign);
    net.step(2, Input::Tick);
}

#[test]
fn a_learner_gets_the_log_and_never_campaigns() {
    let mut net = Net::led_by(1, 1);
    let disk = MemDisk::new();
    drop(create_log(&disk, 5));
    net.nodes.insert(5, Node::start(5, disk, Arc::new(MemoryEngine::default()), 1, &Limits::default()));
    net.put(1, "k");
    net.settle();
    net.change(1, life()[1].0.clone());
    net.ticks(5);
    assert!(net.has(5, "k"), "a joiner with an empty log gets it from the first entry on");
    assert_eq!(net.nodes[&5].core.conf_state(), conf(&[1], &[5]));
    net.isolate(5, true);
    let term = net.nodes[&5].core.leadership().term;
    net.ticks(50);
    assert_eq!(net.nodes[&5].core.leadership().term, term);
}

/// After a crash loses a term, the same term may have other messages.
#[test]
fn the_only_voter_tells_its_learners_nothing_of_a_term_that_is_not_on_disk() {
    let mut net = Net::led_by(1, 1);
    net.change(1, life()[1].0.clone());
    net.settle();
    net.restart(1, 2);
    let term = net.nodes[&1].core.leadership().term;
    net.step(1, Input::Campaign);
    assert!(net.nodes[&1].core.leadership().is_leader);
    let core = &mut net.node(1).core;
    let work = core.work().unwrap().unwrap();
    assert_eq!((work.messages.len(), core.log().hard_state().term), (0, term));
    let persisted = core.persist(work).unwrap();
    assert_eq!(core.log().hard_state().term, term + 1);
    assert_eq!(persisted.messages[0].term(), term + 1);
}
