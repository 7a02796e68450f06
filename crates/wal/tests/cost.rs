//! The cost of the log: `cargo test --release -p wal --test cost -- --ignored --nocapture`.
//!
//! A measurement rather than a test: the figures depend on the machine, and compare two versions on one machine.

#![expect(clippy::print_stderr, reason = "a measurement prints")]

use bytes::Bytes;
use std::time::{Duration, Instant};
use types::{Entry, EntryKind, HardState};
use wal::{FsDisk, Wal};

const BATCH: u64 = 130;

fn entries(first: u64, count: u64) -> Vec<Entry> {
    let data = Bytes::from(vec![7; 256]);
    (first..first + count)
        .map(|index| Entry { term: 1, index, kind: EntryKind::Normal, data: data.clone() })
        .collect()
}

fn report(what: &str, spent: Duration, count: u64) {
    eprintln!(
        "{what}: {:.3} µs",
        spent.as_secs_f64() * 1e6 / f64::from(u32::try_from(count).expect("small"))
    );
}

#[test]
#[ignore = "a measurement"]
fn append_sync_read_and_open() {
    // On the disk under test, not on a tmpfs.
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
    let disk = || FsDisk::open(dir.path()).expect("the directory");
    let mut wal = Wal::create(disk(), b"cost").expect("create");
    let state = |commit| HardState { term: 1, vote: 1, commit };

    let (mut append, mut sync) = (Duration::ZERO, Vec::new());
    for batch in 0..1000 {
        let entries = entries(wal.last_index() + 1, BATCH);
        let start = Instant::now();
        wal.append(&entries, Some(&state(batch * BATCH))).expect("append");
        append += start.elapsed();
        let start = Instant::now();
        wal.sync().expect("sync");
        sync.push(start.elapsed());
    }
    report("append with its write and zeros ahead, an entry of 256 B, 130 a batch", append, 1000 * BATCH);
    sync.sort();
    report("sync, p50", sync[500], 1);
    report("sync, p99", sync[990], 1);

    let single = Instant::now();
    for _ in 0..1000 {
        let last = wal.last_index();
        wal.append(&entries(last + 1, 1), Some(&state(last))).expect("append");
        wal.sync().expect("sync");
    }
    report("append and sync of one entry", single.elapsed(), 1000);

    let (last, start) = (wal.last_index(), Instant::now());
    let mut low = wal.first_index();
    while low <= last {
        low += wal.entries(low, last + 1, 1 << 20).expect("entries").len() as u64;
    }
    report("read, an entry", start.elapsed(), last);
    wal.close().expect("close");
    let start = Instant::now();
    let (wal, _) = Wal::open(disk()).expect("open");
    assert_eq!(wal.last_index(), last);
    report("open, an entry", start.elapsed(), last);
}
