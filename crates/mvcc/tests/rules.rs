//! Single rules of etcd's key space, by name; etcd's figures were taken from stock etcd 3.7.3.

use bytes::Bytes;
use engine::{Batch, Engine, Family, Fault, MemoryEngine, Visit};
use mvcc::{EventKind, Options, Query, ReadError, Store};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use types::KeyRange;

#[derive(Default)]
struct Counting {
    rows: MemoryEngine,
    reads: AtomicUsize,
}

impl Counting {
    fn take(&self) -> usize {
        self.reads.swap(0, Ordering::Relaxed)
    }
}

impl Engine for Counting {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.rows.get(family, key)
    }
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.rows.scan(family, from, to, visit)
    }
    fn snapshot(self: Arc<Self>) -> Box<engine::Snapshot> {
        unreachable!("nobody copies the store here")
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

/// One write of a transaction: a put with a lease, or a delete of a range in wire form.
enum Write<'a> {
    Put(&'a str, &'a str, i64),
    Delete(&'a str, &'a str),
}
use Write::{Delete, Put};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn write(store: &mut Store, writes: &[Write<'_>]) {
    let mut group = store.begin();
    let mut txn = group.txn();
    for write in writes {
        match write {
            Put(key, value, lease) => drop(txn.put(bytes(key), bytes(value), *lease).expect("memory")),
            Delete(key, end) => {
                drop(txn.delete(&KeyRange::from_wire(bytes(key), bytes(end))).expect("memory"));
            }
        }
    }
    txn.end();
    group.commit().expect("memory");
}

fn put(store: &mut Store, key: &str, value: &str) {
    write(store, &[Put(key, value, 0)]);
}

fn schedule(store: &mut Store, revision: i64) {
    let mut group = store.begin();
    group.compact(revision).expect("between the compacted and the current revision");
    group.commit().expect("memory");
}

fn compact(store: &mut Store, revision: i64) {
    schedule(store, revision);
    while store.compact_step(2).expect("memory") {}
}

fn memory() -> Store {
    Store::open(Arc::new(MemoryEngine::new())).expect("an empty engine opens")
}

fn check_hash(store: &Store, revision: i64, hash: u32, compact: i64, up_to: i64) {
    let given = store.view().hash_kv(revision).expect("the revision is there");
    assert_eq!(
        (given.hash, given.compact_revision, given.hash_revision),
        (hash, compact, up_to),
        "at {revision}"
    );
}

#[test]
fn hashes_are_those_of_stock_etcd() {
    let mut store = memory();
    check_hash(&store, 0, 1_084_519_789, -1, 1);
    check_hash(&store, 1, 1_084_519_789, -1, 1);
    check_hash(&store, -1, 1_084_519_789, -1, -1);
    put(&mut store, "a", "1");
    check_hash(&store, 0, 2_587_454_935, -1, 2);
    compact(&mut store, 2);
    put(&mut store, "a", "2");
    check_hash(&store, 0, 1_483_641_527, 2, 3);
    write(&mut store, &[Put("b", "x", 77), Put("c\0", "", 0), Delete("a", "")]);
    put(&mut store, "b", "y");
    put(&mut store, "d", &"z".repeat(300));
    write(&mut store, &[Delete("b", "d")]);
    put(&mut store, "b", "again");
    let hashes = [1_483_641_527, 1_249_205_128, 222_970_827, 3_766_389_024, 3_987_875_009, 1_601_580_638];
    for (revision, hash) in (3..).zip(hashes) {
        check_hash(&store, revision, hash, 2, revision);
    }
    assert!(matches!(store.view().hash_kv(9), Err(ReadError::FutureRevision)));
    assert!(matches!(store.view().hash_kv(1), Err(ReadError::Compacted)));
    compact(&mut store, 7);
    put(&mut store, "e", "e");
    check_hash(&store, 0, 3_660_060_697, 7, 9);
    check_hash(&store, 8, 873_739_342, 7, 8);
    assert!(matches!(store.view().hash_kv(6), Err(ReadError::Compacted)));
    compact(&mut store, 8);
    write(&mut store, &[Delete("\0", "\0")]);
    // No key is alive: etcd hashes what compaction left.
    check_hash(&store, 0, 2_784_616_547, 8, 10);
    check_hash(&store, 9, 3_660_060_697, 8, 9);
}

#[test]
fn a_finished_compaction_leaves_its_hash_as_in_stock_etcd() {
    let mut store = memory();
    compact(&mut store, 0);
    // The hash stored for revision 0 answers requests for the current one.
    put(&mut store, "a", "1");
    check_hash(&store, 0, 1_084_519_789, -1, 0);
    compact(&mut store, 2);
    put(&mut store, "a", "2");
    write(&mut store, &[Put("b", "x", 77), Put("c\0", "", 0), Delete("a", "")]);
    put(&mut store, "b", "y");
    put(&mut store, "d", &"z".repeat(300));
    write(&mut store, &[Delete("b", "d")]);
    put(&mut store, "b", "again");
    compact(&mut store, 7);
    check_hash(&store, 2, 2_587_454_935, 0, 2);
    check_hash(&store, 7, 3_987_875_009, 2, 7);
    check_hash(&store, 8, 873_739_342, 7, 8);
    assert!(matches!(store.view().hash_kv(3), Err(ReadError::Compacted)));
    put(&mut store, "e", "e");
    compact(&mut store, 8);
    check_hash(&store, 8, 873_739_342, 7, 8);
    check_hash(&store, 9, 3_660_060_697, 8, 9);
    write(&mut store, &[Delete("\0", "\0")]);
    // Only the tombstones at the compaction itself are kept.
    compact(&mut store, 10);
    check_hash(&store, 10, 784_310_517, 8, 10);
    for number in 0..8 {
        put(&mut store, "f", &number.to_string());
        compact(&mut store, 11 + number);
    }
    check_hash(&store, 0, 4_109_026_126, 18, 18);
    for gone in [2, 7, 9] {
        assert!(matches!(store.view().hash_kv(gone), Err(ReadError::Compacted)), "the ten newest are kept");
    }
    let newest = [
        (8, 873_739_342, 7),
        (10, 784_310_517, 8),
        (11, 544_873_792, 10),
        (12, 2_818_511_914, 11),
        (17, 960_979_815, 16),
        (18, 4_109_026_126, 17),
    ];
    for (revision, hash, before) in newest {
        check_hash(&store, revision, hash, before, revision);
    }
}

#[test]
fn compactions_in_a_row_leave_a_hash_each_however_small_the_steps() {
    let run = |budget: usize| {
        let mut store = memory();
        for round in 0..3 {
            for key in ["a", "b", "c", "d"] {
                put(&mut store, key, &round.to_string());
            }
            write(&mut store, &[Delete("b", ""), Put("e", "", 0)]);
        }
        for revision in [4, 9, 12] {
            schedule(&mut store, revision);
        }
        let at_12 = store.view().hash_kv(12).expect("it is there");
        assert_eq!(at_12.compact_revision, 12, "none is left yet");
        let mut steps = 1;
        while store.compact_step(budget).expect("memory") {
            put(&mut store, "a", "meanwhile");
            steps += 1;
        }
        let view = store.view();
        let hashes = [4, 9, 12].map(|revision| view.hash_kv(revision).expect("it is left"));
        assert_eq!(hashes.map(|hash| hash.compact_revision), [-1, 4, 9]);
        (hashes, steps)
    };
    let (at_once, steps) = run(1000);
    assert_eq!(steps, 3, "a step for each compaction");
    for budget in [1, 2, 3, 7] {
        assert_eq!(run(budget).0, at_once, "{budget} rows a step");
    }
}

/// Compactions beyond the limit of the queue are still done.
#[test]
fn compactions_beyond_those_that_may_wait_are_done_as_one_without_a_hash() {
    const WAITING: i64 = 100;
    let mut store = memory();
    for value in 0..WAITING + 10 {
        put(&mut store, "a", &value.to_string());
    }
    let (first, last) = (2, WAITING + 6);
    let view = store.view();
    for revision in first..=last {
        schedule(&mut store, revision);
    }
    assert!(store.compact_step(1).expect("memory"), "a reader holds it up");
    drop(view);
    while store.compact_step(1_000).expect("memory") {}
    let view = store.view();
    assert_eq!(view.compaction_done(), last);
    // One place in the queue holds all the merged ones.
    let hashed = first + WAITING - 2;
    assert_eq!(view.hash_kv(hashed).expect("it is left").compact_revision, hashed - 1);
    for without in hashed + 1..last {
        assert!(matches!(view.hash_kv(without), Err(ReadError::Compacted)), "{without}");
    }
    assert_eq!(view.hash_kv(last).expect("it is there").compact_revision, last, "none is left");
}

#[test]
fn hashes_of_compactions_end_with_the_process_and_one_that_it_left_unfinished_leaves_none() {
    let engine = Arc::new(MemoryEngine::new());
    let mut store = Store::open(engine.clone()).expect("opens");
    for value in ["1", "2", "3", "4"] {
        put(&mut store, "a", value);
    }
    compact(&mut store, 3);
    schedule(&mut store, 4);
    assert!(store.compact_step(1).expect("memory"));
    let mut store = Store::open(engine).expect("opens");
    assert!(matches!(store.view().hash_kv(3), Err(ReadError::Compacted)));
    while store.compact_step(1).expect("memory") {}
    assert_eq!(store.view().hash_kv(4).expect("it is there").compact_revision, 4);
    compact(&mut store, 5);
    assert_eq!(store.view().hash_kv(5).expect("it is there").compact_revision, 4);
    put(&mut store, "a", "5");
    let mut group = store.begin();
    group.compact_again(6).expect("not yet compacted");
    group.commit().expect("memory");
    while store.compact_step(1).expect("memory") {}
    assert_eq!(store.view().hash_kv(6).expect("it is there").compact_revision, 6);
}

#[test]
fn a_put_reads_nothing_a_get_reads_one_row_and_an_old_version_a_few() {
    const VERSIONS: i64 = 20_000;
    let engine = Arc::new(Counting::default());
    let mut store = Store::open(engine.clone()).expect("opens");
    engine.take();
    for _ in 0..VERSIONS {
        put(&mut store, "hot", "value");
    }
    assert_eq!(engine.take(), 0, "reads for puts");
    let view = store.view();
    view.range(&Query::of(KeyRange::point("hot"))).expect("no fault");
    assert_eq!(engine.take(), 1, "reads for a get");
    let mut most = 0;
    for revision in (2..=VERSIONS).step_by(37) {
        let query = Query { revision, ..Query::of(KeyRange::point("hot")) };
        assert_eq!(view.range(&query).expect("no fault").kvs[0].mod_revision, revision);
        most = most.max(engine.take());
    }
    assert!(most <= 3 * VERSIONS.ilog2() as usize, "{most} reads for one of {VERSIONS} versions");
    let count =
        view.range(&Query { revision: 5, count_only: true, ..Query::default() }).expect("no fault").count;
    assert_eq!((count, engine.take()), (1, 0), "a count of the past reads no row while the key lived on");
    assert!(store.view().index_bytes() < 1500, "{} bytes for one key", store.view().index_bytes());
}

#[test]
fn sizes_trip_the_quotas_of_etcds_tests_and_fall_with_compaction() {
    const QUOTA: i64 = 13 * 4096;
    let mut store = memory();
    let total = |store: &Store| store.view().sizes().total_bytes;
    assert!(total(&store) > 5120, "TestAuthAlarm's quota trips at once");
    put(&mut store, "1st_test", &"a".repeat(64));
    assert!(total(&store) + 256 + 8 + 64 < QUOTA);
    let big = "b".repeat(4096);
    let mut puts = 0;
    while total(&store) + 256 + 8 + 4096 < QUOTA {
        put(&mut store, "2nd_test", &big);
        puts += 1;
    }
    assert!((3..10).contains(&puts), "{puts} puts of a page");
    let revision = store.view().revision();
    compact(&mut store, revision);
    assert!(total(&store) < 20 * 1024 + 4096 + 1024);
    assert_eq!(store.view().sizes().in_use_bytes, total(&store));
}

#[test]
fn the_revision_survives_a_restart_though_compaction_took_its_last_trace() {
    let engine = Arc::new(MemoryEngine::new());
    let mut store = Store::open(engine.clone()).expect("opens");
    put(&mut store, "a", "1");
    write(&mut store, &[Delete("a", "")]);
    compact(&mut store, 2);
    compact(&mut store, 3);
    put(&mut store, "b", "1");
    write(&mut store, &[Delete("b", "")]);
    compact(&mut store, 5);
    drop(store);
    let mut store = Store::open(engine.clone()).expect("opens");
    assert_eq!(store.view().revision(), 5);
    put(&mut store, "c", "1");
    compact(&mut store, 6);
    assert_eq!((store.view().revision(), store.view().sizes().keys), (6, 1));
    assert_eq!(store.check().expect("memory"), Vec::<String>::new());
}

#[test]
fn a_watch_from_the_compacted_revision_still_sees_the_delete_there() {
    let mut store = memory();
    put(&mut store, "a", "1");
    write(&mut store, &[Delete("a", "")]);
    put(&mut store, "b", "1");
    compact(&mut store, 3);
    let mut seen = Vec::new();
    let read = store.view().events(3, 9, &mut |event| {
        seen.push((event.at.main, event.kind, event.kv.key, event.previous.is_some()));
        ControlFlow::Continue(())
    });
    read.expect("not before the compaction");
    let expected = [(3, EventKind::Delete, bytes("a"), true), (4, EventKind::Create, bytes("b"), false)];
    assert_eq!(seen, expected);
    assert!(matches!(
        store.view().events(2, 9, &mut |_| ControlFlow::Continue(())),
        Err(ReadError::Compacted)
    ));
    compact(&mut store, 4);
    assert_eq!(store.check().expect("memory"), Vec::<String>::new());
}

#[test]
fn compaction_waits_for_older_views_until_they_are_expired() {
    let mut store = memory();
    put(&mut store, "a", "1");
    put(&mut store, "a", "2");
    let view = store.view();
    let mut group = store.begin();
    group.compact(3).expect("there");
    group.commit().expect("memory");
    assert!(store.compact_step(100).expect("memory") && store.compaction_waits());
    let old = Query { revision: 2, ..Query::of(KeyRange::point("a")) };
    assert_eq!(&view.range(&old).expect("held").kvs[0].value[..], b"1");
    store.expire_views();
    assert!(!store.compact_step(100).expect("memory") && !store.compaction_waits());
    assert!(matches!(view.range(&old), Err(ReadError::Compacted)));
    assert!(matches!(store.view().range(&old), Err(ReadError::Compacted)));
    assert_eq!(store.view().compaction_done(), 3);
}

#[test]
fn a_group_that_is_dropped_leaves_no_trace() {
    let mut store = memory();
    put(&mut store, "a", "1");
    let mut group = store.begin();
    let mut txn = group.txn();
    txn.put(bytes("a"), bytes("2"), 0).expect("memory");
    txn.put(bytes("b"), bytes("2"), 0).expect("memory");
    assert_eq!(txn.range(&Query::default()).expect("memory").count, 2);
    txn.end();
    drop(group);
    let answer = store.view().range(&Query::default()).expect("memory");
    assert_eq!((answer.count, &answer.kvs[0].value[..], store.view().revision()), (1, &b"1"[..], 2));
    assert_eq!(store.check().expect("memory"), Vec::<String>::new());
}

#[test]
fn what_is_too_much_for_the_tap_is_dropped_and_said() {
    let options = Options { feed_bytes: 100, ..Options::default() };
    let mut store = Store::open_with(Arc::new(MemoryEngine::new()), options).expect("an empty engine opens");
    let feed = store.change_feed();
    feed.open();
    put(&mut store, "a", "1"); // revision 2
    let taken = feed.take();
    assert_eq!((taken.dropped, taken.groups.len()), (None, 1));
    put(&mut store, "b", &"v".repeat(60));
    put(&mut store, "c", &"v".repeat(60)); // revision 4: both exceed the limit
    put(&mut store, "d", "1");
    let taken = feed.take();
    assert_eq!((taken.dropped, taken.groups.len()), (Some(4), 1));
    assert_eq!((taken.groups[0].first(), taken.groups[0].last()), (5, 5));
}
