//! # The simulator: a whole cluster in one thread, from one seed
//!
//! The members are the shipped code: `raft_node::member`, `machine`, `snapshot` and `wal`. Their surroundings are
//! simulated: the network loses, delays, repeats and cuts off messages and snapshots; disks lose what was not synced, or
//! fail; members crash between any two steps, pause for long, and come back with the engine of their last flush. Clients
//! use any of them.
//!
//! ```text
//!  seed ─▶ Rng ─▶ cluster: one event after the other, in virtual time
//!                   ├─ member: a stage around raft_node's Member, its Wal on MemDisk, its Machine on MemoryEngine
//!                   ├─ network: streams, POSTs, partitions        faults: crashes, pauses, full stops
//!                   ├─ client: puts, deletes, txns, leases, compactions, reads     admin: membership changes
//!                   ├─ watching: watchers with cursors, who resume at any member
//!                   └─ oracle: checks every step ─▶ Violation      trace: every line, hashed
//! ```
//!
//! Checked after every step:
//! * members that applied the same index applied the same entry, with the model's answer, and have the same rows;
//! * a term has one leader, which has everything committed before; commit never goes back within a life;
//! * what a member promised is on its disk when it comes back;
//! * a linearizable read sees everything that any client saw before it began, and every read is exactly the model's
//!   state at the member's applied index;
//! * every watcher receives exactly the model's changes from its cursor on, whole revisions at a time, and none up to
//!   an announced progress;
//! * no lease ends before its client was promised, whatever leaders came and went;
//! * a member applies entry after entry, or goes on from a snapshot: then it has the rows that its sender had.
//!
//! At the end everything is healed: the members must agree within a minute, every lease must end although one member
//! stays away, every acknowledged write must be on each of them, and every watcher must have received everything.
//!
//! The members' limits (batches, messages, caches, queues) are drawn from the seed too, mostly small.
//!
//! Invariant: the same seed gives the same trace, byte for byte. Election timeouts, which raft-rs draws itself, are set
//! before every tick.
//!
//! Not simulated yet: bit rot, clocks that differ in speed by more than a few per cent, the process's own threads.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod client;
mod cluster;
mod copies;
mod drawn;
mod limits;
mod member;
mod model;
mod network;
mod oracle;
mod promises;
mod rng;
mod trace;
mod warnings;
mod watching;

pub use drawn::Drawn;
pub use types::mutant::Mutant;

use cluster::Cluster;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Virtual time, microseconds since the start of a run.
type Micros = u64;

type Violation = String;

/// What a run has much of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// A mixture of everything.
    #[default]
    Mixed,
    /// Many grants and keepalives, and leaders that sleep past elections.
    Leases,
    /// One voter with learners that are never promoted: the voter alone decides.
    Learners,
    /// Many reads, late and repeated messages, leaders cut off from all members but one.
    Reads,
}

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The number of members; drawn from the seed if absent.
    pub members: Option<u64>,
    /// Called with every line of the trace.
    pub print: Option<fn(&str)>,
    /// What the run has much of.
    pub load: Load,
    /// The rules that are broken in this run.
    pub mutants: &'static [Mutant],
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The number of members.
    pub members: u64,
    /// The number of events.
    pub steps: u64,
    /// Lives that ended in a crash.
    pub crashes: u64,
    /// Terms that had a leader.
    pub elections: u64,
    /// Entries in the log.
    pub entries: u64,
    /// Writes acknowledged to clients.
    pub writes: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Events received by watchers.
    pub events: u64,
    /// Lease renewals, counted by keepalive.
    pub renewed: u64,
    /// Leases that ended because they expired.
    pub expired: u64,
    /// What the generators drew, and how often.
    pub drawn: Drawn,
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

/// A run that violated a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The rule that was violated.
    pub violation: String,
    /// The last lines of the trace.
    pub tail: Vec<String>,
}

/// Runs one seed to its end.
pub fn run(seed: u64, options: &Options) -> Result<Report, Failure> {
    types::mutant::set(options.mutants);
    drawn::take();
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
