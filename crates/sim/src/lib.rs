//! # The simulator: a whole cluster in one thread, from one seed
//!
//! Members are the real thing: `raft_node::core`, `machine` and `wal`. What is around them is not: the network loses,
//! delays, doubles and cuts off; disks forget what was not synced, or fail; members crash between any two steps, pause
//! for long, and come back with an engine as it was at its last flush. Clients write and read through any of them.
//!
//! ```text
//!  seed ─▶ Rng ─▶ cluster: one event after the other, in virtual time
//!                   ├─ member: driver's contract ─▶ Core ─▶ Wal on MemDisk, Machine on MemoryEngine
//!                   ├─ network: streams, POSTs, partitions        faults: crashes, pauses, full stops
//!                   ├─ client: puts, deletes, txns, leases, compactions, reads     admin: changes of members
//!                   ├─ watching: watchers with cursors, who come back to any member
//!                   └─ oracle: judges every step ─▶ Violation      trace: every line, hashed
//! ```
//!
//! After every step: members that applied the same index applied the same entry with the same answer (the model's) and
//! have the same rows; a term has one leader, who has all that was committed before; commit never goes back within a
//! life; what a member promised is on its disk when it comes back; a linearizable read sees all that anybody was told
//! before it began, and every read is exactly the model's state at the member's applied index; every watcher is told exactly
//! the model's changes from its cursor on, whole revisions at a time, and nothing that it was promised not to be; no lease
//! ends before its client was promised, whatever leaders came and went.
//!
//! At the end everything is healed: the members must agree within a minute, every lease must end although one member stays
//! away, every acknowledged write must be there on each of them, and every watcher must have been told of everything.
//!
//! The limits of the members (batches, messages, caches, what may be under way) are drawn from the seed too, small ones mostly.
//!
//! Invariant: the same seed gives the same trace, byte for byte. Election timeouts, which raft-rs draws itself, are set
//! before every tick.
//!
//! What it does not do yet: snapshots between members (who joins gets the whole log), bits that rot on
//! disk, time that runs differently by more than a few per cent, and the real driver's threads (its loop is repeated in
//! `member`).

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admin;
mod client;
mod cluster;
mod faults;
mod limits;
mod member;
mod model;
mod mutation;
mod network;
mod oracle;
mod promises;
mod rng;
mod trace;
mod warnings;
mod watching;

pub use mutation::Mutation;

use cluster::Cluster;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Virtual time, in microseconds since the start of a run.
type Micros = u64;

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How many members; by the seed if absent.
    pub members: Option<u64>,
    /// Called with every line of the trace.
    pub print: Option<fn(&str)>,
    /// Much of leases: many grants and keepalives, and leaders that sleep past elections.
    pub leases: bool,
    /// Members that are broken on purpose.
    pub mutation: Option<Mutation>,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Members.
    pub members: u64,
    /// Events.
    pub steps: u64,
    /// Lives that ended in a crash.
    pub crashes: u64,
    /// Terms that had a leader.
    pub elections: u64,
    /// Entries in the log.
    pub entries: u64,
    /// Writes that a client was told of.
    pub writes: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Events that watchers were told of.
    pub events: u64,
    /// Leases that were kept alive, counted by keepalive.
    pub renewed: u64,
    /// Leases that ended because their time was over.
    pub expired: u64,
    /// A hash over every line of the trace.
    pub trace_hash: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { members, steps, crashes, elections, entries, .. } = self;
        let Self { writes, reads, events, renewed, expired, trace_hash, .. } = self;
        write!(
            f,
            "members {members} steps {steps} crashes {crashes} elections {elections} entries {entries} \
             writes {writes} reads {reads} events {events} renewed {renewed} expired {expired} trace {trace_hash:016x}"
        )
    }
}

/// A run that went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was violated.
    pub violation: String,
    /// The last lines of the trace.
    pub tail: Vec<String>,
}

/// Runs one seed to its end.
pub fn run(seed: u64, options: &Options) -> Result<Report, Failure> {
    let mut cluster = Cluster::new(seed, options, Instant::now());
    let result = catch_unwind(AssertUnwindSafe(|| cluster.run()));
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    match result {
        Ok(()) => Ok(cluster.report()),
        Err(violation) => Err(Failure { violation, tail: cluster.trace.into_tail() }),
    }
}
