//! Files that lie, one lie each: every one is refused with an error that names the page and the lie.

use crate::support::{
    BRANCH, FREELIST, Forge, LEAF, Metered, bucket_value, file, leaf_image, lines, open, read, sign,
    some_buckets, walked,
};
use crate::support::{Buckets, Dice, Sparse};
use bbolt::{Limits, Options, ReadError, Reader, Value};
use std::collections::BTreeMap;

/// Pages of a small valid file: root 2 → bucket "b" at the branch 3 → leaves 4 and 5; 6 is the freelist, 7 is free.
fn valid() -> Forge {
    let mut forge = Forge::new(1024, 8, 2);
    for id in 0..2 {
        forge.meta(id, 2, 6, 8);
    }
    forge.leaf(2, &[(1, b"b", &bucket_value(3, &[]))]);
    forge.branch(3, &[(b"d", 4), (b"m", 5)]);
    forge.leaf(4, &[(0, b"d", b"1"), (0, b"g", b"2")]);
    forge.leaf(5, &[(0, b"m", b"3"), (0, b"q", b"")]);
    forge.freelist(6, &[7]);
    forge
}

/// What reading says, by a walk and by cursors: the walk may see more, never less.
fn messages(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match open(bytes) {
        Err(error) => (Some(error.to_string()), Some(error.to_string())),
        Ok(reader) => {
            (walked(&reader).err().map(|e| e.to_string()), read(&reader).err().map(|e| e.to_string()))
        }
    }
}

/// Both refuse the file, with these words.
fn refused(forge: &Forge, words: &str) {
    let (walk, cursors) = messages(&forge.bytes);
    for message in [walk, cursors] {
        let message = message.unwrap_or_else(|| panic!("accepted, instead of: {words}"));
        assert!(message.contains(words), "{message:?} should say {words:?}");
    }
}

/// A walk refuses the file, with these words; cursors need not see it.
fn refused_by_walk(forge: &Forge, words: &str) {
    let message = messages(&forge.bytes).0.unwrap_or_else(|| panic!("accepted, instead of: {words}"));
    assert!(message.contains(words), "{message:?} should say {words:?}");
}

#[test]
fn the_file_that_the_lies_are_about_is_valid() {
    let forge = valid();
    let reader = open(&forge.bytes).expect("valid");
    let summary = reader.check().expect("valid");
    assert_eq!((summary.buckets, summary.entries, summary.free_pages), (1, 4, 1));
    assert_eq!(walked(&reader).expect("a walk"), read(&reader).expect("cursors"));
}

#[test]
fn what_is_no_bbolt_file() {
    for bytes in [&b""[..], b"x", &[0; 79], &[0; 4096], &[255; 10_000], include_bytes!("attacks.rs")] {
        let error = open(bytes).expect_err("no bbolt file");
        assert!(matches!(error, ReadError::NoMeta { .. }), "{error}");
    }
}

#[test]
fn a_truncated_file() {
    let forge = valid();
    for length in 0..forge.bytes.len() {
        let error = open(&forge.bytes[..length]).expect_err("too short").to_string();
        assert!(error.contains(&format!("the file has {length} bytes")), "{error}");
    }
}

#[test]
fn one_damaged_meta_is_survived_and_named() {
    for bits in 10..=16 {
        let options = Options { page_bytes: 1 << bits, ..Options::DEFAULT };
        let buckets = some_buckets(&mut Dice(3), 1 << bits);
        let bytes = file(options, &buckets);
        for page in 0..2 {
            for at in [0, 8, 16, 20, 24, 32, 56, 64, 72, 79] {
                let mut bytes = bytes.clone();
                bytes[(page << bits) + at] ^= 0x10;
                let reader = open(&bytes).expect("the other meta is valid");
                assert_eq!(walked(&reader).expect("a walk"), lines(&buckets));
                let damaged = reader.damaged_meta().expect("it tells").to_string();
                assert!(damaged.starts_with(&format!("bbolt: page {page} is corrupt: ")), "{damaged}");
                assert_eq!(reader.transaction(), 1 - page as u64);

                bytes[((1 - page) << bits) + at] ^= 0x10;
                assert!(matches!(open(&bytes), Err(ReadError::NoMeta { .. })));
            }
        }
    }
}

#[test]
fn the_newer_transaction_counts_and_the_older_if_the_newer_is_damaged() {
    let mut forge = Forge::new(1024, 4, 2);
    forge.leaf(2, &[(1, b"old", &bucket_value(0, &leaf_image(&[])))]);
    forge.leaf(3, &[(1, b"new", &bucket_value(0, &leaf_image(&[])))]);
    forge.meta(1, 3, u64::MAX, 4);
    assert_eq!(open(&forge.bytes).expect("valid").names().expect("names"), [b"new"]);
    forge.bytes[1024 + 40] ^= 1;
    let reader = open(&forge.bytes).expect("the older is valid");
    assert_eq!(reader.names().expect("names"), [b"old"]);
    assert!(reader.damaged_meta().is_some_and(|error| error.to_string().contains("its checksum is wrong")));
}

#[test]
fn metas_that_lie_with_a_right_checksum() {
    let lie = |at: usize, value: u64, words: &str| {
        let mut forge = valid();
        for page in 0..2 {
            forge.put(1024 * page + at, &value.to_le_bytes());
            sign(&mut forge.bytes[1024 * page..]);
        }
        refused(&forge, words);
    };
    for page in [0, 1, 8, 9, u64::MAX] {
        lie(32, page, &format!("the root is page {page}, outside of 2 to 8"));
    }
    for page in [0, 1, 8, 9, u64::MAX - 1] {
        lie(48, page, &format!("the freelist is page {page}, outside of 2 to 8"));
    }
    for pages in [9, 1 << 40, u64::MAX] {
        lie(56, pages, &format!("the file has 8192 bytes, and {pages} pages of 1024 are in use"));
    }
    for pages in [0, 1, 2] {
        lie(56, pages, "the root is page 2");
    }
    lie(20, 3 | 1024 << 32, "it has version 3, and only 2 is known");
    lie(20, 2 | 4096 << 32, "the file has 8192 bytes, and 8 pages of 4096 are in use");
    lie(20, 2 | 1000 << 32, "its page size is 1000 bytes");
    lie(20, 2, "its page size is 0 bytes");
}

#[test]
fn a_root_without_buckets() {
    // The root is a leaf of the bucket "b".
    let mut forge = valid();
    for page in 0..2 {
        forge.meta(page, 4, 6, 8);
    }
    let words = "page 4 is corrupt: it has a top-level key that is no bucket";
    refused_by_walk(&forge, words);
    let names = open(&forge.bytes).expect("valid metas").names();
    assert!(names.is_err_and(|error| error.to_string().contains(words)));
}

#[test]
fn headers_that_lie() {
    let lie = |id: u64, flags, count, overflow, words: &str| {
        let mut forge = valid();
        forge.header(id, flags, count, overflow);
        refused(&forge, words);
    };
    for id in 2..6 {
        for flags in [0, 3, 4, FREELIST, 0xFFFF] {
            lie(id, flags, 1, 0, &format!("page {id} is corrupt: its flags are {flags:#x}"));
        }
        lie(
            id,
            LEAF,
            0xFFFF,
            0,
            &format!("page {id} is corrupt: its 65535 elements take more than its 1024"),
        );
        lie(id, BRANCH, 64, 0, &format!("page {id} is corrupt: its 64 elements take more than its 1024"));
        for overflow in [8 - u32::try_from(id).expect("small"), 1 << 20, u32::MAX] {
            lie(
                id,
                LEAF,
                1,
                overflow,
                &format!("page {id} is corrupt: its {overflow} overflow pages end beyond"),
            );
        }
    }
    lie(4, LEAF, 2, 2, "page 4 is corrupt: it has 2 overflow pages, and its elements end at");
    lie(5, LEAF, 2, 1, "page 5 is corrupt: it has 1 overflow pages");
    for id in 2..6 {
        for flags in [LEAF, BRANCH] {
            lie(
                id,
                flags,
                0,
                0,
                &format!("page {id} is corrupt: it says that it is empty, and has an element"),
            );
        }
    }
    lie(3, LEAF, 2, 0, "page 3 is corrupt: element 0");
    for (id, flags, words) in [
        (3, BRANCH, "page 3 is corrupt: it is a branch without children"),
        (4, LEAF, "page 4 is corrupt: it is empty, and no bucket's root"),
        (5, BRANCH, "page 5 is corrupt: it is empty, and no bucket's root"),
    ] {
        let mut forge = valid();
        let at = forge.at(id);
        forge.put(at, &[0; 1024]);
        forge.header(id, flags, 0, 0);
        refused(&forge, words);
    }
    let mut forge = valid();
    forge.put(5 * 1024, &4_u64.to_le_bytes());
    refused(&forge, "page 5 is corrupt: it says that it is page 4");
}

#[test]
fn elements_that_lie() {
    let lie = |id: u64, at: usize, value: u32, words: &str| {
        let mut forge = valid();
        let at = forge.at(id) + 16 + at;
        forge.put(at, &value.to_le_bytes());
        refused(&forge, &format!("page {id} is corrupt: {words}"));
    };
    for position in [0, 31, 33, 1 << 20, u32::MAX] {
        lie(3, 0, position, "element 0 has its key at");
        lie(4, 4, position, "element 0 has its key at");
    }
    lie(3, 4, 2, "element 1 has its key at");
    lie(3, 4, 0, "element 0 has a key of 0 bytes");
    lie(3, 4, u32::MAX, "element 0 has a key of 4294967295 bytes");
    lie(4, 8, 32769, "element 0 has a key of 32769 bytes");
    lie(4, 8, 32768, "element 0 ends at 32817, and the page has 1024 bytes");
    lie(4, 12, u32::MAX, "element 0 has a key of 1 bytes and a value of 4294967295");
    lie(4, 12, (1 << 31) - 2, "element 0 ends at");
    lie(4, 12, 0, "element 1 has its key at");
    lie(4, 28, 1025, "element 1 ends at");
    lie(4, 0, 2, "element 0 has flags 0x2");
    lie(4, 0, 1, "element 0 is a bucket, and its value has 1 bytes");
    for child in [0, 1, 8, 1 << 31] {
        lie(3, 8, child, &format!("element 0 refers to page {child}, outside of 2 to 8"));
    }
    lie(3, 12, 1, "element 0 refers to page 4294967300");
}

#[test]
fn keys_that_lie() {
    let lie = |change: &dyn Fn(&mut Forge), words: &str| {
        let mut forge = valid();
        change(&mut forge);
        refused(&forge, words);
    };
    lie(
        &|forge| forge.leaf(4, &[(0, b"d", b""), (0, b"d", b"")]),
        "page 4 is corrupt: the key of element 1 is not above",
    );
    lie(
        &|forge| forge.leaf(4, &[(0, b"e", b""), (0, b"d", b"")]),
        "page 4 is corrupt: the key of element 1 is not above",
    );
    lie(
        &|forge| forge.branch(3, &[(b"m", 4), (b"m", 5)]),
        "page 3 is corrupt: the key of element 1 is not above",
    );
    lie(&|forge| forge.leaf(4, &[(0, b"c", b"")]), "page 4 is corrupt: its first key is not the one");
    lie(
        &|forge| forge.leaf(4, &[(0, b"d", b""), (0, b"m", b"")]),
        "page 4 is corrupt: its last key is not below",
    );
    lie(
        &|forge| forge.leaf(4, &[(0, b"d", b""), (0, b"z", b"")]),
        "page 4 is corrupt: its last key is not below",
    );
    lie(&|forge| forge.branch(3, &[(b"d", 5), (b"m", 4)]), "page 5 is corrupt: its last key is not below");
    lie(&|forge| forge.branch(3, &[(b"d", 4), (b"n", 5)]), "page 5 is corrupt: its first key is not the one");
    // A range comes from any level above.
    lie(
        &|forge| {
            forge.leaf(7, &[(0, b"f", b""), (0, b"n", b"")]);
            forge.branch(6, &[(b"d", 4), (b"f", 7)]);
            forge.leaf(4, &[(0, b"d", b"")]);
            forge.branch(3, &[(b"d", 6), (b"m", 5)]);
            forge.meta(1, 2, u64::MAX, 8);
        },
        "page 7 is corrupt: its last key is not below",
    );
}

#[test]
fn a_branch_key_below_its_child_misleads_no_seek() {
    // With the branch key "f", the keys from "f" on belong to page 5, and page 4 has one.
    let mut forge = valid();
    forge.branch(3, &[(b"d", 4), (b"f", 5)]);
    let reader = open(&forge.bytes).expect("valid metas");
    let bucket = reader.bucket(b"b").expect("a search").expect("there");
    let mut cursor = bucket.cursor();
    let error = cursor.seek(b"g").expect_err("the branch lies").to_string();
    assert!(error.contains("page 5 is corrupt: its first key is not the one"), "{error}");
    let error = cursor.next_entry().expect_err("it stays").to_string();
    assert!(error.contains("the cursor stopped at an earlier error"), "{error}");
    let error = cursor.seek(b"d").expect_err("the range ends at f").to_string();
    assert!(error.contains("page 4 is corrupt: its last key is not below"), "{error}");
    assert!(matches!(reader.check(), Err(ReadError::Corrupt { page: 4, .. })));

    // A gap between branch key and child is no lie to a walk.
    forge.branch(3, &[(b"d", 4), (b"k", 5)]);
    let reader = open(&forge.bytes).expect("valid metas");
    assert_eq!(reader.check().expect("every key is in its range").entries, 4);
    let mut cursor = reader.bucket(b"b").expect("a search").expect("there").cursor();
    assert_eq!(cursor.seek(b"g").expect("a seek").expect("there").value, Value::Bytes(b"2"));
    assert!(cursor.seek(b"l").is_err());
}

#[test]
fn pages_in_circles() {
    for (children, page, words) in [
        (&[(&b"d"[..], 3)][..], 3, "page 3 is corrupt: it is reached after all 8 pages: there is a cycle"),
        (&[(b"d", 3), (b"m", 5)], 3, "page 3 is corrupt: its last key is not below"),
        (&[(b"d", 4), (b"m", 4)], 4, "page 4 is corrupt: its first key is not the one"),
    ] {
        let mut forge = valid();
        forge.branch(3, children);
        let (walk, cursors) = messages(&forge.bytes);
        assert_eq!(walk, Some(format!("bbolt: page {page} is corrupt: it is used twice")));
        assert!(cursors.as_ref().is_some_and(|message| message.contains(words)), "{cursors:?}");
    }

    // Long enough for the limit of levels.
    let mut forge = Forge::new(1024, 200, 2);
    forge.leaf(2, &[(1, b"b", &bucket_value(3, &[]))]);
    for id in 3..199 {
        forge.branch(id, &[(b"d", id + 1)]);
    }
    forge.branch(199, &[(b"d", 3)]);
    refused(&forge, "more than 32 levels of pages exceed depth_max");

    // A bucket that is in itself: each page of it is valid.
    let mut forge = valid();
    forge.leaf(5, &[(1, b"m", &bucket_value(3, &[]))]);
    let (walk, cursors) = messages(&forge.bytes);
    assert!(walk.is_some_and(|message| message.contains("page 3 is corrupt: it is used twice")));
    assert!(
        cursors.is_some_and(|message| message.contains("more than 64 levels of buckets exceed nesting_max"))
    );
}

#[test]
fn buckets_nested_ten_thousand_deep() {
    let pages = 10_003;
    let mut forge = Forge::new(1024, pages, 2);
    let last = pages as u64 - 1;
    for id in 2..last {
        forge.leaf(id, &[(1, b"b", &bucket_value(id + 1, &[]))]);
    }
    forge.leaf(last, &[(0, b"k", b"v")]);
    refused(&forge, "page 66: more than 64 levels of buckets exceed nesting_max");
    let deep = Limits { nesting_max: 20, ..Limits::DEFAULT };
    let error = Reader::open(&forge.bytes[..], deep).expect("valid metas").check().expect_err("too deep");
    assert_eq!(error.to_string(), "bbolt: page 22: more than 20 levels of buckets exceed nesting_max");

    // Inline buckets in inline buckets do not exist.
    let mut image = leaf_image(&[(0, b"k", b"v")]);
    for _ in 0..10_000 {
        image = leaf_image(&[(1, b"b", &bucket_value(0, &image))]);
    }
    let mut forge = Forge::new(65536, 10, 2);
    forge.leaf(2, &[(1, b"b", &bucket_value(0, &image))]);
    refused(&forge, "page 2 is corrupt: element 0 is an inline bucket with a bucket inside");
}

#[test]
fn inline_buckets_that_lie() {
    let good = leaf_image(&[(0, b"a", b"1"), (0, b"b", b"2")]);
    let lie = |value: &[u8], words: &str| {
        let mut forge = Forge::new(1024, 3, 2);
        forge.leaf(2, &[(1, b"x", value)]);
        refused(&forge, &format!("page 2 is corrupt: element 0 is {words}"));
    };
    let with = |at: usize, byte: u8| {
        let mut image = good.clone();
        image[at] = byte;
        bucket_value(0, &image)
    };
    lie(&[0; 15], "a bucket, and its value has 15 bytes");
    lie(&bucket_value(0, &good[..15]), "an inline bucket, and its page has 15 bytes");
    lie(&bucket_value(0, &good[..20]), "an inline bucket: its 2 elements take more than its 20 bytes");
    lie(&bucket_value(0, &good[..good.len() - 1]), "an inline bucket: element 1 ends at");
    lie(
        &bucket_value(0, &[&good[..], &[0]].concat()),
        "an inline bucket of 53 bytes, and its elements end at 52",
    );
    lie(&bucket_value(2, &good), "a bucket with pages, and its value has 68 bytes");
    lie(&bucket_value(1, &[]), "a bucket whose root is page 1");
    lie(&bucket_value(3, &[]), "a bucket whose root is page 3");
    lie(&with(0, 2), "an inline bucket, and what it holds is no leaf");
    lie(&with(8, 1), "an inline bucket, and what it holds is no leaf");
    lie(&with(12, 1), "an inline bucket, and what it holds is no leaf");
    lie(&with(10, 3), "an inline bucket: its 3 elements take more");
    lie(&with(16, 1), "an inline bucket with a bucket inside");
    lie(&with(16, 4), "an inline bucket with a bucket inside");
    lie(&with(48, b'b'), "an inline bucket: the key of element 1 is not above");
}

#[test]
fn freelists_that_lie() {
    let lie = |free: &[u64], words: &str| {
        let mut forge = valid();
        forge.freelist(6, free);
        refused_by_walk(&forge, words);
    };
    lie(&[], "page 7 is corrupt: it is neither used nor free");
    lie(&[5, 7], "page 5 is corrupt: it is used twice");
    lie(&[7, 7], "page 7 is corrupt: it is used twice");
    lie(&[6, 7], "page 6 is corrupt: it is used twice");
    for page in [0, 1, 8, u64::MAX] {
        lie(&[page], &format!("page 6 is corrupt: page {page} is in it, which is no page in use"));
    }
    let count = |count: u16, first: u64, words: &str| {
        let mut forge = valid();
        forge.put(6 * 1024 + 10, &count.to_le_bytes());
        forge.put(6 * 1024 + 16, &first.to_le_bytes());
        refused_by_walk(&forge, words);
    };
    count(127, 7, "page 6 is corrupt: its 127 numbers take more than its 1024 bytes");
    count(0xFFFF, 126, "page 6 is corrupt: its 126 numbers");
    count(0xFFFF, u64::MAX, "page 6 is corrupt: its 18446744073709551615 numbers");
    for flags in [0, LEAF] {
        let mut forge = valid();
        forge.header(6, flags, 1, 0);
        refused_by_walk(&forge, &format!("page 6 is corrupt: its flags are {flags:#x}"));
    }
    let mut forge = valid();
    forge.header(6, FREELIST, 1, 2);
    refused_by_walk(&forge, "page 6 is corrupt: its 2 overflow pages end beyond");

    // A long freelist has its count in its first number, here of 2 pages.
    let mut forge = Forge::new(1024, 6, 2);
    forge.meta(1, 2, 3, 6);
    forge.leaf(2, &[]);
    forge.freelist(3, &[2, 4, 5]);
    forge.put(3 * 1024 + 10, &[255, 255]);
    assert_eq!(open(&forge.bytes).expect("valid").check().expect("valid").free_pages, 2);
}

#[test]
fn older_versions_of_bbolt_added_a_page_to_a_full_one() {
    let mut forge = Forge::new(1024, 6, 2);
    forge.leaf(2, &[(1, b"b", &bucket_value(3, &[]))]);
    forge.leaf(3, &[(0, b"k", &[7; 1024 - 33])]);
    assert_eq!(open(&forge.bytes).expect("valid").check().expect("valid").entries, 1);
    forge.header(3, LEAF, 1, 1);
    assert_eq!(open(&forge.bytes).expect("valid").check().expect("valid").entries, 1);
    forge.header(3, LEAF, 1, 2);
    refused(&forge, "page 3 is corrupt: it has 2 overflow pages");
}

#[test]
fn a_forged_length_costs_no_more_than_the_file_has() {
    let buckets = Buckets::from([(b"b".to_vec(), BTreeMap::from([(b"k".to_vec(), vec![1; 60_000])]))]);
    let mut bytes = file(Options::DEFAULT, &buckets);
    for overflow in [13, 15, 16, 1 << 16, u32::MAX] {
        bytes[3 * 4096 + 12..3 * 4096 + 16].copy_from_slice(&overflow.to_le_bytes());
        let metered = Metered::new(&bytes);
        let error =
            Reader::open(&metered, Limits::DEFAULT).expect("valid metas").check().expect_err("it lies");
        assert!(matches!(error, ReadError::Corrupt { page: 3 | 18, .. }), "{error}");
        assert!(metered.longest.get() <= bytes.len(), "one read of {}", metered.longest.get());
    }
}

#[test]
fn a_sparse_file_that_claims_to_be_endless() {
    let forged = |pages: u64, change: &dyn Fn(&mut Forge)| {
        let mut forge = valid();
        change(&mut forge);
        for id in 0..2 {
            forge.meta(id, 2, 6, pages);
        }
        let limits = Limits { pages_max: 1 << 26, ..Limits::DEFAULT };
        Reader::open(Sparse(forge.bytes), limits)
            .and_then(|reader| reader.check())
            .expect_err("it lies")
            .to_string()
    };
    let many = 1 << 26;
    assert_eq!(forged(1 << 53, &|_| ()), "bbolt: page 0: 9007199254740992 pages in use exceed pages_max");
    assert_eq!(forged(many, &|_| ()), "bbolt: page 8 is corrupt: it is neither used nor free");
    let long = |id, flags| forged(many, &|forge| forge.header(id, flags, 1, 67_000_000));
    assert_eq!(long(4, LEAF), "bbolt: page 4: its 68608001024 bytes exceed leaf_bytes_max");
    assert_eq!(long(3, BRANCH), "bbolt: page 3: its 68608001024 bytes exceed branch_bytes_max");
    assert_eq!(long(6, FREELIST), "bbolt: page 7 is corrupt: it is used twice");
}
