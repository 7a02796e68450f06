//! Where a client's work runs: how much the runtime's thread may read, and what happens to work when its client
//! disconnects or does not read.

use super::*;
use api::{Cost, Snapshots, WorkLimits};
use bytes::Bytes;
use engine::{Batch, Family, Fault, Snapshot, Visit};
use proto::{
    etcdserverpb::{
        lease_client::LeaseClient, maintenance_client::MaintenanceClient, request_op::Request as Op,
    },
    v3electionpb::{LeaderRequest, election_client::ElectionClient},
    v3lockpb::{LockRequest, lock_client::LockClient},
};
use std::{
    ops::ControlFlow,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, ThreadId},
    time::Instant,
};

/// An engine that counts reads on the thread that created it, the runtime's, and that can block other readers.
struct Spy {
    rows: MemoryEngine,
    serving: ThreadId,
    read: AtomicU64,
    read_bytes: AtomicU64,
    /// Whether readers on other threads are blocked.
    gate: Mutex<bool>,
    opened: Condvar,
    held: AtomicI64,
    held_most: AtomicI64,
}

impl Spy {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            rows: MemoryEngine::default(),
            serving: thread::current().id(),
            read: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            gate: Mutex::new(false),
            opened: Condvar::new(),
            held: AtomicI64::new(0),
            held_most: AtomicI64::new(0),
        })
    }

    fn note(&self, bytes: usize) {
        if thread::current().id() == self.serving {
            self.read.fetch_add(1, SeqCst);
            self.read_bytes.fetch_add(bytes as u64, SeqCst);
        }
    }

    /// Rows and bytes read on the runtime's thread since the last call.
    fn take(&self) -> (u64, u64) {
        (self.read.swap(0, SeqCst), self.read_bytes.swap(0, SeqCst))
    }

    fn close(&self) {
        *self.gate.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.gate.lock().unwrap() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let closed = self.gate.lock().unwrap();
        if *closed && thread::current().id() != self.serving {
            self.held_most.fetch_max(self.held.fetch_add(1, SeqCst) + 1, SeqCst);
            drop(self.opened.wait_while(closed, |closed| *closed).unwrap());
            self.held.fetch_sub(1, SeqCst);
        }
    }
}

impl Engine for Spy {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let row = self.rows.get(family, key)?;
        self.note(row.as_ref().map_or(0, Bytes::len));
        Ok(row)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        self.pass();
        self.rows.scan(family, from, to, &mut |key, row| -> ControlFlow<()> {
            self.note(row.len());
            visit(key, row)
        })
    }

    fn snapshot(self: Arc<Self>) -> Box<Snapshot> {
        unreachable!("nobody asks for a snapshot here")
    }

    fn write(&self, batch: Batch) -> Result<(), Fault> {
        self.rows.write(batch)
    }

    fn flush(&self) -> Result<(), Fault> {
        self.rows.flush()
    }

    fn compact(&self) -> Result<(), Fault> {
        self.rows.compact()
    }
}

/// Bounds for reads on the runtime's thread: the defaults of `WorkLimits::inline`.
const ROWS_MAX: u64 = 512;
const BYTES_MAX: u64 = 64 << 10;

impl Server {
    /// Puts keys `name00000`, `name00001`, …
    pub(crate) async fn fill(&self, name: &str, keys: usize, value_bytes: usize) {
        let value = "v".repeat(value_bytes);
        let op =
            |n: usize| pb::RequestOp { request: Some(Op::RequestPut(put(&format!("{name}{n:05}"), &value))) };
        let together = (1 << 20) / (value_bytes + 100);
        let all: Vec<_> = (0..keys).collect();
        for numbers in all.chunks(together.clamp(1, 128)) {
            let success = numbers.iter().map(|n| op(*n)).collect();
            self.kv().txn(pb::TxnRequest { success, ..Default::default() }).await.unwrap();
        }
    }

    pub(crate) async fn metric(&self, series: &str) -> i64 {
        let page = self.http("GET /metrics").await;
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
    }

    async fn snapshot_turns(&self) -> i64 {
        self.metric("quorate_work_total{lane=\"snapshot\"}").await
    }

    async fn turns(&self) -> i64 {
        self.metric("quorate_work_total{lane=\"short\"}").await
            + self.metric("quorate_work_total{lane=\"long\"}").await
    }
}

async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it comes to that");
}

#[tokio::test]
async fn no_read_however_it_is_asked_for_reads_much_on_the_thread_that_serves_everybody() {
    let spy = Spy::new();
    let server = Server::on(Arc::clone(&spy) as _, 0, Limits::default()).await;
    // Each key is put, deleted and put again, so that old revisions need a walk through its history.
    server.fill("k", 2_000, 10).await;
    let old = server.node.machine().view().revision();
    let delete = pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    server.kv().delete_range(delete).await.unwrap();
    server.fill("k", 2_000, 10).await;
    server.fill("large", 70, 60 << 10).await;
    server.put("one", &"v".repeat(1 << 20)).await;
    let all = range("k", "l");
    let large = pb::RangeRequest { key: "large".into(), range_end: "largf".into(), ..Default::default() };
    let check = async |what: &str, request: pb::RangeRequest, count: i64| {
        spy.take();
        let answer = server.kv().range(request).await.unwrap().into_inner();
        assert_eq!(answer.count, count, "{what}");
        let (rows, bytes) = spy.take();
        assert!(rows <= ROWS_MAX && bytes <= BYTES_MAX, "{what}: {rows} rows, {bytes} bytes");
    };
    check("a list", all.clone(), 2_000).await;
    check("its beginning, long ago", pb::RangeRequest { limit: 1, revision: old, ..all.clone() }, 2_000)
        .await;
    check("a count of long ago", pb::RangeRequest { count_only: true, revision: old, ..all.clone() }, 2_000)
        .await;
    check(
        "the last, long ago",
        pb::RangeRequest { sort_order: 2, limit: 1, revision: old, ..all.clone() },
        2_000,
    )
    .await;
    check(
        "sorted by value",
        pb::RangeRequest { sort_target: 4, sort_order: 2, limit: 1, ..all.clone() },
        2_000,
    )
    .await;
    check("a few that are large", pb::RangeRequest { limit: 5, ..large.clone() }, 70).await;
    check("many that are large", large.clone(), 70).await;
    check("one that is large", range("one", ""), 1).await;
    let get = |n: usize| pb::RequestOp {
        request: Some(Op::RequestRange(pb::RangeRequest {
            key: format!("large{:05}", n % 70).into(),
            ..Default::default()
        })),
    };
    let reads = |ops: Vec<pb::RequestOp>| pb::TxnRequest { success: ops, ..Default::default() };
    spy.take();
    let answer = server.kv().txn(reads((0..128).map(get).collect())).await.unwrap().into_inner();
    assert_eq!(answer.responses.len(), 128);
    let (rows, bytes) = spy.take();
    assert!(rows <= ROWS_MAX && bytes <= BYTES_MAX, "a transaction of gets: {rows} rows, {bytes} bytes");
    let compare = pb::Compare {
        result: pb::compare::CompareResult::NotEqual as i32,
        target: pb::compare::CompareTarget::Value as i32,
        key: "k".into(),
        range_end: "l".into(),
        target_union: Some(pb::compare::TargetUnion::Value("x".into())),
    };
    let compares = pb::TxnRequest { compare: vec![compare], ..Default::default() };
    assert!(server.kv().txn(compares).await.unwrap().into_inner().succeeded);
    let (rows, bytes) = spy.take();
    assert!(rows <= ROWS_MAX && bytes <= BYTES_MAX, "a compare of a range: {rows} rows, {bytes} bytes");
    let mut pieces =
        server.kv().range_stream(pb::RangeRequest { revision: old, ..all }).await.unwrap().into_inner();
    let mut keys = 0;
    while let Some(piece) = pieces.message().await.unwrap() {
        keys += piece.range_response.unwrap().kvs.len();
    }
    let (_, bytes) = spy.take();
    assert!(keys == 2_000 && bytes <= 3 * BYTES_MAX, "a stream, in steps: {bytes} bytes");
}

#[tokio::test]
async fn what_is_small_takes_no_turn() {
    let server = Server::start().await;
    server.fill("k", 200, 100).await;
    let turns = server.turns().await;
    server.put("k", "v").await;
    for limit in [0, 1, 200] {
        server.kv().range(pb::RangeRequest { limit, ..range("k", "l") }).await.unwrap();
    }
    server.kv().range(range("k", "")).await.unwrap();
    server.kv().range(pb::RangeRequest { count_only: true, ..range("\0", "\0") }).await.unwrap();
    let get = pb::RequestOp { request: Some(Op::RequestRange(range("k", ""))) };
    server.kv().txn(pb::TxnRequest { success: vec![get; 30], ..Default::default() }).await.unwrap();
    let mut leases = LeaseClient::new(server.channel.clone());
    let id = leases.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap().into_inner().id;
    leases.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap();
    leases.lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys: true }).await.unwrap();
    let mut locks = LockClient::new(server.channel.clone());
    locks.lock(LockRequest { name: "l".into(), lease: id }).await.unwrap();
    assert_eq!(server.turns().await, turns);
    assert_eq!(server.metric("quorate_work_running{lane=\"long\"}").await, 0);
}

#[tokio::test]
async fn answers_that_the_log_gives_are_read_and_encoded_elsewhere_where_they_are_long() {
    let server = Server::start().await;
    server.fill("k", 2_000, 10).await;
    let turns = server.turns().await;
    let delete = pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), prev_kv: true };
    let mut kv = server.kv();
    assert_eq!(kv.delete_range(delete).await.unwrap().into_inner().prev_kvs.len(), 2_000);
    server.put("one", &"v".repeat(1 << 20)).await;
    let again = pb::PutRequest { prev_kv: true, ..put("one", "w") };
    assert_eq!(kv.put(again).await.unwrap().into_inner().prev_kv.unwrap().value.len(), 1 << 20);
    // Previous values are read row by row, so two thousand of them exceed the short lane.
    assert_eq!(server.turns().await, turns + 3);
}

#[tokio::test]
async fn what_hangs_on_a_lease_and_many_leases_come_whole() {
    let server = Server::start().await;
    let mut leases = LeaseClient::new(server.channel.clone());
    leases.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 7 }).await.unwrap();
    let op = |n: usize| {
        let put = pb::PutRequest { lease: 7, ..put(&format!("k{n:05}"), "v") };
        pb::RequestOp { request: Some(Op::RequestPut(put)) }
    };
    for first in (0..3_000).step_by(100) {
        let success = (first..first + 100).map(op).collect();
        server.kv().txn(pb::TxnRequest { success, ..Default::default() }).await.unwrap();
    }
    let asked = leases.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 7, keys: true }).await;
    let keys = asked.unwrap().into_inner().keys;
    assert!(keys.len() == 3_000 && keys.is_sorted(), "{}", keys.len());
    let grants: Vec<_> = (100..2_200)
        .map(|id| {
            let mut leases = leases.clone();
            tokio::spawn(
                async move { leases.lease_grant(pb::LeaseGrantRequest { ttl: 60, id }).await.unwrap() },
            )
        })
        .collect();
    for grant in grants {
        grant.await.unwrap();
    }
    let turns = server.turns().await;
    let listed = leases.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner();
    assert_eq!((listed.leases.len(), server.turns().await), (2_101, turns + 1));
}

#[tokio::test]
async fn clients_that_leave_at_once_leave_no_work_and_no_thread_behind() {
    let spy = Spy::new();
    let server = Server::on(Arc::clone(&spy) as _, 0, Limits::default()).await;
    server.fill("k", 20_000, 10).await;
    let turns = server.turns().await;
    spy.close();
    for _ in 0..60 {
        let mut kv = server.kv();
        let list = pb::RangeRequest { serializable: true, ..range("k", "l") };
        let call = tokio::spawn(async move { kv.range(list).await });
        tokio::time::sleep(Duration::from_millis(5)).await;
        call.abort();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(spy.held_most.load(SeqCst), 2, "threads at work");
    spy.open();
    let at_work = async || server.metric("quorate_work_running{lane=\"long\"}").await;
    until(async || at_work().await == 0).await;
    assert!(server.turns().await <= turns + 4, "who has left gets no turn any more");
    // The same with JSON.
    spy.close();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let body = r#"{"key":"aw==","range_end":"bA==","serializable":true}"#;
        let head = format!("POST /v3/kv/range HTTP/1.1\r\nHost: q\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(spy.held_most.load(SeqCst), 2, "threads at work");
    spy.open();
    until(async || at_work().await == 0).await;
}

#[tokio::test]
async fn what_is_short_does_not_wait_for_long_lists() {
    let spy = Spy::new();
    let server = Server::on(Arc::clone(&spy) as _, 0, Limits::default()).await;
    server.fill("k", 20_000, 10).await;
    spy.close();
    let lists: Vec<_> = (0..8)
        .map(|_| {
            let mut kv = server.kv();
            tokio::spawn(async move { kv.range(range("k", "l")).await.unwrap() })
        })
        .collect();
    until(async || spy.held.load(SeqCst) == 2).await;
    // Beyond the inline budget, and without a scan that the gate would block.
    let keys_only = pb::RangeRequest { keys_only: true, limit: 3_000, ..range("k", "l") };
    let answer = tokio::time::timeout(Duration::from_secs(5), server.kv().range(keys_only)).await;
    assert_eq!(answer.expect("in time").unwrap().into_inner().kvs.len(), 3_000);
    spy.open();
    for list in lists {
        assert_eq!(list.await.unwrap().into_inner().kvs.len(), 20_000);
    }
}

#[tokio::test]
async fn a_leader_of_everything_is_found_without_reading_everything() {
    let spy = Spy::new();
    let server = Server::on(Arc::clone(&spy) as _, 0, Limits::default()).await;
    server.fill("/z", 1, 10).await;
    server.fill("/k", 2_000, 10).await;
    let (mut elections, turns) = (ElectionClient::new(server.channel.clone()), server.turns().await);
    spy.take();
    let leader = elections.leader(LeaderRequest { name: Bytes::new() }).await.unwrap().into_inner();
    assert_eq!(leader.kv.unwrap().key, "/z00000");
    assert_eq!((spy.take(), server.turns().await), ((0, 0), turns + 1), "the keys are walked elsewhere");
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

#[tokio::test]
async fn a_storm_of_locks_takes_memory_by_their_number_and_is_passed_on_in_order() {
    const LOCKS: i64 = 1_500;
    let server = Server::start().await;
    let mut leases = LeaseClient::new(server.channel.clone());
    for id in 1..=LOCKS {
        leases.lease_grant(pb::LeaseGrantRequest { ttl: 600, id }).await.unwrap();
    }
    let before = resident();
    let mut calls: Vec<_> = (1..=LOCKS)
        .map(|lease| {
            let mut locks = LockClient::new(server.channel.clone());
            tokio::spawn(async move { locks.lock(LockRequest { name: "l".into(), lease }).await.unwrap() })
        })
        .collect();
    let count = pb::RangeRequest { count_only: true, ..range("l/", "l0") };
    until(async || server.kv().range(count.clone()).await.unwrap().into_inner().count == LOCKS).await;
    let watchers = "etcd_debugging_mvcc_watcher_total";
    until(async || server.metric(watchers).await == LOCKS - 1).await;
    let per_lock = resident().saturating_sub(before) / LOCKS.unsigned_abs();
    assert!(per_lock < 64 << 10, "{per_lock} bytes a lock");
    // One delete wakes one waiter.
    for _ in 0..20 {
        until(async || calls.iter().any(JoinHandle::is_finished)).await;
        let at = calls.iter().position(JoinHandle::is_finished).unwrap();
        let held = calls.remove(at).await.unwrap().into_inner();
        let delete = pb::DeleteRangeRequest { key: held.key, ..Default::default() };
        server.kv().delete_range(delete).await.unwrap();
        assert!(calls.iter().filter(|call| call.is_finished()).count() <= 1);
    }
    // Disconnected clients leave no keys.
    for call in calls {
        call.abort();
    }
    until(async || server.kv().range(count.clone()).await.unwrap().into_inner().count <= 1).await;
}

#[tokio::test]
async fn snapshots_that_nobody_takes_hold_no_other_one_up() {
    let server = Server::start().await;
    server.fill("k", 32, 1 << 19).await;
    let maintenance = MaintenanceClient::new(server.channel.clone());
    let mut slow = Vec::new();
    for _ in 0..10 {
        // A connection each, since they would share one connection's window.
        let channel =
            Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap();
        let mut client = MaintenanceClient::new(channel);
        let mut pieces = client.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
        pieces.message().await.unwrap().unwrap();
        slow.push(pieces);
    }
    let whole = tokio::time::timeout(Duration::from_secs(20), take(maintenance)).await;
    let bytes = whole.expect("it has its turn").len();
    assert!(bytes > 16 << 20 && bytes % 512 == 32, "{bytes}");
    // Slow clients still get the rest.
    for mut pieces in slow {
        let mut rest = 32 << 10;
        while let Some(piece) = pieces.message().await.unwrap() {
            rest += piece.blob.len();
        }
        assert_eq!(rest, bytes);
    }
}

#[tokio::test]
async fn a_snapshot_is_made_one_step_ahead_of_who_takes_it() {
    let server = Server::start().await;
    // Less than one turn measures.
    server.fill("k", 6, 1 << 19).await;
    // A window of two pieces, of the eight in a step.
    let endpoint = Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = endpoint.initial_stream_window_size(65_535).connect().await.unwrap();
    let mut maintenance = MaintenanceClient::new(channel);
    let before = server.snapshot_turns().await;
    let _untaken = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap();
    // Moment, measurement, the step being sent and the one ahead.
    until(async || server.snapshot_turns().await - before >= 4).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.snapshot_turns().await - before, 4, "no more than that waits for a client");
}

/// A server that measures snapshots in steps of one block, here a row or two, and then writes them at once.
async fn measuring_slowly(sent_max: usize) -> Server {
    let snapshots = Snapshots { sent_max, measured_bytes: 1, step_bytes: u64::MAX, ..Snapshots::default() };
    let server = Server::with(0, Limits { snapshots, ..Limits::default() }).await;
    server.fill("k", 128, 60 << 10).await;
    server
}

async fn take(client: MaintenanceClient<Channel>) -> Vec<u8> {
    let (mut client, mut bytes) = (client, Vec::new());
    let mut pieces = client.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    while let Some(piece) = pieces.message().await.unwrap() {
        bytes.extend(piece.blob);
        assert!(piece.remaining_bytes == 0 || bytes.len() % (32 << 10) == 0);
    }
    bytes
}

#[tokio::test]
async fn all_who_ask_for_a_snapshot_while_one_is_measured_share_the_next() {
    let server = measuring_slowly(64).await;
    let maintenance = MaintenanceClient::new(server.channel.clone());
    let before = server.snapshot_turns().await;
    take(maintenance.clone()).await;
    let alone = server.snapshot_turns().await - before;
    assert!(alone > 100, "{alone} turns");
    let many: Vec<_> = (0..20).map(|_| tokio::spawn(take(maintenance.clone()))).collect();
    for one in many {
        assert_eq!(one.await.unwrap().len() % 512, 32);
    }
    // One measurement for the first, and one for all others.
    let together = server.snapshot_turns().await - before - alone;
    assert!(together < 3 * alone, "{together} turns for twenty, {alone} for one");
}

#[tokio::test]
async fn a_snapshot_that_shares_its_moment_has_all_that_was_acknowledged_before_it() {
    let server = measuring_slowly(64).await;
    let maintenance = MaintenanceClient::new(server.channel.clone());
    let mut taken = Vec::new();
    for number in 0..5 {
        let (text, before) = (format!("acknowledged-{number}"), server.snapshot_turns().await);
        server.put("acknowledged", &text).await;
        taken.push((text, tokio::spawn(take(maintenance.clone()))));
        // So that one measurement is running and the next one waits.
        until(async || server.snapshot_turns().await > before + 20).await;
    }
    for (text, bytes) in taken {
        let bytes = bytes.await.unwrap();
        assert!(bytes.windows(text.len()).any(|part| part == text.as_bytes()), "no {text}");
    }
}

#[tokio::test]
async fn who_stops_waiting_for_a_snapshot_leaves_it_to_those_who_share_it() {
    let server = measuring_slowly(64).await;
    let maintenance = MaintenanceClient::new(server.channel.clone());
    let asked: Vec<_> = (0..20).map(|_| tokio::spawn(take(maintenance.clone()))).collect();
    until(async || server.snapshot_turns().await > 20).await;
    for (number, one) in asked.into_iter().enumerate() {
        if number % 3 == 1 {
            assert_eq!(one.await.unwrap().len() % 512, 32);
        } else {
            one.abort();
        }
    }
    // Nothing is left behind if all of them disconnect.
    let asked: Vec<_> = (0..20).map(|_| tokio::spawn(take(maintenance.clone()))).collect();
    for one in asked {
        one.abort();
    }
    assert_eq!(take(maintenance).await.len() % 512, 32);
}

#[tokio::test]
async fn snapshots_beyond_the_most_there_may_be_are_refused_by_name() {
    let server = measuring_slowly(1).await;
    let mut maintenance = MaintenanceClient::new(server.channel.clone());
    let first = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let mut second = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let status = second.message().await.expect_err("one is on its way");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(status.message(), "quorate: 1 snapshots are being sent already");
    drop(first);
    let free = async || {
        let mut pieces = maintenance.clone().snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
        pieces.message().await.is_ok()
    };
    until(free).await;
}

#[tokio::test]
async fn a_snapshot_that_is_taken_too_slowly_ends_and_says_so() {
    let pace = Pace { bytes_min: 1 << 20, window: Duration::from_millis(500) };
    let server = Server::with(
        0,
        Limits { snapshots: Snapshots { pace, ..Snapshots::default() }, ..Limits::default() },
    )
    .await;
    server.fill("k", 40, 1 << 19).await;
    let mut maintenance = MaintenanceClient::new(server.channel.clone());
    let mut pieces = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let begun = Instant::now();
    let status = loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        match pieces.message().await {
            Ok(Some(_)) => assert!(begun.elapsed() < Duration::from_mins(1)),
            Ok(None) => panic!("a snapshot that was cut looks whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let text = " bytes of the snapshot in 500ms, and must take 1048576";
    assert!(status.message().ends_with(text), "{status}");
}

#[tokio::test]
async fn a_list_that_nobody_takes_holds_no_compaction_up_and_goes_on_until_one_has_passed_it() {
    let limits = Limits { view_hold_max: Duration::from_millis(50), ..Limits::default() };
    let server = Server::with(0, limits).await;
    server.fill("k", 64, 1 << 18).await;
    let list = || pb::RangeRequest { serializable: true, ..range("k", "l") };
    let begin = async || {
        let channel =
            Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap();
        let mut kv = KvClient::new(channel).max_decoding_message_size(usize::MAX);
        kv.range_stream(list()).await.unwrap().into_inner()
    };
    let (mut patient, mut unlucky) = (begin().await, begin().await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Later writes are not in it.
    server.put("k00063", "later").await;
    let mut keys = 0;
    while let Some(piece) = patient.message().await.unwrap() {
        let kvs = piece.range_response.unwrap().kvs;
        assert!(kvs.iter().all(|kv| kv.value.len() == 1 << 18));
        keys += kvs.len();
    }
    assert_eq!(keys, 64);
    let revision = server.node.machine().view().revision();
    let mut kv = server.kv();
    let status = tokio::time::timeout(Duration::from_secs(10), async {
        kv.compact(pb::CompactionRequest { revision, physical: true }).await.unwrap();
        loop {
            match unlucky.message().await {
                Ok(piece) => assert!(piece.is_some(), "a list that was cut looks whole"),
                Err(status) => break status,
            }
        }
    });
    let status = status.await.expect("compaction does not wait for the list");
    refused(Err::<(), _>(status), Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
}

#[tokio::test]
async fn budgets_are_limits_that_can_be_drawn_small() {
    let nothing = Cost { rows: 0, bytes: 0 };
    let work = WorkLimits { inline: nothing, short: nothing, ..WorkLimits::default() };
    let server = Server::with(0, Limits { work, ..Limits::default() }).await;
    server.put("k", "v").await;
    let long = async || server.metric("quorate_work_total{lane=\"long\"}").await;
    let before = long().await;
    assert_eq!(server.kv().range(range("k", "")).await.unwrap().into_inner().count, 1);
    assert_eq!(long().await, before + 1);
}
