//! Slices: members with the same history agree, whatever each has compacted; a row that is lost or changed shows.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use engine::{Batch, Engine, Family, MemoryEngine};
use mvcc::{Cost, Effort, ReadError, SliceHash, Store};
use std::sync::Arc;
use types::{KeyRange, RangeEnd};

const BYTES: usize = 1 << 20;

struct Member {
    engine: Arc<MemoryEngine>,
    store: Store,
}

/// Revision n + 1 is the nth write: puts of 40 keys in turn, each tenth write a delete.
fn member(writes: i64) -> Member {
    let engine = Arc::new(MemoryEngine::new());
    let mut store = Store::open(Arc::clone(&engine) as _).unwrap();
    for write in 1..=writes {
        let mut group = store.begin();
        let mut txn = group.txn();
        let key = Bytes::from(format!("key/{:02}", write % 40));
        if write % 10 == 0 && txn.meta(&key).is_some() {
            txn.delete(&KeyRange::point(key)).unwrap();
        } else {
            txn.put(key, Bytes::from(format!("value {write}")), 0).unwrap();
        }
        group.commit().unwrap();
    }
    Member { engine, store }
}

impl Member {
    fn changes(&self, after: i64, to: i64) -> Result<SliceHash, ReadError> {
        self.store.view().bounded(&Effort::within(Cost::MAX)).hash_changes(after, to)
    }

    fn keys(&self, from: &str, revision: i64, limit: i64) -> Result<(SliceHash, Option<Bytes>), ReadError> {
        let range = KeyRange { start: Bytes::copy_from_slice(from.as_bytes()), end: RangeEnd::Open };
        self.store.view().bounded(&Effort::within(Cost::MAX)).hash_keys(&range, revision, limit, BYTES)
    }

    fn compact(&mut self, revision: i64) {
        let mut group = self.store.begin();
        group.compact(revision).unwrap();
        group.commit().unwrap();
        while self.store.compact_step(7).unwrap() {}
    }

    /// Changes the first row of a family that has `old` in it, behind the store's back.
    fn damage(&self, family: Family, old: &str, new: Option<&str>) {
        let mut found = None;
        self.engine
            .scan(family, &[], None, &mut |key, row| {
                let at = row.windows(old.len()).position(|part| part == old.as_bytes());
                found = found.take().or(at.map(|at| (key.to_vec(), row.to_vec(), at)));
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        let (key, mut row, at) = found.expect("there is such a row");
        let mut batch = Batch::default();
        match new {
            Some(new) => {
                row[at..at + new.len()].copy_from_slice(new.as_bytes());
                batch.put(family, key, row);
            }
            None => batch.delete(family, key),
        }
        self.engine.write(batch).unwrap();
    }
}

#[test]
fn members_with_the_same_history_agree_whatever_each_has_compacted() {
    let (one, mut other) = (member(200), member(200));
    other.compact(60);
    assert!(matches!(other.changes(59, 200), Err(ReadError::Compacted)));
    for (after, to) in [(60, 61), (60, 201), (100, 150), (150, 150)] {
        let (mine, theirs) = (one.changes(after, to).unwrap(), other.changes(after, to).unwrap());
        assert_eq!(mine, theirs, "({after}, {to}]");
        assert_eq!(mine.rows, (to - after).unsigned_abs());
    }
    other.compact(120);
    assert_eq!(one.changes(120, 201).unwrap(), other.changes(120, 201).unwrap());
    assert!(matches!(one.changes(120, 202), Err(ReadError::FutureRevision)));
    for revision in [120, 130, 201] {
        let (mut from, mut rows) = (String::new(), 0);
        loop {
            let (mine, theirs) =
                (one.keys(&from, revision, 7).unwrap(), other.keys(&from, revision, 7).unwrap());
            assert_eq!(mine, theirs, "from {from:?} at {revision}");
            rows += mine.0.rows;
            let Some(next) = mine.1 else { break };
            assert_eq!(mine.0.rows, 7);
            from = String::from_utf8(next.to_vec()).unwrap();
        }
        assert!((20..=40).contains(&rows), "{rows} keys at {revision}");
    }
    assert!(matches!(other.keys("", 119, 7), Err(ReadError::Compacted)));
}

#[test]
fn a_row_that_was_lost_or_changed_shows() {
    let sound = member(200);
    let check = |family: Family, new: Option<&str>, in_changes: bool, in_keys: bool| {
        let damaged = member(200);
        damaged.damage(family, "value 199", new);
        // A member finds no key that its rows do not have; the index of one that runs still knows it.
        let store = Store::open(Arc::clone(&damaged.engine) as _).unwrap();
        let damaged = Member { store, ..damaged };
        let changes = damaged.changes(150, 201).unwrap() != sound.changes(150, 201).unwrap();
        let keys = damaged.keys("", 201, 100).unwrap() != sound.keys("", 201, 100).unwrap();
        assert_eq!((changes, keys), (in_changes, in_keys), "{family:?} {new:?}");
        assert_eq!(damaged.changes(0, 150).unwrap(), sound.changes(0, 150).unwrap());
    };
    check(Family::Revs, Some("VALUE"), true, false);
    check(Family::Revs, None, true, false);
    check(Family::Latest, Some("VALUE"), false, true);
    check(Family::Latest, None, false, true);
}

#[test]
fn other_writes_show() {
    let (one, mut other) = (member(50), member(49));
    let mut group = other.store.begin();
    group.txn().put(Bytes::from_static(b"key/10"), Bytes::from_static(b"other"), 0).unwrap();
    group.commit().unwrap();
    assert_ne!(one.changes(49, 51).unwrap(), other.changes(49, 51).unwrap());
    assert_eq!(one.changes(0, 50).unwrap(), other.changes(0, 50).unwrap());
    assert_ne!(one.keys("", 51, 100).unwrap(), other.keys("", 51, 100).unwrap());
}

#[test]
fn a_slice_beyond_its_budget_is_given_up() {
    let one = member(50);
    let view = one.store.view();
    let effort = Effort::within(Cost { rows: 10, bytes: u64::MAX });
    assert!(matches!(view.bounded(&effort).hash_changes(0, 51), Err(ReadError::GivenUp(_))));
}
