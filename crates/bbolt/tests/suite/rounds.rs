//! What is written is read again; what cannot be written is refused by name.

use crate::support::{Buckets, Dice, Entries, file, lines, open, read, some_buckets, walked};
use bbolt::{Limits, Measuring, Options, ReadError, Reader, Value, WriteError, Writer};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Bound;

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        20 => prop::collection::vec(any::<u8>(), 1..20),
        2 => prop::collection::vec(0..2_u8, 1..6),
        1 => (any::<u8>(), 1..3000_usize).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        20 => prop::collection::vec(any::<u8>(), 0..60),
        1 => (any::<u8>(), 0..9000_usize).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

fn buckets() -> impl Strategy<Value = Buckets> {
    let entries = prop_oneof![
        prop::collection::btree_map(key(), value(), 0..8),
        prop::collection::btree_map(key(), value(), 0..600),
    ];
    prop_oneof![
        20 => prop::collection::btree_map(key(), entries, 0..5),
        1 => prop::collection::btree_map(key(), Just(BTreeMap::new()), 100..400),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    (10..=16_u32, 10..=100_u8)
        .prop_map(|(bits, fill_percent)| Options { page_bytes: 1 << bits, fill_percent })
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(options in options(), buckets in buckets(), probes in prop::collection::vec(key(), 0..20)) {
        let file = file(options, &buckets);
        check_branches(&file, options.page_bytes as usize);
        let reader = open(&file).expect("a valid file");
        prop_assert_eq!(reader.page_bytes(), options.page_bytes);
        prop_assert_eq!(reader.pages() * u64::from(options.page_bytes), file.len() as u64);
        prop_assert!(reader.damaged_meta().is_none());
        prop_assert_eq!(&walked(&reader).expect("a walk"), &lines(&buckets));
        prop_assert_eq!(&read(&reader).expect("cursors"), &lines(&buckets));
        prop_assert_eq!(reader.names().expect("names"), buckets.keys().cloned().collect::<Vec<_>>());
        for (name, entries) in &buckets {
            let bucket = reader.bucket(name).expect("a search").expect("it is there");
            let mut cursor = bucket.cursor();
            for probe in probes.iter().chain(entries.keys()) {
                let expected = entries.range::<Vec<u8>, _>((Bound::Included(probe), Bound::Unbounded)).take(3);
                let mut found = cursor.seek(probe).expect("a seek").map(|entry| entry.key.to_vec());
                for (key, value) in expected {
                    prop_assert_eq!(found.as_ref(), Some(key));
                    let again = cursor.seek(key).expect("a seek").expect("it is there");
                    prop_assert_eq!(again.value, Value::Bytes(value));
                    found = cursor.next_entry().expect("a step").map(|entry| entry.key.to_vec());
                }
            }
        }
        for probe in probes {
            let bucket = reader.bucket(&probe).expect("a search");
            prop_assert_eq!(bucket.is_some(), buckets.contains_key(&probe));
        }
    }
}

/// bbolt stops at an assertion when it deletes below a branch with one child, and splits what has four and more.
fn check_branches(file: &[u8], page_bytes: usize) {
    let mut at = 0;
    while at < file.len() {
        let field = |n: usize, bytes: usize| {
            file[at + n..at + n + bytes].iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte))
        };
        assert_eq!(field(0, 8), at / page_bytes);
        let (is_branch, count, overflow) = (field(8, 2) == 1, field(10, 2), field(12, 4));
        assert!(!is_branch || count >= 2, "a branch has two children");
        assert!(!is_branch || count < 4 || overflow == 0, "a longer branch is split");
        at += (1 + overflow) * page_bytes;
    }
}

#[test]
fn many_shapes_are_written_and_read() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let page_bytes = 1024 << dice.below(3);
        let buckets = some_buckets(&mut dice, page_bytes);
        let page_bytes = u32::try_from(page_bytes).expect("small");
        let file = file(Options { page_bytes, ..Options::DEFAULT }, &buckets);
        let reader = open(&file).expect("a valid file");
        assert_eq!(walked(&reader).expect("a walk"), lines(&buckets));
    }
}

#[test]
fn a_file_without_buckets_is_four_pages() {
    for bits in 10..=16 {
        let options = Options { page_bytes: 1 << bits, ..Options::DEFAULT };
        let file = file(options, &Buckets::new());
        assert_eq!(file.len(), 4 << bits);
        assert_eq!(walked(&open(&file).expect("a valid file")).expect("a walk"), []);
    }
}

#[test]
fn what_follows_the_last_page_is_not_read() {
    let buckets = some_buckets(&mut Dice(5), 4096);
    let mut file = file(Options::DEFAULT, &buckets);
    file.extend([9; 32]);
    assert_eq!(walked(&open(&file).expect("a valid file")).expect("a walk"), lines(&buckets));
}

fn refused<T: std::fmt::Debug>(result: Result<T, WriteError>, words: &str) {
    let message = result.expect_err("it cannot be written").to_string();
    assert!(message.contains(words), "{message:?} should say {words:?}");
}

#[test]
fn what_the_format_does_not_hold_is_refused() {
    let with = |page_bytes, fill_percent| Measuring::new(Options { page_bytes, fill_percent });
    refused(with(512, 90), "pages of 512 bytes");
    refused(with(131_072, 90), "pages of 131072 bytes");
    refused(with(5000, 90), "pages of 5000 bytes");
    refused(with(4096, 9), "a fill of 9 %");
    refused(with(4096, 101), "a fill of 101 %");

    let mut measuring = Measuring::new(Options::DEFAULT).expect("good options");
    refused(measuring.entry(b"k", 1), "without a bucket");
    refused(measuring.bucket(b""), "a key of 0 bytes");
    measuring.bucket(b"b").expect("a first bucket");
    refused(measuring.bucket(b"b"), "bucket \"b\" is out of order");
    refused(measuring.bucket(b"a"), "bucket \"a\" is out of order");
    refused(measuring.entry(b"", 1), "a key of 0 bytes");
    refused(measuring.entry(&vec![1; 32769], 1), "a key of 32769 bytes");
    refused(measuring.entry(b"k", (1 << 31) - 1), "a value of 2147483647 bytes");
    measuring.entry(b"k", (1 << 31) - 2).expect("the longest value");
    refused(measuring.entry(b"k", 1), "key \"k\" of bucket \"b\" is out of order");
    refused(measuring.entry(b"j\xff", 1), "key \"j\\xff\" of bucket \"b\" is out of order");
    measuring.entry(&vec![255; 32768], 0).expect("the longest key");
}

#[test]
fn a_value_of_two_gigabytes_is_measured_without_memory() {
    let mut measuring = Measuring::new(Options::DEFAULT).expect("good options");
    measuring.bucket(b"b").expect("a bucket");
    for n in 0..1000_u32 {
        measuring.entry(&n.to_be_bytes(), (1 << 31) - 2).expect("an entry");
    }
    let measured = measuring.finish().expect("an end");
    assert!(measured.bytes() > 1000 * ((1 << 31) - 2));
    assert_eq!((measured.buckets(), measured.entries()), (1, 1000));
}

#[test]
fn a_second_pass_that_differs_is_an_error_and_never_a_longer_file() {
    let mut buckets = some_buckets(&mut Dice(13), 1024);
    let many = (0..800_u32).map(|n| (n.to_be_bytes().to_vec(), vec![1; 30])).collect();
    buckets.insert(b"many".to_vec(), many);
    let options = Options { page_bytes: 1024, ..Options::DEFAULT };
    let measured = bbolt::measure(options, &buckets).expect("in order");
    let mut others = Vec::new();
    let (name, entries) = buckets.iter().max_by_key(|(_, entries)| entries.len()).expect("some buckets");
    let key = entries.keys().nth(20).expect("enough keys");
    let mut change = |change: &dyn Fn(&mut Entries)| {
        let mut other = buckets.clone();
        change(other.get_mut(name).expect("the bucket"));
        others.push(other);
    };
    change(&|entries| drop(entries.remove(key)));
    change(&|entries| drop(entries.insert(b"new".to_vec(), Vec::new())));
    change(&|entries| drop(entries.insert(key.clone(), vec![0; 7000])));
    change(&|entries| entries.get_mut(key).expect("the key").push(0));
    change(&BTreeMap::clear);
    let mut fewer = buckets.clone();
    fewer.remove(name);
    others.push(fewer);
    let mut more = buckets.clone();
    more.insert(b"zz".to_vec(), entries.clone());
    others.push(more);
    others.push(Buckets::new());
    for other in &others {
        let mut out = Vec::new();
        refused(bbolt::write(&mut out, &measured, other), "differ from the measured ones");
        assert!(out.len() as u64 <= measured.bytes());
    }
    // Other contents of the same lengths are the caller's affair: the file is valid.
    let mut same = buckets.clone();
    same.get_mut(name).expect("the bucket").get_mut(key).expect("the key").fill(0);
    let file = bbolt::write(Vec::new(), &measured, &same).expect("equal lengths");
    assert_eq!(walked(&open(&file).expect("a valid file")).expect("a walk"), lines(&same));
}

#[test]
fn after_an_error_nothing_more_is_written() {
    let buckets = Buckets::from([(b"b".to_vec(), BTreeMap::from([(b"k".to_vec(), b"v".to_vec())]))]);
    let measured = bbolt::measure(Options::DEFAULT, &buckets).expect("in order");
    let mut writer = Writer::new(Vec::new(), &measured).expect("a vector takes all");
    writer.bucket(b"b").expect("a bucket");
    refused(writer.entry(b"", b"v"), "a key of 0 bytes");
    refused(writer.entry(b"k", b"v"), "an earlier error");
    refused(writer.finish(), "an earlier error");

    let mut small = [0; 5000];
    let message = bbolt::write(&mut small[..], &measured, &buckets).expect_err("it is full").to_string();
    assert!(message.starts_with("bbolt: cannot write: "), "{message}");
}

#[test]
fn small_limits_are_named() {
    let entries = (0..5000_u32).map(|n| (n.to_be_bytes().to_vec(), vec![1; 30])).collect();
    let long = BTreeMap::from([(b"k".to_vec(), vec![1; 5000])]);
    let buckets = Buckets::from([(b"long".to_vec(), long), (b"many".to_vec(), entries)]);
    let file = file(Options { page_bytes: 1024, ..Options::DEFAULT }, &buckets);
    let all = Limits {
        pages_max: file.len() as u64 / 1024,
        depth_max: 3,
        nesting_max: 1,
        branch_bytes_max: 1024,
        leaf_bytes_max: 5120,
        ..Limits::DEFAULT
    };
    let check = |limits| Reader::open(&file[..], limits).expect("a valid file").check();
    check(all).expect("exactly enough");
    for (limits, name) in [
        (Limits { depth_max: 2, ..all }, "depth_max"),
        (Limits { nesting_max: 0, ..all }, "nesting_max"),
        (Limits { branch_bytes_max: 1023, ..all }, "branch_bytes_max"),
        (Limits { leaf_bytes_max: 5119, ..all }, "leaf_bytes_max"),
    ] {
        match check(limits) {
            Err(ReadError::Limit { limit, .. }) => assert_eq!(limit, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let opened = Reader::open(&file[..], Limits { pages_max: file.len() as u64 / 1024 - 1, ..all });
    assert!(matches!(opened, Err(ReadError::Limit { limit: "pages_max", .. })), "{opened:?}");
    let names = Reader::open(&file[..], Limits { names_bytes_max: 7, ..all }).expect("a valid file").names();
    assert!(matches!(names, Err(ReadError::Limit { limit: "names_bytes_max", .. })), "{names:?}");
}
