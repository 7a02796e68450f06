//! The index against a sorted map.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn range(start: &[u8], end: Option<&[u8]>) -> KeyRange {
    let end = end.map_or(RangeEnd::Open, |end| RangeEnd::Before(end.to_vec().into()));
    KeyRange { start: start.to_vec().into(), end }
}

fn put(index: &mut Index, key: &[u8], record: &[u8], expected: Option<&Vec<u8>>) {
    let (mut made, mut before) = (vec![9], None);
    index.update(key, &mut made, &mut |found, out| {
        before = found.map(<[u8]>::to_vec);
        out.extend_from_slice(record);
    });
    assert_eq!((before.as_ref(), &made[..]), (expected, record));
}

fn check(index: &Index, model: &Model, spans: &[(Vec<u8>, Option<Vec<u8>>)]) {
    let mut report = Vec::new();
    index.check(&mut report);
    assert!(report.is_empty(), "{report:#?}");
    for (start, end) in spans {
        let range = range(start, end.as_deref());
        let mut seen = Vec::new();
        index.visit(&range, &[], &mut |key, record| {
            seen.push((key.to_vec(), record.to_vec()));
            ControlFlow::Continue(())
        });
        let expected: Vec<_> = model
            .iter()
            .filter(|(key, _)| range.contains(key))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        assert_eq!(seen, expected);
        let live = expected.iter().filter(|(_, record)| record::is_live(record)).count() as u64;
        assert_eq!(index.count(&range), live, "count of {range:?}");
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(prop::sample::select(vec![0u8, b'a', b'b', 0xff]), 0..5),
        (0u16..400).prop_map(|n| format!("key{n:05}").into_bytes()),
    ]
}

fn empty(shape: Shape) -> Index {
    Index::build(shape, |_| Ok::<_, ()>(())).expect("cannot fail")
}

/// Node sizes from the smallest to the default.
fn shapes() -> impl Strategy<Value = Shape> {
    let leaf_bytes = prop_oneof![Just(1), 16usize..200, Just(16 << 10)];
    (4usize..=48, leaf_bytes, 4usize..=16).prop_map(|(leaf_keys, leaf_bytes, children)| Shape {
        leaf_keys,
        leaf_bytes,
        children,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_index_behaves_as_a_sorted_map(
        shape in shapes(),
        ops in prop::collection::vec((0u8..10, key(), 0u8..2, 0usize..30), 0..1500),
        spans in prop::collection::vec((key(), prop::option::of(key())), 0..8),
    ) {
        let (mut index, mut model) = (empty(shape), Model::new());
        let mut kept: Vec<(Index, Model)> = Vec::new();
        for (op, key, dead, length) in ops {
            match op {
                0..=5 => {
                    let record = [&[dead][..], &vec![7; length]].concat();
                    put(&mut index, &key, &record, model.get(&key));
                    model.insert(key, record);
                }
                6..=8 => {
                    index.remove(&key);
                    model.remove(&key);
                }
                _ if kept.len() < 4 => kept.push((index.clone(), model.clone())),
                _ => {}
            }
        }
        check(&index, &model, &spans);
        // Later changes must not touch a clone.
        for (index, model) in &kept {
            check(index, model, &spans);
        }
        for (key, record) in &model {
            prop_assert_eq!(index.get(key), Some(&record[..]));
        }
        let feed = |push: &mut Push<'_>| {
            for (key, record) in &model {
                push(key, record);
            }
            Ok::<_, ()>(())
        };
        check(&Index::build(shape, feed).expect("cannot fail"), &model, &spans);
    }
}

#[test]
fn long_keys_are_spread_over_small_leaves_and_a_tree_empties_to_a_leaf() {
    let (mut index, mut model) = (empty(Shape::default()), Model::new());
    for n in 0..200_u32 {
        let key = [&n.wrapping_mul(2_654_435_761).to_be_bytes()[..], &[b'x'; 9000]].concat();
        put(&mut index, &key, &[0], None);
        model.insert(key, vec![0]);
    }
    check(&index, &model, &[(vec![], None)]);
    for key in model.keys() {
        index.remove(key);
    }
    check(&index, &Model::new(), &[(vec![], None)]);
    assert_eq!(index.len(), 0);
}
