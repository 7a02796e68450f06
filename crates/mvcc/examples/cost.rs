//! The cost of the key space alone: put, get, list, count, open and memory, over an engine that only holds rows.
//!
//! `cargo run --release -p mvcc --example cost [keys [puts]]`; `puts` runs two rounds of puts only, for a profiler.

#![allow(clippy::print_stdout, reason = "a report is what it is for")]

use bytes::Bytes;
use engine::{Batch, Engine, Family, Fault, MemoryEngine, Visit};
use mvcc::{Query, Store};
use std::sync::Arc;
use types::KeyRange;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PUTS_A_GROUP: u64 = 130;

/// An engine that drops all writes, so that only the key space's own cost is left.
struct Nowhere;

impl Engine for Nowhere {
    fn get(&self, _: Family, _: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(None)
    }
    fn scan(&self, _: Family, _: &[u8], _: Option<&[u8]>, _: &mut Visit<'_>) -> Result<(), Fault> {
        Ok(())
    }
    fn snapshot(self: Arc<Self>) -> Box<engine::Snapshot> {
        unreachable!("nobody copies the store here")
    }
    fn write(&self, batch: Batch) -> Result<(), Fault> {
        std::hint::black_box(&batch);
        Ok(())
    }
    fn flush(&self) -> Result<(), Fault> {
        Ok(())
    }
    fn compact(&self) -> Result<(), Fault> {
        Ok(())
    }
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("/bench/{number:057}"))
}

/// A permutation of `0..n` (a power of two) that looks random.
fn shuffled(number: u64, keys: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys.next_power_of_two() % keys
}

/// CPU time of this thread, so that other work on the machine does not count.
fn cpu_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or_default()
}

fn timed<T>(what: &str, times: u64, run: impl FnOnce() -> T) -> T {
    let begin = cpu_nanos();
    let out = run();
    let nanos = cpu_nanos() - begin;
    println!("{what:<58} {:>8} ns each, {:>6} ms", nanos / times, nanos / 1_000_000);
    out
}

fn load(store: &mut Store, puts: u64, a_group: u64, name: impl Fn(u64) -> Bytes) {
    let value = Bytes::from(vec![b'v'; 100]);
    for first in (0..puts).step_by(usize::try_from(a_group).unwrap_or(1)) {
        let mut group = store.begin();
        for number in first..(first + a_group).min(puts) {
            let mut txn = group.txn();
            txn.put(name(number), value.clone(), 0).expect("nothing to fail");
        }
        group.commit().expect("nothing to fail");
    }
}

fn resident_megabytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * 4096 / 1_000_000
}

fn puts(keys: u64) {
    let mut store = Store::open(Arc::new(Nowhere)).expect("empty");
    load(&mut store, keys, PUTS_A_GROUP, key);
    for _ in 0..2 {
        timed("put of an old key, shuffled, 130 a group", keys, || {
            load(&mut store, keys, PUTS_A_GROUP, |number| key(shuffled(number.wrapping_mul(7919), keys)));
        });
    }
}

fn writes(keys: u64) {
    for (what, in_order) in [("in order", true), ("shuffled", false)] {
        let before = resident_megabytes();
        let mut store = Store::open(Arc::new(Nowhere)).expect("empty");
        let name = |number| key(if in_order { number } else { shuffled(number, keys) });
        timed(&format!("names of {keys} keys, {what}"), keys, || (0..keys).for_each(|n| drop(name(n))));
        timed(&format!("put of a new key, {what}, 130 a group"), keys, || {
            load(&mut store, keys, PUTS_A_GROUP, name);
        });
        let view = store.view();
        let live = usize::try_from(view.sizes().keys).unwrap_or(1);
        let bytes = view.index_bytes() / live;
        println!(
            "  {live} keys, index {bytes} bytes a key, resident grew {} MB",
            resident_megabytes().saturating_sub(before)
        );
        drop(view);
        let name = |number: u64| key(shuffled(number.wrapping_mul(7919), keys));
        for round in ["second", "third"] {
            timed(&format!("put of an old key, shuffled, 130 a group, {round}"), keys, || {
                load(&mut store, keys, PUTS_A_GROUP, name);
            });
        }
        timed("put of an old key, shuffled, one a group", keys / 4, || load(&mut store, keys / 4, 1, name));
        println!("  index {} bytes a key", store.view().index_bytes() / live);
        let view = store.view();
        timed("count of a range", 1_000_000, || {
            for number in 0..1_000_000 {
                let range = KeyRange::from_wire(key(shuffled(number, keys)), Bytes::from_static(b"\0"));
                let query = Query { count_only: true, ..Query::of(range) };
                std::hint::black_box(view.range(&query).expect("nothing to fail"));
            }
        });
        timed("keys only, all", keys, || {
            view.range(&Query { keys_only: true, ..Query::default() }).expect("no fault")
        });
    }
}

fn reads(keys: u64) {
    let engine = Arc::new(MemoryEngine::new());
    let mut store = Store::open(engine.clone()).expect("empty");
    load(&mut store, keys, PUTS_A_GROUP, key);
    let view = store.view();
    timed("get (over ordered maps under a mutex)", keys, || {
        for number in 0..keys {
            let query = Query::of(KeyRange::point(key(shuffled(number, keys))));
            std::hint::black_box(view.range(&query).expect("no fault"));
        }
    });
    timed("the same rows, from the engine alone", keys, || {
        for number in 0..keys {
            let mut row = key(shuffled(number, keys)).to_vec();
            row.extend([0, 1]);
            std::hint::black_box(engine.get(Family::Latest, &row).expect("no fault"));
        }
    });
    let list = Query { limit: 10_000, ..Query::default() };
    for _ in 0..3 {
        timed("list of 10,000", 1, || view.range(&list).expect("no fault"));
    }
    timed("HashKV", keys, || view.hash_kv(0).expect("no fault"));
    drop(view);
    timed("open, a key", keys, || drop(Store::open(engine.clone()).expect("what was written opens")));
}

fn main() {
    let keys = std::env::args().nth(1).and_then(|keys| keys.parse().ok()).unwrap_or(1 << 20);
    if std::env::args().nth(2).is_some_and(|part| part == "puts") {
        return puts(keys);
    }
    writes(keys);
    reads(keys.min(1 << 18));
}
