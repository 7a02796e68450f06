//! Three nodes with their threads in one process: what one sends is delivered to the other's handle.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use engine::{Engine, MemoryEngine};
use machine::{Machine, Member, Membership, Settings};
use proto::{etcdserverpb as pb, raftpb};
use raft_node::{Handle, NodeFault, Options, Outbound, ProposeError, bootstrap, publish};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use types::MemberId;
use wal::{MemDisk, Wal};

/// The wires between them.
#[derive(Default)]
struct Switch {
    handles: Mutex<HashMap<u64, Handle>>,
    cut: Mutex<BTreeSet<u64>>,
    /// How many forwarded proposals are still to be lost.
    losses: Mutex<usize>,
    runtime: Mutex<Option<tokio::runtime::Handle>>,
}

struct Port {
    me: u64,
    switch: Arc<Switch>,
}

impl Outbound for Port {
    fn send(&self, messages: Vec<raftpb::Message>) {
        let (me, switch) = (self.me, Arc::clone(&self.switch));
        let runtime = switch.runtime.lock().unwrap().clone().unwrap();
        runtime.spawn(async move {
            for message in messages {
                let cut = switch.cut.lock().unwrap().clone();
                let handle = switch.handles.lock().unwrap().get(&message.to()).cloned();
                if message.r#type() == raftpb::MessageType::MsgProp {
                    let mut losses = switch.losses.lock().unwrap();
                    if *losses > 0 {
                        *losses -= 1;
                        continue;
                    }
                }
                if let Some(handle) = handle.filter(|_| !cut.contains(&me) && !cut.contains(&message.to())) {
                    handle.deliver(message);
                }
            }
        });
    }
    fn members_changed(&self, _membership: Arc<Membership>) {}
    fn active_since(&self, member: u64) -> Option<Instant> {
        let cut = self.switch.cut.lock().unwrap();
        let reached = !cut.contains(&member) && !cut.contains(&self.me);
        reached.then(|| Instant::now().checked_sub(Duration::from_mins(1)).unwrap())
    }
}

type Running = (Handle, JoinHandle<Result<(), NodeFault>>);

fn start(switch: &Arc<Switch>) -> Vec<Running> {
    *switch.runtime.lock().unwrap() = Some(tokio::runtime::Handle::current());
    let url = |id| vec![format!("http://127.0.0.1:{id}")];
    let members: Vec<_> = (1..=3)
        .map(|id| Member { id, peer_urls: url(id), name: format!("m{id}"), ..Member::default() })
        .collect();
    (1..=3)
        .map(|id| {
            let mut wal = Wal::create(MemDisk::new(), &bootstrap::metadata(id, 7)).unwrap();
            let (entries, state) = bootstrap::first_log(&members);
            wal.append(&entries, Some(&state)).unwrap();
            wal.sync().unwrap();
            let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
            let settings =
                Settings { member: MemberId(id), lease_ttl_min: 2, max_learners: 1, quota_bytes: 0 };
            let machine = Machine::open(Arc::clone(&engine), settings).unwrap();
            let tick = Duration::from_millis(20);
            let options = Options { tick, request_timeout: Duration::from_secs(5), ..Options::new(id, 7) };
            let port = Arc::new(Port { me: id, switch: Arc::clone(switch) });
            let log = slog::Logger::root(slog::Discard, slog::o!());
            let (handle, thread) = raft_node::start(options, wal, machine, engine, port, log).unwrap();
            switch.handles.lock().unwrap().insert(id, handle.clone());
            (handle, thread)
        })
        .collect()
}

fn put(key: &str) -> pb::InternalRaftRequest {
    let put = pb::PutRequest { key: key.to_owned().into(), ..Default::default() };
    pb::InternalRaftRequest { put: Some(put), ..Default::default() }
}

fn has(handle: &Handle, key: &str) -> bool {
    let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
    handle.machine().range(&request).unwrap().count == 1
}

async fn stop(nodes: Vec<Running>) {
    for (handle, thread) in nodes {
        handle.stop().await;
        thread.join().unwrap().unwrap();
    }
}

#[tokio::test]
async fn every_member_takes_puts_and_reads_its_own_and_the_others_writes() {
    let switch = Arc::default();
    let nodes = start(&switch);
    for (i, (handle, _)) in nodes.iter().enumerate() {
        publish::attributes(handle, &format!("m{i}"), &["http://127.0.0.1:2379".to_owned()]).await.unwrap();
    }
    let tasks: Vec<_> = (0..300)
        .map(|i| {
            let handle = nodes[i % 3].0.clone();
            tokio::spawn(async move { handle.propose(put(&format!("k{i}")), None).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    for (handle, _) in &nodes {
        handle.read_barrier(None).await.unwrap();
        assert!((0..300).all(|i| has(handle, &format!("k{i}"))));
        let named = handle.machine().membership().members.values().all(|m| !m.client_urls.is_empty());
        assert!(named, "{:?}", handle.machine().membership());
    }
    let leader = nodes.iter().find(|(handle, _)| handle.status().is_leader).unwrap().0.clone();
    publish::cluster_version(&leader, "3.7.0".to_owned()).await.unwrap();
    assert_eq!(leader.machine().membership().cluster_version.as_deref(), Some("3.7.0"));
    assert_eq!(leader.peers().len(), 3);
    stop(nodes).await;
}

#[tokio::test]
async fn leadership_moves_on_request_and_a_lost_leader_is_replaced() {
    let switch = Arc::default();
    let nodes = start(&switch);
    nodes[0].0.propose(put("a"), None).await.unwrap();
    let leader = nodes[0].0.status().leader;
    let first = &nodes[usize::try_from(leader).unwrap() - 1].0;
    first.transfer_leader(0).await.unwrap();
    let second = first.status().leader;
    assert_ne!(second, leader);

    // Cut off, it can answer nobody; the others go on.
    switch.cut.lock().unwrap().insert(second);
    let lost = &nodes[usize::try_from(second).unwrap() - 1].0;
    let answer = lost.propose(put("lost"), Some(Instant::now() + Duration::from_millis(100))).await;
    assert!(matches!(answer, Err(ProposeError::TimeoutConnectionLost)), "{answer:?}");
    first.watch_leader().wait_for(|now| ![0, second].contains(&now.leader)).await.unwrap();
    first.propose(put("b"), None).await.unwrap();
    assert!(has(first, "b") && first.status().leader != second);
    assert!(lost.read_barrier(Some(Instant::now() + Duration::from_millis(100))).await.is_err());

    switch.cut.lock().unwrap().clear();
    // What the old leader took in meanwhile is lost with its term, as in etcd: it must hear of the new one first.
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
    let leader = nodes[0].0.watch_leader().wait_for(|now| now.leader != 0).await.unwrap().leader;
    let (follower, _) = nodes.iter().find(|(node, _)| node.options().member != leader).unwrap();
    *switch.losses.lock().unwrap() = 1;
    let began = Instant::now();
    publish::attributes(follower, "follower", &[]).await.unwrap();
    assert_eq!(*switch.losses.lock().unwrap(), 0, "nothing was lost");
    assert!(began.elapsed() < Duration::from_secs(3), "published after {:?}", began.elapsed());
    stop(nodes).await;
}
