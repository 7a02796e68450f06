//! The store against a naive model: random transactions, compactions, crashes and long-held views.

mod naive;

use bytes::Bytes;
use engine::{Engine, MemoryEngine};
use mvcc::{
    Answer, CompactError, Cost, Effort, EventKind, GivenUp, Options, Order, Outline, Query, ReadError, Shape,
    SortBy, Store, View,
};
use naive::{Naive, Refused};
use proptest::prelude::*;
use std::ops::ControlFlow;
use std::sync::Arc;
use types::{KeyRange, RangeEnd, Revision};

#[derive(Clone, Debug)]
enum Write {
    Put { key: Bytes, value: Bytes, lease: i64 },
    Delete(KeyRange),
}

/// One step of a history. Revisions and limits are scaled to the state when the step runs.
#[derive(Clone, Debug)]
enum Step {
    /// A group of transactions, each followed by a query, and perhaps a compaction in the middle.
    Group {
        txns: Vec<(Vec<Write>, Query)>,
        compact: Option<u8>,
    },
    Compaction {
        budget: usize,
    },
    Hold,
    DropViews,
    Flush,
    Reopen,
    Crash,
    Ask {
        queries: Vec<Query>,
        hash: u8,
    },
}

fn keys() -> impl Strategy<Value = Bytes> {
    let text =
        prop::sample::select(vec!["a", "b", "b\0", "b\0\0", "b\0\u{1}", "ba", "c", "c\u{7f}", "d", "\0"]);
    prop_oneof![
        4 => text.prop_map(|key| Bytes::from_static(key.as_bytes())),
        1 => (0u8..60).prop_map(|n| Bytes::from(format!("k{n:02}"))),
    ]
}

fn ranges() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => keys().prop_map(KeyRange::point),
        3 => (keys(), keys()).prop_map(|(start, end)| KeyRange { start, end: RangeEnd::Before(end) }),
        1 => keys().prop_map(|start| KeyRange { start, end: RangeEnd::Open }),
        1 => Just(KeyRange::all()),
    ]
}

fn writes() -> impl Strategy<Value = Write> {
    let value = prop::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from);
    prop_oneof![
        4 => (keys(), value, prop::sample::select(vec![0i64, 0, 7, -3]))
            .prop_map(|(key, value, lease)| Write::Put { key, value, lease }),
        1 => ranges().prop_map(Write::Delete),
    ]
}

fn queries() -> impl Strategy<Value = Query> {
    let sort = prop::option::of((
        prop::sample::select(vec![SortBy::Key, SortBy::Version, SortBy::Create, SortBy::Mod, SortBy::Value]),
        prop::sample::select(vec![Order::Ascend, Order::Descend]),
    ));
    let bound = || prop_oneof![3 => Just(0i64), 1 => 1i64..40];
    let flags = (any::<bool>(), prop::bool::weighted(0.1), any::<bool>());
    (ranges(), -1i64..101, -1i64..6, sort, flags, (bound(), bound(), bound(), bound())).prop_map(
        |(range, revision, limit, sort, (keys_only, count_only, limit_first), filters)| Query {
            range,
            revision,
            limit,
            sort,
            limit_first,
            keys_only,
            count_only,
            min_mod_revision: filters.0,
            max_mod_revision: filters.1,
            min_create_revision: filters.2,
            max_create_revision: filters.3,
            ..Query::default()
        },
    )
}

/// Limits small enough to be reached, and the defaults.
fn options() -> impl Strategy<Value = Options> {
    let small = (1usize..20, 1usize..100, 4usize..10, 4usize..6).prop_map(
        |(page_keys, page_bytes, leaf_keys, children)| {
            let shape = Shape { leaf_keys, leaf_bytes: 40, children };
            Options { page_keys, page_bytes, shape, ..Options::default() }
        },
    );
    prop_oneof![4 => small, 1 => Just(Options::default())]
}

fn steps() -> impl Strategy<Value = Step> {
    let txn = (prop::collection::vec(writes(), 0..5), queries());
    prop_oneof![
        8 => (prop::collection::vec(txn, 1..5), prop::option::weighted(0.2, any::<u8>()))
            .prop_map(|(txns, compact)| Step::Group { txns, compact }),
        4 => (1usize..9).prop_map(|budget| Step::Compaction { budget }),
        1 => Just(Step::Hold),
        1 => Just(Step::DropViews),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        3 => (prop::collection::vec(queries(), 1..6), any::<u8>()).prop_map(|(queries, hash)| Step::Ask { queries, hash }),
    ]
}

/// This percentage of the way from just before the compaction to just past the revision.
fn scaled(percent: i64, model: &Naive) -> i64 {
    if percent <= 0 {
        return percent;
    }
    let (low, high) = (model.compact.max(1) - 1, model.revision + 1);
    low + (high - low) * percent / 100
}

fn check_answer(given: Result<Answer, ReadError>, expected: Result<Answer, Refused>, query: &Query) {
    match (given, expected) {
        (Ok(given), Ok(expected)) => assert_eq!(given, expected, "{query:?}"),
        (Err(ReadError::Compacted), Err(Refused::Compacted))
        | (Err(ReadError::FutureRevision), Err(Refused::Future)) => {}
        (given, expected) => panic!("{query:?}: {given:?} instead of {expected:?}"),
    }
}

/// A read within a budget gives the same answer, or is given up having counted more than the budget.
fn check_bounded(view: &View, query: &Query, rows: u64) {
    let budget = Cost { rows, bytes: 4 * rows };
    let effort = Effort::within(budget);
    match (view.bounded(&effort).range(query), view.range(query)) {
        (Err(ReadError::GivenUp(GivenUp::Spent)), _) => assert!(!effort.spent().fits(budget), "{query:?}"),
        (Ok(bounded), Ok(whole)) => {
            assert_eq!(bounded, whole, "{query:?}");
            assert!(effort.spent().rows >= whole.kvs.len() as u64, "{query:?}: {effort:?}");
        }
        (bounded, whole) => assert_eq!(format!("{bounded:?}"), format!("{whole:?}"), "{query:?}"),
    }
}

/// Pieces limited by bytes or keys must add up to the unlimited answer.
fn check_pieces(view: &View, query: &Query, max_bytes: usize) {
    let is_plain = Query { limit: 0, revision: 0, keys_only: false, count_only: false, ..query.clone() }
        == Query::of(query.range.clone());
    if !is_plain || query.count_only || max_bytes == 0 {
        return;
    }
    let Ok(whole) = view.range(&Query { limit: 0, ..query.clone() }) else { return };
    let (mut merged, mut piece) = (Vec::new(), Query { max_bytes, uncounted: true, ..query.clone() });
    loop {
        let answer = view.range(&piece).expect("the whole was answered");
        merged.extend(answer.kvs);
        let Some(last) = merged.last().filter(|_| answer.more) else { break };
        let start = [&last.key[..], &[0]].concat();
        piece.range = KeyRange { start: start.into(), ..piece.range };
    }
    assert_eq!(merged, whole.kvs, "{query:?}");
}

/// An outline and its rows, read in pieces, must equal the answer, even if read from a newer view.
fn check_outline(view: &View, newest: &View, query: &Query, max_bytes: usize) {
    let query = Query { max_bytes: 0, uncounted: false, ..query.clone() };
    let effort = Effort::within(Cost::MAX);
    let (outline, whole) = (view.bounded(&effort).outline(&query, max_bytes / 2), view.range(&query));
    let (Outline { first, mut rows, bytes, count, more }, whole) = match (outline, whole) {
        (Ok(mut outline), Ok(whole)) => {
            if max_bytes % 2 == 1 {
                outline.keep(max_bytes / 4);
            }
            (outline, whole)
        }
        (Err(outline), Err(whole)) => return assert_eq!(outline.to_string(), whole.to_string()),
        (outline, whole) => panic!("{query:?}: {outline:?} of {whole:?}"),
    };
    let framed = |kv: &mvcc::KeyValue| {
        let length = kv.encoded_len() as u64;
        1 + (64 - u64::from((length | 1).leading_zeros())).div_ceil(7) + length
    };
    assert_eq!((count, more), (whole.count, whole.more), "{query:?}");
    assert_eq!(bytes, whole.kvs[first.len()..].iter().map(framed).sum(), "{query:?}");
    let (mut merged, mut from) = (first, view);
    while !rows.is_empty() {
        let piece = match rows.next(from, &effort, max_bytes.max(1)) {
            Ok(piece) => piece,
            Err(ReadError::Compacted) if std::ptr::eq(from, newest) => {
                let revision = if query.revision > 0 { query.revision } else { view.revision() };
                return assert!(revision < newest.compact_revision(), "{query:?}");
            }
            Err(error) => panic!("{query:?}: {error}"),
        };
        assert!(!piece.is_empty(), "{query:?}: rows are left");
        let before_last: usize = piece[..piece.len() - 1].iter().map(mvcc::KeyValue::encoded_len).sum();
        assert!(before_last < max_bytes.max(1), "{query:?}: {} rows are a piece", piece.len());
        merged.extend(piece);
        from = newest;
    }
    assert_eq!(merged, whole.kvs, "{query:?}");
}

fn check_view(view: &View, newest: &View, model: &Naive, queries: &[Query], hash: u8) {
    assert_eq!((view.revision(), view.compact_revision()), (model.revision, model.compact));
    for query in queries {
        let query = Query { revision: scaled(query.revision, model), ..query.clone() };
        check_answer(view.range(&query), model.range(&query), &query);
        check_bounded(view, &query, u64::from(hash));
        check_pieces(view, &query, usize::from(hash));
        check_outline(view, newest, &query, usize::from(hash));
    }
    let low = model.compact.max(1);
    let revision = low + (model.revision - low) * i64::from(hash) / 255;
    check_hash(view, model, revision);
    for stored in &model.stored {
        check_hash(view, model, stored.hash_revision);
    }
    check_events(view, model, revision);
}

fn check_hash(view: &View, model: &Naive, revision: i64) {
    let given = view.hash_kv(revision).expect("the revision is there");
    assert_eq!(given, model.hash_kv(revision), "of {}, compacted {}", model.revision, model.compact);
}

fn check_events(view: &View, model: &Naive, from: i64) {
    let mut events = Vec::new();
    let read = view.events(from, i64::MAX - 1, &mut |event| {
        let put = event.kind != EventKind::Delete;
        assert_eq!(event.kv.mod_revision, event.at.main);
        events.push((event.at, put, event.kv.key));
        ControlFlow::Continue(())
    });
    read.expect("not before the compaction");
    // At the compacted revision itself some changes may be gone; those left must have happened.
    let complete = |events: Vec<(Revision, bool, Bytes)>| -> Vec<_> {
        events.into_iter().filter(|(at, ..)| at.main > model.compact).collect()
    };
    let expected = model.events(from, model.revision);
    assert!(events.iter().all(|event| expected.contains(event)));
    assert_eq!(complete(events), complete(expected));
}

struct World {
    engine: Arc<MemoryEngine>,
    options: Options,
    store: Store,
    model: Naive,
    durable: Naive,
    held: Vec<(Arc<View>, Naive)>,
}

impl World {
    fn new(options: Options) -> Self {
        let engine = Arc::new(MemoryEngine::new());
        let store = Store::open_with(engine.clone(), options).expect("an empty engine opens");
        let (model, durable) = (Naive::default(), Naive::default());
        Self { engine, options, store, model, durable, held: Vec::new() }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Group { txns, compact } => self.group(txns, compact),
            Step::Compaction { budget } => {
                let more = self.store.compact_step(budget).expect("memory does not fail");
                let view = self.store.view();
                assert_eq!(more, view.compaction_done() < view.compact_revision());
                self.model.compacted(view.compaction_done());
            }
            Step::Hold => self.held.push((self.store.view(), self.model.clone())),
            Step::DropViews => self.held.clear(),
            Step::Flush => {
                self.engine.flush().expect("memory does not fail");
                self.durable = self.model.clone();
            }
            Step::Reopen => {
                self.held.clear();
                self.model.reopened();
                self.store =
                    Store::open_with(self.engine.clone(), self.options).expect("what was written opens");
            }
            Step::Crash => {
                self.held.clear();
                self.engine = Arc::new(self.engine.crash());
                self.model = self.durable.clone();
                self.model.reopened();
                self.store =
                    Store::open_with(self.engine.clone(), self.options).expect("what was flushed opens");
            }
            Step::Ask { queries, hash } => {
                let newest = self.store.view();
                check_view(&newest, &newest, &self.model, &queries, hash);
                for (view, model) in &self.held {
                    check_view(view, &newest, model, &queries, hash);
                }
            }
        }
        let broken = self.store.check().expect("memory does not fail");
        assert!(broken.is_empty(), "{broken:#?}");
    }

    fn group(&mut self, txns: Vec<(Vec<Write>, Query)>, compact: Option<u8>) {
        let (mut group, model) = (self.store.begin(), &mut self.model);
        let middle = txns.len() / 2;
        for (number, (writes, query)) in txns.into_iter().enumerate() {
            if let Some(part) = compact.filter(|_| number == middle) {
                let revision = scaled(i64::from(part % 101).max(1), model);
                let expected = match revision {
                    _ if revision <= model.compact => Err(CompactError::Compacted),
                    _ if revision > model.revision => Err(CompactError::FutureRevision),
                    _ => Ok(()),
                };
                assert_eq!(group.compact(revision), expected);
                if expected.is_ok() {
                    model.compact(revision);
                }
            }
            let (mut txn, main, mut sub) = (group.txn(), model.revision + 1, 0);
            for write in writes {
                match write {
                    Write::Put { key, value, lease } => {
                        let given = txn.put(key.clone(), value.clone(), lease).expect("memory does not fail");
                        assert_eq!(given, model.put(Revision::new(main, sub), key, value, lease));
                        sub += 1;
                    }
                    Write::Delete(range) => {
                        let given = txn.delete(&range).expect("memory does not fail");
                        assert_eq!(given, model.delete(main, &mut sub, &range));
                    }
                }
                assert_eq!(txn.revision(), model.revision);
            }
            let query = Query { revision: scaled(query.revision, model), ..query };
            check_answer(txn.range(&query), model.range(&query), &query);
            assert_eq!(txn.end(), model.revision);
        }
        let view = group.commit().expect("memory does not fail");
        assert_eq!((view.revision(), view.compact_revision()), (model.revision, model.compact));
    }

    fn finish(&mut self) {
        self.held.clear();
        while self.store.compact_step(3).expect("memory does not fail") {}
        let broken = self.store.check().expect("memory does not fail");
        assert!(broken.is_empty(), "{broken:#?}");
        let view = self.store.view();
        assert_eq!(view.compaction_done(), self.model.compact);
        self.model.compacted(view.compaction_done());
        assert_eq!(view.sizes().total_bytes, self.model.bytes());
        for revision in self.model.compact.max(1)..=self.model.revision {
            let query = Query { revision, ..Query::default() };
            check_answer(view.range(&query), self.model.range(&query), &query);
            check_hash(&view, &self.model, revision);
        }
        check_view(&view, &view, &self.model, &[], 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, ..ProptestConfig::default() })]
    #[test]
    fn the_store_behaves_as_a_list_of_everything_that_happened(
        options in options(),
        history in prop::collection::vec(steps(), 1..60),
    ) {
        let mut world = World::new(options);
        for step in history {
            world.run(step);
        }
        world.finish();
    }
}
