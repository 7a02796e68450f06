//! A whole node with one member: thread, handle, log and machine.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use engine::{Engine as _, MemoryEngine};
use machine::{Answer as _, Machine, Member, Membership, Rows, Settings};
use proto::{etcdserverpb as pb, raftpb};
use raft_node::{
    Checkpoints, Handle, LeaseError, NodeFault, Options, Outbound, ProposeError, ReadError, TransferError,
    bootstrap,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wal::{MemDisk, Wal};

const MEMBER: u64 = 0x1234;

struct Nowhere;

impl Outbound for Nowhere {
    fn send(&self, _messages: Vec<raftpb::Message>) {}
    fn members_changed(&self, _membership: Arc<Membership>) {}
}

#[derive(Clone)]
struct Disks {
    log: MemDisk,
    engine: Arc<MemoryEngine>,
}

impl Disks {
    fn fresh() -> Self {
        let disks = Self { log: MemDisk::new(), engine: Arc::new(MemoryEngine::default()) };
        let mut wal = Wal::create(disks.log.clone(), &bootstrap::metadata(MEMBER, 7)).unwrap();
        let member = Member {
            id: MEMBER,
            name: "a".into(),
            peer_urls: vec!["http://127.0.0.1:2380".into()],
            ..Member::default()
        };
        let (entries, state) = bootstrap::first_log(&[member]);
        wal.append(&entries, Some(&state)).unwrap();
        wal.sync().unwrap();
        disks
    }

    fn start(&self, options: Options) -> (Handle, JoinHandle<Result<(), NodeFault>>) {
        let (wal, _) = Wal::open(self.log.clone()).unwrap();
        let machine = Machine::open(self.engine.clone(), Settings::new(MEMBER, 2)).unwrap();
        let log = slog::Logger::root(slog::Discard, slog::o!());
        raft_node::start(options, wal, machine, Arc::new(Nowhere), log).unwrap()
    }
}

fn options() -> Options {
    Options { request_timeout: Duration::from_secs(2), ..Options::new(MEMBER, 7) }
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn revision(mut answer: Rows<pb::PutResponse>) -> i64 {
    answer.header().copied().flatten().unwrap().revision
}

fn value(handle: &Handle, key: &str) -> Option<String> {
    let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let answer = handle.machine().range(&request).unwrap();
    answer.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

async fn leads(handle: &Handle) {
    handle.watch_leader().wait_for(|leadership| leadership.is_leader).await.unwrap();
}

#[tokio::test]
async fn a_put_is_answered_after_it_is_applied_and_survives_a_restart() {
    let disks = Disks::fresh();
    let (handle, thread) = disks.start(options());
    let answer = handle.propose(put("k", "v"), None).await.unwrap();
    assert_eq!(revision(answer), 2);
    handle.read_barrier(None).await.unwrap();
    assert_eq!(value(&handle, "k").as_deref(), Some("v"));
    let status = handle.status();
    assert!(status.is_leader && status.leader == MEMBER && status.term == 2);
    assert_eq!((status.commit, status.applied, status.last, status.pending_proposals), (3, 3, 3, 0));
    handle.stop().await;
    thread.join().unwrap().unwrap();
    assert!(matches!(handle.propose(put("k", "v"), None).await, Err(ProposeError::Stopped)));
    assert_eq!(handle.read_barrier(None).await, Err(ReadError::Stopped));
    assert_eq!(handle.transfer_leader(1).await, Err(TransferError::Stopped));

    let (handle, thread) = disks.start(options());
    leads(&handle).await;
    assert_eq!(value(&handle, "k").as_deref(), Some("v"));
    assert_eq!(revision(handle.propose(put("k", "w"), None).await.unwrap()), 3);
    handle.stop().await;
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_thousand_waiting_puts_share_a_few_syncs() {
    let disks = Disks::fresh();
    let (handle, thread) = disks.start(options());
    leads(&handle).await;
    let before = disks.log.operations();
    let tasks: Vec<_> = (0..1000)
        .map(|i| {
            let handle = handle.clone();
            tokio::spawn(
                async move { revision(handle.propose(put(&format!("k{i}"), "v"), None).await.unwrap()) },
            )
        })
        .collect();
    let mut revisions = Vec::new();
    for task in tasks {
        revisions.push(task.await.unwrap());
    }
    revisions.sort_unstable();
    assert!(revisions.iter().copied().eq(2..1002), "each put has a revision of its own");
    let operations = disks.log.operations() - before;
    assert!(operations < 100, "{operations} writes and syncs for 1000 puts");
    handle.stop().await;
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_logged() {
    let disks = Disks::fresh();
    let (handle, thread) = disks.start(Options { max_request_bytes: 100, ..options() });
    leads(&handle).await;
    let last = handle.status().last;
    assert!(matches!(handle.propose(put("k", &"v".repeat(100)), None).await, Err(ProposeError::TooLarge)));
    assert_eq!(handle.status().last, last);
    handle.stop().await;
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn the_last_voter_does_not_remove_itself() {
    let disks = Disks::fresh();
    let (handle, thread) = disks.start(options());
    leads(&handle).await;
    let change = raftpb::ConfChange {
        r#type: Some(raftpb::ConfChangeType::ConfChangeRemoveNode.into()),
        node_id: Some(MEMBER),
        ..Default::default()
    };
    let answer = handle.propose_conf_change(change, None).await;
    assert!(matches!(answer, Err(ProposeError::NotEnoughMembers)), "{answer:?}");
    assert_eq!(handle.transfer_leader(0).await, Err(TransferError::BadTransferee));
    handle.stop().await;
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_disk_that_fails_ends_the_node_and_everybody_who_waits() {
    let disks = Disks::fresh();
    let (handle, thread) = disks.start(options());
    leads(&handle).await;
    disks.log.fail_after(0);
    let answer = handle.propose(put("k", "v"), None).await;
    assert!(matches!(answer, Err(ProposeError::Fault)), "{answer:?}");
    handle.watch_ended().wait_for(|ended| *ended).await.unwrap();
    assert!(matches!(thread.join().unwrap(), Err(NodeFault::Log(_))));
}

#[tokio::test]
async fn without_a_quorum_a_proposal_waits_until_its_deadline() {
    let disks = Disks::fresh();
    let (handle, thread) = disks.start(options());
    leads(&handle).await;
    // A second voter that never answers: nothing commits any more.
    let change = raftpb::ConfChange {
        r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode.into()),
        node_id: Some(9),
        context: Some(r#"{"id":9,"peerURLs":["http://127.0.0.1:2381"]}"#.into()),
        ..Default::default()
    };
    handle.propose_conf_change(change, None).await.unwrap();
    let begun = Instant::now();
    let deadline = Some(begun + Duration::from_millis(300));
    let answer = handle.propose(put("k", "v"), deadline).await;
    assert!(matches!(answer, Err(ProposeError::TimeoutConnectionLost)), "{answer:?}");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(handle.read_barrier(deadline).await, Err(ReadError::Timeout));
    handle.stop().await;
    thread.join().unwrap().unwrap();
}

async fn grant(handle: &Handle, id: i64, ttl: i64) {
    handle.propose(pb::LeaseGrantRequest { id, ttl }, None).await.unwrap();
}

#[tokio::test]
async fn what_was_decided_of_checkpoints_does_not_outlive_a_change_of_members() {
    let disks = Disks::fresh();
    let (handle, thread) = disks.start(options());
    leads(&handle).await;
    let own = BTreeSet::from([MEMBER]);
    assert!(handle.set_lease_checkpoints(&own, Checkpoints::Allowed));
    assert!(!handle.set_lease_checkpoints(&own, Checkpoints::Allowed), "known");
    let change = raftpb::ConfChange {
        r#type: Some(raftpb::ConfChangeType::ConfChangeAddLearnerNode.into()),
        node_id: Some(2),
        context: Some(r#"{"id":2,"peerURLs":["http://127.0.0.1:2"],"isLearner":true}"#.into()),
        ..Default::default()
    };
    handle.propose_conf_change(change, None).await.unwrap();
    assert!(
        !handle.set_lease_checkpoints(&own, Checkpoints::Allowed),
        "of members that are not the members any more"
    );
    let both = BTreeSet::from([MEMBER, 2]);
    assert!(handle.set_lease_checkpoints(&both, Checkpoints::Allowed), "it was undecided again");
    handle.stop().await;
    thread.join().unwrap().unwrap();
}

async fn revoke(handle: &Handle, id: i64) {
    handle.propose(pb::LeaseRevokeRequest { id }, None).await.unwrap();
}

fn store_leases(engine: &MemoryEngine, count: i64) {
    let mut batch = engine::Batch::default();
    for id in 1..=count {
        let lease = lease::Lease::new(id, 2, 0);
        batch.put(engine::Family::Meta, lease::row_key(id), lease.row_value());
    }
    engine.write(batch).unwrap();
}

#[tokio::test]
async fn a_leader_of_many_leases_makes_their_deadlines_aside_and_misses_nothing_meanwhile() {
    const COUNT: i64 = 60_000;
    let disks = Disks::fresh();
    store_leases(&disks.engine, COUNT);
    let begun = Instant::now();
    let (handle, thread) = disks.start(options());
    leads(&handle).await;
    grant(&handle, COUNT + 1, 60).await;
    revoke(&handle, 1).await;
    while !handle.keeps_leases() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(handle.lease_remaining(1).is_none() && handle.lease_remaining(COUNT + 1).is_some());
    // Two seconds and an election timeout; then as many per second as the rate allows.
    let ends: Vec<Instant> = handle.lease_deadlines(&[2, COUNT]).into_iter().flatten().collect();
    let apart = ends[1].duration_since(ends[0]).as_secs_f64();
    assert!(ends[0] - begun >= Duration::from_secs(3) && (7.9..8.1).contains(&apart), "{apart} s");
    while handle.lease_counts().expired < 1_000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(3));
    handle.stop().await;
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_lease_that_nobody_renews_ends_with_its_keys_and_no_earlier() {
    let disks = Disks::fresh();
    let (handle, thread) = disks.start(options());
    leads(&handle).await;
    grant(&handle, 7, 2).await;
    assert_eq!(handle.renew_lease(9).await, Err(LeaseError::NotFound));
    grant(&handle, 8, 2).await;
    let mut hung = put("k", "v");
    hung.lease = 7;
    handle.propose(hung, None).await.unwrap();
    let (begun, last) = (Instant::now(), handle.status().last);
    let mut kept = 0;
    while handle.machine().lease(7).is_some() {
        assert_eq!(handle.renew_lease(8).await, Ok(2));
        kept += 1;
        if kept == 1 {
            assert_eq!(handle.lease_remaining(7), Some(1));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begun.elapsed();
    assert!((1_990..2_600).contains(&took.as_millis()), "gone after {took:?}");
    assert_eq!(value(&handle, "k"), None);
    assert_eq!(handle.status().last, last + 1, "renewals make no entries");
    assert!(handle.machine().lease(8).is_some());
    // A renewal of an expired lease waits until it is gone.
    tokio::time::sleep(Duration::from_millis(1_960)).await;
    let renewed = handle.renew_lease(8).await;
    assert_eq!(renewed.is_ok(), handle.machine().lease(8).is_some(), "{renewed:?}");
    let counts = handle.lease_counts();
    assert_eq!((counts.granted, counts.ttl_sum, counts.ttl_buckets[1]), (2, 4, 2));
    assert!(counts.renewed >= kept && counts.expired == counts.revoked);
    handle.stop().await;
    thread.join().unwrap().unwrap();
}
