//! A store that takes over another one's state while it is read.

use bytes::Bytes;
use engine::{Batch, Engine, Family, MemoryEngine};
use mvcc::{Changes, Event, Query, Store, View};
use std::ops::ControlFlow;
use std::sync::Arc;
use types::KeyRange;

fn store(engine: &Arc<MemoryEngine>) -> Store {
    Store::open(Arc::clone(engine) as Arc<dyn Engine>).expect("opens")
}

fn put(store: &mut Store, key: &'static str, value: &str) {
    let mut group = store.begin();
    let mut txn = group.txn();
    txn.put(key.into(), Bytes::copy_from_slice(value.as_bytes()), 0).expect("memory");
    txn.end();
    group.commit().expect("memory");
}

fn compact(store: &mut Store, revision: i64) {
    let mut group = store.begin();
    group.compact(revision).expect("a revision that can be compacted");
    group.commit().expect("memory");
}

fn settle(store: &mut Store) {
    while store.compact_step(2).expect("memory") {}
}

/// The value of the key at a revision, or why it cannot be read.
fn get(view: &View, revision: i64) -> String {
    match view.range(&Query { revision, ..Query::of(KeyRange::point("k")) }) {
        Ok(answer) => answer.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).collect(),
        Err(error) => error.to_string(),
    }
}

const COMPACTED: &str = "required revision has been compacted";

/// The revisions of the events from one on.
fn events(view: &View, from: i64) -> Result<Vec<i64>, String> {
    let mut seen = Vec::new();
    let read = view.events(from, i64::MAX - 1, &mut |event: Event| {
        seen.push(event.at.main);
        ControlFlow::Continue(())
    });
    read.map(|()| seen).map_err(|error| error.to_string())
}

/// A store with revisions 2 to 6, and one further on, at 9, which is compacted to 8.
fn behind_and_ahead() -> (Arc<MemoryEngine>, Store, Arc<MemoryEngine>, Store) {
    let (mine, theirs) = (Arc::new(MemoryEngine::new()), Arc::new(MemoryEngine::new()));
    let (mut behind, mut ahead) = (store(&mine), store(&theirs));
    for value in ["2", "3", "4", "5", "6", "7", "8", "9"] {
        if value <= "6" {
            put(&mut behind, "k", value);
        }
        put(&mut ahead, "k", value);
    }
    compact(&mut ahead, 8);
    settle(&mut ahead);
    // As it is opened after an import.
    let ahead = store(&theirs);
    (mine, behind, theirs, ahead)
}

#[test]
fn who_held_the_handle_sees_the_new_state_and_who_held_a_view_the_former_one() {
    let (mine, mut store, theirs, other) = behind_and_ahead();
    let (handle, held) = (store.view_handle(), store.view());
    let former = store.replace(other);
    assert_eq!((handle.view().revision(), handle.view().compact_revision()), (9, 8));
    assert_eq!((get(&handle.view(), 0), get(&handle.view(), 7)), ("9".to_owned(), COMPACTED.to_owned()));
    // What is written and removed now does not touch the former state.
    put(&mut store, "k", "10");
    compact(&mut store, 10);
    settle(&mut store);
    assert_eq!(
        (handle.view().compaction_done(), store.check().expect("readable")),
        (10, Vec::<String>::new())
    );
    for revision in 2..=6 {
        assert_eq!(get(&held, revision), revision.to_string());
    }
    assert_eq!(events(&held, 2), Ok(vec![2, 3, 4, 5, 6]));
    assert!(mine.get(Family::Revs, &types::Revision::new(10, 0).encode()).expect("memory").is_none());
    assert!(theirs.get(Family::Revs, &types::Revision::new(10, 0).encode()).expect("memory").is_some());
    // The former state lives as long as its last reader.
    drop(former);
    assert_eq!(Arc::strong_count(&mine), 2, "the test's, and that of the view");
    drop(held);
    assert_eq!(Arc::strong_count(&mine), 1);
}

#[test]
fn the_former_store_is_whole_until_it_is_dropped() {
    let (_, mut store, _, other) = behind_and_ahead();
    let theirs = other.view_handle();
    let former = store.replace(other);
    assert_eq!((former.view().revision(), theirs.view().revision()), (6, 6));
    assert_eq!(former.check().expect("readable"), Vec::<String>::new());
}

#[test]
fn compaction_of_the_new_state_waits_for_no_reader_of_the_former_one() {
    let (_, mut store, _, other) = behind_and_ahead();
    let held = store.view();
    compact(&mut store, 4);
    assert!(store.compact_step(100).expect("memory") && store.compaction_waits(), "a reader holds it up");
    let former = store.replace(other);
    assert!(!store.compaction_waits() && !store.compact_step(100).expect("memory"), "there is nothing to do");
    // Nor does an old reader expire with the new state's.
    store.expire_views();
    compact(&mut store, 9);
    settle(&mut store);
    assert_eq!(store.view().compaction_done(), 9);
    drop(former);
    assert_eq!(get(&held, 2), "2");
}

#[test]
fn a_compaction_that_the_new_state_had_begun_goes_on() {
    let (_, mut store, theirs, mut other) = behind_and_ahead();
    compact(&mut other, 9);
    drop(other);
    let former = store.replace(self::store(&theirs));
    assert_eq!((store.view().compact_revision(), store.view().compaction_done()), (9, 8));
    settle(&mut store);
    assert_eq!(store.view().compaction_done(), 9);
    drop(former);
}

#[test]
fn a_view_of_the_former_engine_reaches_no_further_back_in_the_new_one() {
    let (_, mut store, _, other) = behind_and_ahead();
    let held = store.view();
    let former = store.replace(other);
    let newest = store.view();
    assert!(!newest.shares_engine_with(&held) && newest.shares_engine_with(&store.view()));
    // Its events before 8 are gone, whatever the held view can read.
    let reaching = newest.as_far_back_as(&held);
    assert_eq!(reaching.compact_revision(), 8);
    assert_eq!(events(&reaching, 5), Err(COMPACTED.to_owned()));
    assert_eq!(events(&reaching, 8), Ok(vec![8, 9]));
    drop(former);
}

#[test]
fn the_feed_tells_of_the_gap_and_goes_on_behind_it() {
    let (_, mut store, _, other) = behind_and_ahead();
    let feed = store.change_feed();
    feed.open();
    put(&mut store, "k", "7");
    let mut ahead = other;
    put(&mut ahead, "k", "10");
    let former = store.replace(ahead);
    put(&mut store, "k", "11");
    let Changes { dropped, groups } = feed.take();
    assert_eq!(dropped, Some(10), "what waited at 7 is history, too");
    assert_eq!(groups.iter().map(|group| (group.first(), group.last())).collect::<Vec<_>>(), [(11, 11)]);
    assert!(matches!(feed.take(), Changes { dropped: None, groups } if groups.is_empty()), "told once");
    drop(former);

    // Nobody watches: there is nobody to tell.
    let (_, mut store, _, other) = behind_and_ahead();
    let feed = store.change_feed();
    let former = store.replace(other);
    feed.open();
    assert!(matches!(feed.take(), Changes { dropped: None, groups } if groups.is_empty()));
    drop(former);
}

#[test]
fn hashes_and_counts_stay() {
    let (_, mut store, _, other) = behind_and_ahead();
    compact(&mut store, 4);
    settle(&mut store);
    let (kept, tally) = (store.view().hash_kv(4).expect("left by the compaction"), store.view().tally());
    let former = store.replace(other);
    let view = store.view();
    assert_eq!(view.hash_kv(4).expect("etcd's survive, too"), kept);
    assert_eq!(view.hash_kv(5).expect_err("compacted, without a hash").to_string(), COMPACTED);
    assert_eq!(store.view().tally(), tally);
    put(&mut store, "k", "10");
    assert_eq!(store.view().tally().puts, tally.puts + 1);
    drop(former);
}

#[test]
fn who_learns_of_the_gap_sees_what_is_behind_it() {
    let mut store = store(&Arc::new(MemoryEngine::new()));
    let (feed, handle) = (store.change_feed(), store.view_handle());
    feed.open();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for newer in 1..50_000 {
                let (engine, mut batch) = (Arc::new(MemoryEngine::new()), Batch::default());
                mvcc::bump(&*engine, &mut batch, newer).expect("far from the end");
                engine.write(batch).expect("memory");
                drop(store.replace(self::store(&engine)));
            }
        });
        while !writer.is_finished() {
            if let Some(to) = feed.take().dropped {
                assert!(handle.view().revision() >= to, "the gap ends at {to}");
            }
        }
    });
}
