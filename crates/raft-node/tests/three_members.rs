//! Three nodes with their threads in one process: what one sends is delivered to another's handle.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

mod switch;

use machine::{Request, Rows};
use proto::etcdserverpb as pb;
use raft_node::{Handle, Limits, ProposeError, publish};
use std::sync::Arc;
use std::time::{Duration, Instant};
use switch::{LARGE, Node, Switch, TICK, delete_all, has, put};
use tokio::task::JoinHandle;

fn start(switch: &Arc<Switch>) -> Vec<Node> {
    let log = slog::Logger::root(slog::Discard, slog::o!());
    switch::start(switch, 3, &Limits::default(), wal::Options::DEFAULT, &log)
}

async fn stop(nodes: Vec<Node>) {
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn every_member_takes_puts_and_reads_its_own_and_the_others_writes() {
    let switch = Arc::default();
    let nodes = start(&switch);
    for (i, Node { handle, .. }) in nodes.iter().enumerate() {
        publish::attributes(handle, &format!("m{i}"), &["http://127.0.0.1:2379".to_owned()]).await.unwrap();
    }
    let tasks: Vec<_> = (0..300)
        .map(|i| {
            let handle = nodes[i % 3].handle.clone();
            tokio::spawn(async move { handle.propose(put(&format!("k{i}")), None).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    for Node { handle, .. } in &nodes {
        handle.read_barrier(None).await.unwrap();
        assert!((0..300).all(|i| has(handle, &format!("k{i}"))));
        let named = handle.machine().membership().members.values().all(|m| !m.client_urls.is_empty());
        assert!(named, "{:?}", handle.machine().membership());
    }
    let leader = nodes.iter().find(|node| node.handle.status().is_leader).unwrap().handle.clone();
    publish::cluster_version(&leader, "3.7.0".to_owned()).await.unwrap();
    assert_eq!(leader.machine().membership().cluster_version.as_deref(), Some("3.7.0"));
    assert_eq!(leader.peers().len(), 3);
    stop(nodes).await;
}

#[tokio::test]
async fn leadership_moves_on_request_and_a_lost_leader_is_replaced() {
    let switch = Arc::default();
    let nodes = start(&switch);
    nodes[0].handle.propose(put("a"), None).await.unwrap();
    let leader = nodes[0].handle.status().leader;
    let first = &nodes[usize::try_from(leader).unwrap() - 1].handle;
    first.transfer_leader(0).await.unwrap();
    let second = first.status().leader;
    assert_ne!(second, leader);

    // Cut off, it can answer nobody; the others go on.
    switch.cut.lock().unwrap().insert(second);
    let lost = &nodes[usize::try_from(second).unwrap() - 1].handle;
    let answer = lost.propose(put("lost"), Some(Instant::now() + Duration::from_millis(100))).await;
    assert!(matches!(answer, Err(ProposeError::TimeoutConnectionLost)), "{answer:?}");
    first.watch_leader().wait_for(|now| ![0, second].contains(&now.leader)).await.unwrap();
    first.propose(put("b"), None).await.unwrap();
    assert!(has(first, "b") && first.status().leader != second);
    assert!(lost.read_barrier(Some(Instant::now() + Duration::from_millis(100))).await.is_err());

    switch.cut.lock().unwrap().clear();
    // What the old leader accepted meanwhile is lost with its term, as in etcd: it must first learn of the new
    // leader.
    lost.watch_leader().wait_for(|now| ![0, second].contains(&now.leader)).await.unwrap();
    lost.propose(put("c"), None).await.unwrap();
    lost.read_barrier(None).await.unwrap();
    assert!(has(lost, "b") && has(lost, "c") && !has(lost, "lost"));
    stop(nodes).await;
}

#[tokio::test]
async fn a_lost_proposal_delays_publishing_by_a_second_only() {
    let switch = Arc::new(Switch::default());
    let nodes = start(&switch);
    let leader = nodes[0].handle.watch_leader().wait_for(|now| now.leader != 0).await.unwrap().leader;
    let follower = &nodes.iter().find(|node| node.handle.options().member != leader).unwrap().handle;
    *switch.losses.lock().unwrap() = 1;
    let began = Instant::now();
    publish::attributes(follower, "follower", &[]).await.unwrap();
    assert_eq!(*switch.losses.lock().unwrap(), 0, "nothing was lost");
    assert!(began.elapsed() < Duration::from_secs(3), "published after {:?}", began.elapsed());
    stop(nodes).await;
}

/// A delete of many keys that takes all members longer than an election.
#[tokio::test]
async fn what_takes_long_to_apply_unseats_nobody_and_stays_in_its_order() {
    let switch = Switch::slow(LARGE as u64 / 2, 100 * TICK);
    let nodes = start(&switch);
    let leader = Arc::new(leader_of(&nodes).await);
    let keys: Vec<_> = (0..LARGE).map(|number| format!("k{number}")).collect();
    for key in &keys {
        leader.propose(put(key), None).await.unwrap();
    }
    let before = leader.status();
    let begun = Instant::now();
    let delete = propose(&leader, delete_all());
    tokio::time::sleep(20 * TICK).await;
    // Logged and committed while the delete is applied; answered, and seen, behind it.
    let after = propose(&leader, put("k1"));
    tokio::time::sleep(20 * TICK).await;
    let meanwhile = leader.status();
    assert!(!after.is_finished() && meanwhile.commit > before.commit + 1, "{before:?} {meanwhile:?}");
    assert_eq!(meanwhile.applied, before.applied);
    assert!(has(&leader, "k0"), "it is not half done");
    let Rows::All(deleted) = delete.await.unwrap().unwrap() else { panic!("another answer") };
    assert_eq!(deleted.deleted, LARGE as i64);
    assert!(begun.elapsed() >= 100 * TICK);
    let Rows::All(put) = after.await.unwrap().unwrap() else { panic!("another answer") };
    assert_eq!(put.header.unwrap().revision, deleted.header.unwrap().revision + 1);
    for Node { handle, .. } in &nodes {
        handle.read_barrier(None).await.unwrap();
        assert!(!has(handle, "k0") && has(handle, "k1"));
        let now = handle.status();
        assert_eq!((now.term, now.leader), (before.term, before.leader));
    }
    stop(nodes).await;
}

/// Proposes in a task of its own.
fn propose<R: Request<Answer: Send> + Send + 'static>(
    leader: &Handle,
    request: R,
) -> JoinHandle<Result<R::Answer, ProposeError>> {
    let leader = leader.clone();
    tokio::spawn(async move { leader.propose(request, None).await })
}

/// What was committed behind a long delete takes longer than an election would, all of it together.
#[tokio::test]
async fn what_waited_to_be_applied_is_caught_up_with_between_ticks() {
    let switch = Switch::slow(2 * LARGE as u64, 4 * TICK);
    // Each entry is a group.
    let limits = Limits { group_bytes: 1, ..Limits::default() };
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let nodes = switch::start(&switch, 3, &limits, wal::Options::DEFAULT, &log);
    let leader = leader_of(&nodes).await;
    let puts = |name: &str, count: usize| {
        let op = |number| {
            let key = format!("{name}{number:03}").into();
            let put = pb::PutRequest { key, ..Default::default() };
            pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
        };
        pb::TxnRequest { success: (0..count).map(op).collect(), ..Default::default() }
    };
    for number in 0..3 {
        leader.propose(puts(&format!("k{number}/"), LARGE), None).await.unwrap();
    }
    let before = leader.status();
    // Only the leader is slow: if all are silent, none misses another.
    *switch.slow.lock().unwrap() = [before.leader].into();
    let deleted = propose(&leader, delete_all());
    let asked = (0..12).map(|number| puts(&format!("m{number}/"), LARGE + 1));
    let waiting: Vec<_> = asked.map(|request| propose(&leader, request)).collect();
    deleted.await.unwrap().unwrap();
    for answer in waiting {
        answer.await.unwrap().unwrap();
    }
    for Node { handle, .. } in &nodes {
        handle.read_barrier(None).await.unwrap();
        assert!(has(handle, "m9/000"));
        let now = handle.status();
        assert_eq!((now.term, now.leader), (before.term, before.leader));
    }
    stop(nodes).await;
}

/// A stop during a long apply waits for it.
#[tokio::test]
async fn a_member_that_is_stopped_while_it_applies_ends_well() {
    let switch = Switch::slow(0, 20 * TICK);
    let nodes = start(&switch);
    let leader = leader_of(&nodes).await;
    let keys: Vec<_> = (0..LARGE).map(|number| format!("k{number}")).collect();
    for key in &keys {
        leader.propose(put(key), None).await.unwrap();
    }
    let deadline = Some(Instant::now() + 5 * TICK);
    assert!(leader.propose(delete_all(), deadline).await.is_err(), "it is still applied");
    stop(nodes).await;
    assert!(!has(&leader, "k0"));
}

async fn leader_of(nodes: &[Node]) -> Handle {
    nodes[0].handle.propose(put("first"), None).await.unwrap();
    let leader = nodes[0].handle.status().leader;
    nodes[usize::try_from(leader).unwrap() - 1].handle.clone()
}
