//! Random damage of every kind of page: what is read is what was written, or an error says where it is wrong.

use crate::support::{
    Buckets, Dice, Line, Metered, bucket_value, file, leaf_image, lines, open, read, sign, walked,
};
use crate::support::{Forge, some_buckets};
use bbolt::{Limits, Options, ReadError, Reader};
use std::collections::BTreeMap;

/// How many damaged files to read.
fn cases() -> usize {
    std::env::var("BBOLT_CASES").ok().map_or(3000, |cases| cases.parse().expect("BBOLT_CASES is a number"))
}

/// A file of ours with three levels of pages, overflow, an empty bucket and many small ones.
fn ours(seed: u64) -> (Buckets, Vec<u8>) {
    let mut dice = Dice(seed);
    let mut buckets = some_buckets(&mut dice, 1024);
    let many = (0..1200_u64).map(|n| (n.to_be_bytes().to_vec(), dice.bytes(20))).collect();
    buckets.insert(b"many".to_vec(), many);
    let long: BTreeMap<_, _> = (0..9_u8).map(|n| (vec![n; 300], dice.bytes(usize::from(n) * 400))).collect();
    buckets.insert(b"long".to_vec(), long);
    buckets.insert(b"none".to_vec(), BTreeMap::new());
    (0..40).for_each(|n| drop(buckets.insert(format!("small{n:03}").into_bytes(), BTreeMap::new())));
    let bytes = file(Options { page_bytes: 1024, ..Options::DEFAULT }, &buckets);
    (buckets, bytes)
}

/// A file with what the writer does not make: nested and inline buckets, free pages.
fn forged() -> Vec<u8> {
    let mut forge = Forge::new(1024, 14, 2);
    for id in 0..2 {
        forge.meta(id, 2, 12, 14);
    }
    let inline = bucket_value(0, &leaf_image(&[(0, b"x", b"inline"), (0, b"y", b"")]));
    forge.leaf(2, &[(1, b"a", &bucket_value(3, &[])), (1, b"b", &inline)]);
    forge.branch(3, &[(b"0", 4), (b"5", 5), (b"7", 8)]);
    forge.leaf(4, &[(0, b"0", b"zero"), (1, b"1", &bucket_value(9, &[])), (1, b"2", &inline)]);
    forge.leaf(5, &[(0, b"5", &[5; 2500])]);
    forge.leaf(8, &[(0, b"7", b"seven"), (1, b"8", &bucket_value(10, &[]))]);
    forge.leaf(9, &[(1, b"n", &inline)]);
    forge.branch(10, &[(b"k", 11)]);
    forge.leaf(11, &[(0, b"k", b"v")]);
    forge.freelist(12, &[13]);
    forge.bytes
}

/// Reads a damaged file in both ways. Neither reads more than the file, a few times.
fn read_both(bytes: &[u8]) -> (Result<Vec<Line>, ReadError>, Result<Vec<Line>, ReadError>) {
    let metered = Metered::new(bytes);
    let reader = match Reader::open(&metered, Limits::DEFAULT) {
        Ok(reader) => reader,
        Err(error) => return (Err(error), Err(ReadError::Failed)),
    };
    let walk = walked(&reader);
    assert!(metered.read.get() <= 2 * bytes.len() as u64 + 4096, "{} bytes read", metered.read.get());
    assert!(metered.longest.get() <= bytes.len());
    let small = Limits { nesting_max: 4, ..Limits::DEFAULT };
    let reader = Reader::open(&metered, small).expect("it was opened before");
    let cursors = read(&reader);
    if let (Ok(walk), Ok(cursors)) = (&walk, &cursors) {
        assert_eq!(walk, cursors);
    }
    (walk, cursors)
}

/// The lines that are not the same, if the files have as many. A bucket's changed name changes the paths below it.
fn differing(before: &[Line], after: &[Line]) -> usize {
    assert_eq!(before.len(), after.len(), "a line is missing, or one too many");
    let differ = |(before, after): &(&Line, &Line)| {
        before.path.len() != after.path.len() || before.key != after.key || before.value != after.value
    };
    before.iter().zip(after).filter(differ).count()
}

#[test]
fn one_bit() {
    let (mut seen, mut harmless, mut changed) = (0, 0, 0);
    let mut dice = Dice(1);
    let files: Vec<_> = (0..8).map(ours).collect();
    for case in 0..cases() {
        let (buckets, bytes) = &files[case % files.len()];
        let mut bytes = bytes.clone();
        let page = dice.below(bytes.len() / 1024) * 1024;
        // Half of the bits are where the structure is.
        let at = if case % 2 == 0 { page + dice.below(1024) } else { page + dice.below(120) };
        bytes[at] ^= 1 << dice.below(8);
        let (walk, cursors) = read_both(&bytes);
        let before = lines(buckets);
        match walk {
            Err(_) => seen += 1,
            Ok(after) => {
                // Nothing but the bit itself: one key, or one value, or where the one ends and the other begins.
                let count = differing(&before, &after);
                assert!(count <= 1, "byte {at}: {count} lines differ");
                harmless += 1 - count;
                changed += count;
                // Cursors open a bucket by a seek, which asks more of a branch's keys.
                let message = cursors.err().map(|error| error.to_string());
                assert!(message.is_none_or(|message| message.contains("its first key is not the one")));
            }
        }
    }
    assert!(seen > 0 && harmless > 0 && changed > 0, "{seen} seen, {harmless} harmless, {changed} changed");
}

#[test]
fn every_bit_of_a_small_file_with_nested_and_inline_buckets() {
    let bytes = forged();
    let before = walked(&open(&bytes).expect("valid")).expect("a walk");
    assert_eq!(before.len(), 16);
    let mut dice = Dice(2);
    for at in 0..bytes.len() {
        // In cargo test a part of the many zeros is skipped.
        if bytes[at] != 0 || dice.below(4) == 0 || cases() > 3000 {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(after) = read_both(&bytes).0 {
                    assert!(after.len() <= before.len(), "byte {at}, bit {bit}");
                }
            }
        }
    }
}

#[test]
fn anything() {
    let mut files: Vec<Vec<u8>> = (0..8).map(|seed| ours(100 + seed).1).collect();
    files.extend((0..4).map(|_| forged()));
    let mut dice = Dice(3);
    for case in 0..cases() {
        let mut bytes = files[case % files.len()].clone();
        for _ in 0..=dice.below(4) {
            damage(&mut bytes, 1024, &mut dice);
        }
        let _ = read_both(&bytes);
    }
}

/// Damages a file in one of many ways. The metas stay or get a right checksum in most cases, so that what they say is used.
pub(crate) fn damage(bytes: &mut Vec<u8>, page_bytes: usize, dice: &mut Dice) {
    let pages = bytes.len() / page_bytes;
    if pages < 3 {
        return;
    }
    let page = |dice: &mut Dice| (2 + dice.below(pages - 2)) * page_bytes;
    let from = page(dice);
    match dice.below(9) {
        // A field of a header or an element, an interesting number.
        0..=2 => {
            let at = from + dice.below(page_bytes.min(400) / 4) * 4;
            let number = interesting(pages, dice);
            let width = [2, 4, 8][dice.below(3)];
            bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
        }
        3 => {
            let at = [8, 9, 10, 11, 12][dice.below(5)];
            bytes[from + at] = dice.next().to_le_bytes()[0];
        }
        // One page in another's place, with its own number or with the right one.
        4 => {
            let to = page(dice);
            bytes.copy_within(from..from + page_bytes, to);
            if dice.below(2) == 0 {
                bytes[to..to + 8].copy_from_slice(&((to / page_bytes) as u64).to_le_bytes());
            }
        }
        5 => {
            let (at, length) = (from + dice.below(page_bytes), dice.below(page_bytes));
            let end = (at + length).min(bytes.len());
            let filling = [None, Some(0), Some(255)][dice.below(3)];
            for byte in &mut bytes[at..end] {
                *byte = filling.unwrap_or_else(|| dice.next().to_le_bytes()[0]);
            }
        }
        6 => {
            for _ in 0..=dice.below(16) {
                let at = dice.below(bytes.len());
                bytes[at] ^= 1 << dice.below(8);
            }
        }
        7 => {
            let field = [32, 48, 56][dice.below(3)];
            let number = interesting(pages, dice);
            for meta in 0..2 {
                let at = meta * page_bytes + field;
                bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
                sign(&mut bytes[meta * page_bytes..]);
            }
        }
        _ if dice.below(8) == 0 => bytes.truncate(dice.below(bytes.len())),
        _ => {
            let at = dice.below(2 * page_bytes);
            bytes[at] ^= 1 << dice.below(8);
        }
    }
}

fn interesting(pages: usize, dice: &mut Dice) -> u64 {
    match dice.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::from(u32::MAX) >> dice.below(32),
        3 => pages as u64,
        4 => 1 << dice.below(64),
        5 => dice.next(),
        _ => dice.below(pages) as u64,
    }
}
