//! What goes in comes out; what was changed on the way does not.

use crate::{
    BLOCK_BYTES, Counter, FileError, Format as _, Native, PIECE_BYTES, Pieces, ReadError, Reader,
    SECTOR_BYTES, load, verify,
};
use engine::{Batch, Engine, Family, MemoryEngine};
use proptest::prelude::*;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::sync::Arc;

type Row = (Family, Vec<u8>, Vec<u8>);

fn engine(rows: &[Row]) -> MemoryEngine {
    let engine = MemoryEngine::new();
    let mut batch = Batch::default();
    for (family, key, value) in rows {
        batch.put(*family, key.clone(), value.clone());
    }
    engine.write(batch).expect("write");
    engine
}

fn rows(engine: &dyn Engine) -> Vec<Row> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let mut visit = |key: &[u8], value: &[u8]| {
            all.push((family, key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        engine.scan(family, b"", None, &mut visit).expect("scan");
    }
    all
}

/// A file as a client saves it, and the length that was announced, written in steps of so many bytes.
fn save_in_steps(engine: MemoryEngine, step_bytes: u64) -> (Vec<u8>, u64) {
    let rows = Arc::new(engine).snapshot();
    let mut announced = Counter::default();
    assert!(Native.begin().step(&*rows, &mut announced, u64::MAX).expect("read"), "all of it in one step");
    let (mut file, mut pieces, mut writing) = (Vec::new(), Pieces::default(), Native.begin());
    let mut is_done = false;
    while !is_done {
        is_done = writing.step(&*rows, &mut pieces, step_bytes).expect("read");
        if is_done {
            pieces.finish();
        }
        let mut taken = 0;
        while let Some(piece) = pieces.take() {
            assert!(piece.len() <= PIECE_BYTES);
            taken += piece.len() as u64;
            file.extend(piece);
        }
        let most = step_bytes.saturating_add((2 * BLOCK_BYTES + PIECE_BYTES) as u64 + LONGEST_ROW);
        assert!(taken <= most, "a step of {step_bytes} bytes gave {taken}");
    }
    (file, announced.0)
}

/// The longest row that these tests write, in bytes.
const LONGEST_ROW: u64 = 200_100;

fn save(engine: MemoryEngine) -> (Vec<u8>, u64) {
    save_in_steps(engine, u64::MAX)
}

fn restore(file: &[u8], skip_hash: bool) -> Result<Vec<Row>, String> {
    let verified = verify(Cursor::new(file), skip_hash).map_err(|error| error.to_string())?;
    let reader = Reader::new(verified.reader()).map_err(|error| error.to_string())?;
    let into = MemoryEngine::new();
    load(reader, &into, &mut |_| {}).map_err(|error| error.to_string())?;
    Ok(rows(&into.crash()))
}

fn some_rows() -> Vec<Row> {
    let row = |family, n: usize, bytes| (family, format!("{n:05}").into_bytes(), vec![b'v'; bytes]);
    let mut rows: Vec<Row> = (0..2_000).map(|n| row(Family::Revs, n, 100)).collect();
    rows.push(row(Family::Latest, 7, 200_000));
    rows.push(row(Family::Meta, 1, 0));
    rows.sort();
    rows
}

fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    let family = prop::sample::select(Family::ALL.to_vec());
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    prop::collection::btree_map((family, bytes()), bytes(), 0..60)
        .prop_map(|rows| rows.into_iter().map(|((family, key), value)| (family, key, value)).collect())
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(all in any_rows()) {
        let (file, announced) = save(engine(&all));
        prop_assert_eq!(file.len() as u64, announced + 32);
        prop_assert_eq!(announced % SECTOR_BYTES, 0);
        prop_assert_eq!(restore(&file, false), Ok(all.clone()));
        for step_bytes in [0, 1, 500] {
            prop_assert_eq!(&save_in_steps(engine(&all), step_bytes).0, &file, "the same rows, the same bytes");
        }
    }

    #[test]
    fn foreign_bytes_are_refused_and_cost_no_memory(bytes in prop::collection::vec(any::<u8>(), 0..600), whole in any::<bool>()) {
        let mut file = if whole { save(engine(&[])).0 } else { Vec::new() };
        file.truncate(24);
        file.extend(&bytes);
        prop_assert!(restore(&file, true).is_err());
    }
}

#[test]
fn a_bit_that_changed_anywhere_is_found_by_either_check() {
    let (file, _) = save(engine(&some_rows()));
    for at in (0..file.len()).step_by(997).chain([0, 16, 20, 24, 25, 30, file.len() - 1]) {
        let mut bad = file.clone();
        bad[at] ^= 0x10;
        let refusal = restore(&bad, false).expect_err("the hash is over everything");
        assert!(refusal.starts_with("expected sha256 ["), "{at}: {refusal}");
        if at < file.len() - 32 {
            let refusal = restore(&bad, true).expect_err("every byte is summed, or must be zero");
            assert!(refusal.contains("snapshot"), "{at}: {refusal}");
        }
    }
}

#[test]
fn a_file_that_was_cut_is_refused_whatever_is_left_of_it() {
    let (file, announced) = save(engine(&some_rows()));
    for length in (0..announced).step_by(509).chain([1, 15, 16, 24, announced - 1]) {
        let cut = &file[..usize::try_from(length).expect("small")];
        let refusal = restore(cut, false).expect_err("no hash, or another");
        assert!(refusal.contains("hash") || refusal.contains("sha256"), "{length}: {refusal}");
        restore(cut, true).expect_err("the last block is missing");
    }
    restore(&file[..usize::try_from(announced).expect("small")], true).expect("whole, without its hash");
}

#[test]
fn blocks_cannot_be_left_out_or_doubled() {
    let (file, announced) = save(engine(&some_rows()));
    let content = &file[..usize::try_from(announced).expect("small")];
    // The second block of revs: its length stands behind kind, family and rows.
    let word = |at: usize| u32::from_be_bytes(content[at..at + 4].try_into().expect("four")) as usize;
    let block = |at: usize| 10 + word(at + 6) + 4;
    let first = 24 + block(24);
    let (from, to) = (first + block(first), first + block(first) + block(first + block(first)));
    let without = [&content[..from], &content[to..]].concat();
    let twice = [&content[..to], &content[from..]].concat();
    for bad in [without, twice] {
        let refusal = restore(&bad, true).expect_err("sums run on from block to block");
        assert!(refusal.contains("a checksum is wrong"), "{refusal}");
    }
}

#[test]
fn what_somebody_else_made_is_named() {
    let mut bbolt = vec![0; 4096];
    bbolt[16..20].copy_from_slice(&[0xed, 0xda, 0x0c, 0xed]);
    let named = |bytes: Vec<u8>| Reader::new(Cursor::new(bytes)).err();
    assert!(matches!(named(bbolt), Some(ReadError::Bbolt)));
    assert!(matches!(named(vec![0; 4096]), Some(ReadError::Unknown)));
    assert!(matches!(named(Vec::new()), Some(ReadError::Unknown)));
    let mut later = save(engine(&[])).0;
    later[19] = 2;
    assert!(matches!(named(later), Some(ReadError::Version(2))));
    assert!(matches!(verify(Cursor::new(vec![0; 100]), false), Err(FileError::NoHash)));
}

#[test]
fn steps_of_any_length_give_the_same_bytes() {
    let (file, _) = save(engine(&some_rows()));
    for step_bytes in [1, 10_000, 70_000, 300_000] {
        assert_eq!(save_in_steps(engine(&some_rows()), step_bytes).0, file, "{step_bytes}");
    }
}
