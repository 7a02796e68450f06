//! Messages of strangers, of mistaken members, and of malicious ones.

use crate::net::{ELECTION_TICKS, Net};
use proto::raftpb::{self, MessageType};
use raft_node::Limits;
use raft_node::core::{Dropped, Input};
use std::time::Duration;

fn message(kind: MessageType, from: u64, to: u64, term: u64) -> raftpb::Message {
    raftpb::Message {
        r#type: Some(kind.into()),
        from: Some(from),
        to: Some(to),
        term: (term != 0).then_some(term),
        ..Default::default()
    }
}

fn read(from: u64, to: u64, context: u64) -> raftpb::Message {
    let data = Some(context.to_be_bytes().to_vec().into());
    let entries = vec![raftpb::Entry { data, ..Default::default() }];
    raftpb::Message { entries, ..message(MessageType::MsgReadIndex, from, to, 0) }
}

fn count(net: &Net, kind: MessageType) -> usize {
    net.sent.iter().filter(|message| message.r#type() == kind).count()
}

/// Such reads once made the leader remember contexts for every sender named in a message.
#[test]
fn reads_of_strangers_are_neither_answered_nor_remembered() {
    let mut net = Net::led_by(3, 1);
    let heartbeats = count(&net, MessageType::MsgHeartbeat);
    for stranger in 10..1_010 {
        net.deliver(&read(stranger, 1, stranger));
    }
    net.settle();
    assert_eq!(count(&net, MessageType::MsgReadIndexResp), 0);
    assert_eq!(count(&net, MessageType::MsgHeartbeat), heartbeats, "no round was begun for them");
    assert_eq!(net.nodes[&1].dropped, [Dropped::Message; 1_000]);
    net.deliver(&read(2, 1, 5));
    net.settle();
    assert_eq!(count(&net, MessageType::MsgReadIndexResp), 1);
}

#[test]
fn a_leader_has_only_so_many_reads_of_peers_under_way() {
    let limits = Limits { peer_reads: 4, ..Limits::default() };
    let mut net = Net::led_with(3, 1, &limits);
    net.lose = Some(MessageType::MsgHeartbeatResp);
    for context in 0..10 {
        net.deliver(&read(2, 1, context));
    }
    net.settle();
    assert_eq!(net.nodes[&1].dropped, [Dropped::Message; 6]);
    // The next heartbeat confirms the last of them, and so all.
    net.lose = None;
    net.ticks(1);
    assert_eq!(count(&net, MessageType::MsgReadIndexResp), 4);
    net.deliver(&read(2, 1, 11));
    net.settle();
    assert_eq!(count(&net, MessageType::MsgReadIndexResp), 5);
}

/// It could circle forever among members that take each other for the leader; the asker asks again.
#[test]
fn a_read_is_not_handed_on() {
    let mut net = Net::led_by(3, 1);
    net.deliver(&read(3, 2, 5));
    net.settle();
    assert_eq!(count(&net, MessageType::MsgReadIndex), 0);
    net.step(3, Input::Read(1));
    net.settle();
    assert_eq!(net.nodes[&3].reads[0].result, Ok(()));
}

/// At the maximum term, no election could succeed any more.
#[test]
fn a_forged_term_does_not_stick() {
    let mut net = Net::led_by(3, 1);
    let term = net.nodes[&1].core.leadership().term;
    let leap = Limits::default().term_leap;
    for forged in [u64::MAX, u64::MAX - 1, term + leap + 1] {
        for from in [2, 99] {
            for kind in [
                MessageType::MsgApp,
                MessageType::MsgHeartbeat,
                MessageType::MsgAppResp,
                MessageType::MsgHeartbeatResp,
                MessageType::MsgVote,
                MessageType::MsgVoteResp,
                MessageType::MsgPreVote,
                MessageType::MsgTimeoutNow,
            ] {
                // A candidate that was transferred leadership: check-quorum does not protect from it.
                let context = (kind == MessageType::MsgVote).then(|| "CampaignTransfer".into());
                net.deliver(&raftpb::Message { context, ..message(kind, from, 1, forged) });
            }
            let reject = Some(true);
            let refusal = message(MessageType::MsgPreVoteResp, from, 1, forged);
            net.deliver(&raftpb::Message { reject, ..refusal });
            net.settle();
        }
    }
    let now = net.nodes[&1].core.leadership();
    assert_eq!((now.term, now.is_leader), (term, true));
    // A higher term is accepted from anybody: a returning member learns of a leader that it does not know.
    net.deliver(&message(MessageType::MsgHeartbeat, 2, 1, term + 1_000));
    net.settle();
    assert_eq!(net.nodes[&1].core.leadership().term, term + 1_000);
    net.ticks(3 * ELECTION_TICKS);
    net.put(1, "k");
    net.ticks(2);
    assert!((1..=3).all(|node| net.has(node, "k")));
}

/// As in etcd: only members' responses count.
#[test]
fn answers_of_strangers_raise_no_term() {
    let mut net = Net::led_by(3, 1);
    let leadership = net.nodes[&1].core.leadership();
    for kind in [
        MessageType::MsgAppResp,
        MessageType::MsgHeartbeatResp,
        MessageType::MsgVoteResp,
        MessageType::MsgPreVoteResp,
    ] {
        let reject = Some(true);
        net.deliver(&raftpb::Message { reject, ..message(kind, 99, 1, leadership.term + 5) });
        net.settle();
    }
    assert_eq!(net.nodes[&1].core.leadership(), leadership);
}

/// The proposals sent, as (from, to, hops, milliseconds left).
fn proposals(net: &Net) -> Vec<(u64, u64, u8, u32)> {
    let sent = net.sent.iter().filter(|message| message.r#type() == MessageType::MsgProp);
    let mark = |context: &[u8]| match *context {
        [hops, a, b, c, d] => (hops, u32::from_be_bytes([a, b, c, d])),
        [] => (0, 0),
        _ => panic!("no mark: {context:?}"),
    };
    sent.map(|message| {
        let (hops, left) = mark(message.context());
        (message.from(), message.to(), hops, left)
    })
    .collect()
}

#[test]
fn members_that_take_each_other_for_the_leader_do_not_send_a_proposal_round_for_ever() {
    let mut net = Net::new(3);
    net.isolate(3, true);
    net.deliver(&message(MessageType::MsgHeartbeat, 1, 2, 9));
    net.deliver(&message(MessageType::MsgHeartbeat, 2, 1, 9));
    net.settle();
    assert_eq!((net.nodes[&1].core.leadership().leader, net.nodes[&2].core.leadership().leader), (2, 1));
    net.put(1, "k");
    net.settle();
    // Its own member sends it without a context; the others say how often it was sent, and its time runs from the
    // first forwarding.
    let sent = [(1, 2, 0, 0), (2, 1, 1, 7_000), (1, 2, 2, 7_000), (2, 1, 3, 7_000)];
    assert_eq!(proposals(&net), sent);
    assert_eq!((&net.nodes[&1].dropped[..], net.nodes[&1].waiting.len()), (&[Dropped::Proposal][..], 0));
}

#[test]
fn a_proposal_that_reaches_a_former_leader_reaches_the_next() {
    let mut net = Net::led_by(3, 1);
    net.isolate(2, true);
    net.put(3, "k");
    // On its way to the first leader while the second is elected.
    let now = net.now;
    let late = net.node(3).waiting.drain(..).next().unwrap();
    net.isolate(2, false);
    net.step(1, Input::Transfer(2));
    net.settle();
    assert_eq!(net.leader(), 2);
    let entries = vec![raftpb::Entry { data: Some(late.data), ..Default::default() }];
    net.deliver(&raftpb::Message { entries, ..message(MessageType::MsgProp, 3, 1, 0) });
    net.now = now + Duration::from_secs(2);
    net.settle();
    net.ticks(1);
    assert!((1..=3).all(|node| net.has(node, "k")));
    assert_eq!(proposals(&net), [(1, 2, 1, 5_000)], "it waited for two seconds");
}
