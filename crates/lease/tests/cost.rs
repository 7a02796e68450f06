//! The cost of a million leases: `cargo test --release -p lease --test cost -- --ignored --nocapture`.
//!
//! A measurement rather than a test: the figures depend on the machine, and compare two versions on one machine.

#![expect(clippy::print_stderr, reason = "a measurement prints")]

use lease::{Checkpoints, Deadlines, Expirer, Info, Pace};
use std::time::{Duration, Instant};
use types::LeaseId;

const COUNT: LeaseId = 1_000_000;
/// Deadlines looked up under one lock.
const PIECE: usize = 1_024;

fn report<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = act();
    eprintln!("{what}: {:.3} ms", start.elapsed().as_secs_f64() * 1e3);
    result
}

#[test]
#[ignore = "a measurement"]
fn a_million_leases() {
    // In no order, as clients and servers choose IDs.
    let id = |n: LeaseId| n.wrapping_mul(0x1E37_79B9_7F4A_7C15);
    let leases: Vec<Info> =
        (1..=COUNT).map(|n| Info { id: id(n), ttl: 60 + n % 600, remaining_ttl: 0 }).collect();
    let (start, pace) = (Instant::now(), Pace::of(Duration::from_secs(1)));
    let mut expirer = Expirer::new(pace);
    let deadlines =
        report("make the deadlines, outside", || Deadlines::new(pace, start, 1, leases.iter().copied()));
    drop(report("promote, locked", || expirer.promote(deadlines)));
    report("forbid checkpoints, locked", || expirer.set_checkpoints(Checkpoints::Forbidden));
    report("look up a piece of deadlines, locked", || {
        leases.iter().take(PIECE).filter_map(|lease| expirer.deadline(lease.id)).count()
    });
    report("tick when all are over, locked", || expirer.tick(start + Duration::from_secs(1_000)));
    let before = report("demote, locked", || expirer.demote());
    report("give the deadlines back, outside", || drop(before));
}
