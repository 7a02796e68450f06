//! RocksDB against the memory engine: the same batches must give the same answers, before and after a reopen.

use super::*;
use engine::MemoryEngine;
use std::ops::ControlFlow;

/// A small pseudo-random generator, so that the seed is visible in the test.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn rows(engine: &dyn Engine, family: Family) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut out = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        out.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    engine.scan(family, b"", None, &mut visit).expect("scan");
    out
}

fn random_batch(dice: &mut Dice) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..dice.roll(20) {
        let family = Family::ALL[usize::try_from(dice.roll(3)).expect("small")];
        let key = format!("key-{:03}", dice.roll(100));
        if dice.roll(4) == 0 {
            batch.delete(family, key);
        } else {
            batch.put(family, key, vec![b'v'; usize::try_from(dice.roll(200)).expect("small")]);
        }
    }
    batch
}

#[test]
fn rocksdb_and_memory_agree_and_a_flush_survives_a_reopen() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let memory = MemoryEngine::new();
    let mut dice = Dice(7);
    {
        let rocks = RocksEngine::open(dir.path(), &Options::default()).expect("open");
        for _ in 0..200 {
            let batch = random_batch(&mut dice);
            memory.write(batch.clone()).expect("memory write");
            rocks.write(batch).expect("rocks write");
        }
        for family in Family::ALL {
            assert_eq!(rows(&rocks, family), rows(&memory, family));
            for key in (0..100).map(|i| format!("key-{i:03}").into_bytes()) {
                assert_eq!(rocks.get(family, &key).expect("get"), memory.get(family, &key).expect("get"));
            }
        }
        rocks.flush().expect("flush");
        rocks.compact().expect("compact");
    }
    let rocks = RocksEngine::open(dir.path(), &Options::default()).expect("reopen");
    for family in Family::ALL {
        assert_eq!(rows(&rocks, family), rows(&memory, family));
    }
}

/// Limits so small that a few batches fill a memtable, a block and a file.
fn small() -> Options {
    Options {
        block_cache_bytes: 16 << 10,
        memtable_bytes: 128 << 10,
        file_bytes: 32 << 10,
        block_bytes: 256,
        open_tables_max: 20,
        write_out_bytes: 4 << 10,
        log_file_bytes: 16 << 10,
        ..Options::default()
    }
}

#[test]
fn small_limits_make_many_files_and_lose_nothing_that_was_flushed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let memory = MemoryEngine::new();
    let mut dice = Dice(23);
    let (mut files, mut next) = (0, 0_u32);
    for life in 0..4 {
        let rocks = RocksEngine::open(dir.path(), &small()).expect("open");
        for family in Family::ALL {
            assert_eq!(rows(&rocks, family), rows(&memory, family), "life {life}");
        }
        for _ in 0..400 {
            let mut batch = random_batch(&mut dice);
            // Incompressible values.
            let value = (0..40).flat_map(|_| dice.roll(u64::MAX).to_be_bytes()).collect::<Vec<u8>>();
            batch.put(Family::Revs, next.to_be_bytes().to_vec(), value);
            next += 1;
            memory.write(batch.clone()).expect("memory write");
            rocks.write(batch).expect("rocks write");
        }
        rocks.flush().expect("flush");
        let listed = std::fs::read_dir(dir.path()).expect("the directory");
        let names = listed.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        files = files.max(names.filter(|name| name.rsplit('.').next() == Some("sst")).count());
        if life % 2 == 1 {
            rocks.compact().expect("compact");
        }
    }
    assert!(files > 20, "{files} files: the limits were not reached");
}

#[test]
fn a_second_open_of_one_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let _first = RocksEngine::open(dir.path(), &Options::default()).expect("open");
    let second = RocksEngine::open(dir.path(), &Options::default());
    assert!(second.is_err_and(|fault| fault.to_string().contains("open the database")));
}

#[test]
fn a_scan_stops_at_its_upper_bound() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let rocks = RocksEngine::open(dir.path(), &Options::default()).expect("open");
    let mut batch = Batch::default();
    for key in ["a", "b", "c", "d"] {
        batch.put(Family::Revs, key, key);
    }
    rocks.write(batch).expect("write");
    let mut seen = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        seen.push(key.to_vec());
        ControlFlow::Continue(())
    };
    rocks.scan(Family::Revs, b"b", Some(b"d"), &mut visit).expect("scan");
    assert_eq!(seen, [b"b".to_vec(), b"c".to_vec()]);
}

#[test]
fn a_snapshot_holds_still_while_the_writer_goes_on_and_compacts() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let rocks = Arc::new(RocksEngine::open(dir.path(), &Options::default()).expect("open"));
    let mut dice = Dice(11);
    for _ in 0..50 {
        rocks.write(random_batch(&mut dice)).expect("write");
    }
    let before = Family::ALL.map(|family| rows(&*rocks, family));
    let snapshot = Arc::clone(&rocks).snapshot();
    for _ in 0..50 {
        rocks.write(random_batch(&mut dice)).expect("write");
    }
    rocks.flush().expect("flush");
    rocks.compact().expect("compact");
    for (family, before) in Family::ALL.into_iter().zip(&before) {
        let mut seen = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            seen.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        snapshot.scan(family, b"", None, &mut visit).expect("scan");
        assert_eq!(seen, *before);
        let (key, value) = before.first().expect("fifty batches leave rows");
        assert_eq!(snapshot.get(family, key).expect("get").as_deref(), Some(&value[..]));
    }
    assert_ne!(before, Family::ALL.map(|family| rows(&*rocks, family)));
    // The snapshot keeps the database open, on any thread.
    drop(rocks);
    let counted = std::thread::spawn(move || {
        let mut count = 0;
        let mut visit = |_: &[u8], _: &[u8]| {
            count += 1;
            ControlFlow::Continue(())
        };
        snapshot.scan(Family::Revs, b"", None, &mut visit).expect("scan");
        count
    });
    assert_eq!(counted.join().expect("no panic"), before[Family::Revs as usize].len());
}
