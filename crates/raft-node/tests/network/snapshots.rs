//! Members that lack what the leader's log no longer has.

use super::net::{Net, Node, copy, describing};
use proto::raftpb::{self, MessageType};
use raft_node::core::Input;

/// Three members, led by the first; the third was away while entries were written and released.
fn left_behind() -> Net {
    let mut net = Net::led_by(3, 1);
    net.isolate(3, true);
    for n in 0..20 {
        net.put(1, &format!("k{n}"));
        net.settle();
    }
    for id in [1, 2] {
        let applied = net.node(id).core.indexes().1;
        net.node(id).core.release(applied - 2).unwrap();
    }
    net
}

fn snapshots_sent(net: &Net) -> Vec<raftpb::Message> {
    net.sent.iter().filter(|message| message.r#type() == MessageType::MsgSnap).cloned().collect()
}

#[test]
fn a_member_behind_the_log_gets_a_snapshot_and_then_entries() {
    let mut net = left_behind();
    net.isolate(3, false);
    net.ticks(3);
    let installed = net.node(3).installed.clone();
    assert_eq!(installed.len(), 1);
    assert!(net.has(3, "k19"));
    let log = net.node(3).core.log();
    assert_eq!((log.first_index(), log.last_index() >= installed[0]), (installed[0] + 1, true));
    net.put(1, "after");
    net.settle();
    assert!(net.has(3, "after"), "the log goes on");
    assert_eq!(snapshots_sent(&net).len(), 1);
    // It can lead, and a read there sees everything.
    net.step(1, Input::Transfer(3));
    net.settle();
    assert_eq!(net.leader(), 3);
    net.put(3, "led");
    net.settle();
    assert!(net.has(1, "led") && net.has(2, "led"));
}

#[test]
fn the_log_says_after_a_restart_that_it_goes_on_from_the_snapshot() {
    let mut net = left_behind();
    net.isolate(3, false);
    net.ticks(3);
    let node = net.nodes.remove(&3).unwrap();
    let (disk, engine, index) = (node.disk.clone(), node.engine.clone(), node.installed[0]);
    drop(node);
    disk.crash(1);
    let node = Node::start(3, disk, engine, 2, &raft_node::Limits::default());
    assert_eq!((node.core.log().first_index(), node.core.conf_state().voters), (index + 1, vec![1, 2, 3]));
    net.nodes.insert(3, node);
    net.put(1, "after");
    net.ticks(3);
    assert!(net.has(3, "after"));
}

#[test]
fn a_snapshot_older_than_what_is_committed_is_ignored() {
    let mut net = left_behind();
    net.isolate(3, false);
    net.ticks(3);
    let sent = snapshots_sent(&net).remove(0);
    let (rows, message) = (copy(&net.nodes[&2].engine), describing(&sent, &net.nodes[&2].machine));
    net.put(1, "later");
    net.settle();
    let now = net.now;
    net.node(3).receive(now, &message, &rows);
    net.settle();
    assert_eq!(net.node(3).installed.len(), 1);
    assert!(net.has(3, "later"));
}

#[test]
fn after_a_failure_raft_asks_for_another_one() {
    let mut net = left_behind();
    net.lose = Some(MessageType::MsgSnap);
    net.isolate(3, false);
    net.ticks(5);
    assert_eq!(snapshots_sent(&net).len(), 1, "one at a time");
    let peers = net.node(1).core.peers();
    let pending = peers.iter().find(|peer| peer.member == 3).unwrap().snapshot;
    assert_eq!(pending, net.node(1).core.indexes().1, "it is known what is under way");
    net.step(1, Input::SnapshotDone { member: 3, ok: false });
    net.lose = None;
    net.ticks(3);
    assert_eq!((snapshots_sent(&net).len(), net.node(3).installed.len()), (2, 1));
    assert!(net.node(1).core.peers().iter().all(|peer| peer.snapshot == 0));
}

/// The import took longer than its leader led.
#[test]
fn a_snapshot_of_a_former_leader_is_as_good() {
    let mut net = left_behind();
    net.lose = Some(MessageType::MsgSnap);
    net.isolate(3, false);
    net.ticks(3);
    let sent = snapshots_sent(&net).remove(0);
    let (rows, message) = (copy(&net.nodes[&1].engine), describing(&sent, &net.nodes[&1].machine));
    net.step(1, Input::Transfer(2));
    net.settle();
    assert_eq!(net.leader(), 2);
    let now = net.now;
    net.node(3).receive(now, &message, &rows);
    net.settle();
    net.ticks(3);
    assert_eq!(net.node(3).installed.len(), 1);
    net.put(2, "after");
    net.ticks(3);
    assert!(net.has(3, "after"));
}

/// The leader that it follows would take the answer for an acknowledgement of entries that it does not have.
#[test]
fn a_snapshot_of_a_term_that_its_receiver_has_not_heard_of_is_ignored() {
    let mut net = left_behind();
    let term = net.node(3).core.leadership().term;
    net.step(1, Input::Transfer(2));
    net.settle();
    net.put(2, "later");
    net.settle();
    let kind = Some(MessageType::MsgSnap.into());
    let message = raftpb::Message { r#type: kind, to: Some(3), from: Some(2), ..Default::default() };
    let message = raftpb::Message { term: Some(net.node(2).core.leadership().term), ..message };
    let (rows, message) = (copy(&net.nodes[&2].engine), describing(&message, &net.nodes[&2].machine));
    let leadership = net.node(3).core.leadership();
    assert_eq!((leadership.term, leadership.leader), (term, 1));
    let now = net.now;
    net.node(3).receive(now, &message, &rows);
    assert!(!net.node(3).core.is_restoring());
    net.isolate(3, false);
    net.ticks(5);
    assert!(net.has(3, "later"), "it gets another one");
}
