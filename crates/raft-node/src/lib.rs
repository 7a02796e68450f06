//! # The node: one member of the raft group
//!
//! Proposes requests, makes the log durable, replicates it, applies committed entries and answers the waiters.
//!
//! ```text
//!        runtime (tokio)                           consensus thread                        disk
//! api ─▶ Handle::propose ─┐ gathered,   ┌▶ member ─▶ core (raft-rs) ─▶ messages ─▶ transport
//! transport ─▶ deliver ───┤ handed over │    │          └ log ─ one write + one sync a batch ─▶ wal
//! api ─▶ read_barrier ────┘ in batches ─┘    └─▶ machine ─ one engine batch a group ─▶ engine
//! waiters ◀─ completer task ◀─ one Vec and at most one notify a batch ─┘
//! ```
//!
//! * [`core`]: raft-rs and its log, as a pure function of inputs and the time given; no thread, clock, socket or tokio.
//! * [`convert`]: etcd's wire types to raft-rs's and back, and what a peer's message shows alone; [`core`] checks the rest.
//! * [`member`]: the only owner of core, log and machine, and its turn: the same for the consensus thread (`thread`)
//!   and the simulator.
//! * [`pending`]: what was asked and is not answered; [`Renewing`]: a lease's renewal. Both pure, for the simulator too.
//! * [`Handle`]: the interface for any number of tasks.
//! * [`bootstrap`]: identities and the first entries of a new cluster. [`publish`]: what a member publishes about
//!   itself through the log, and the cluster version. `reconfigure` and `promote`: changes of members, with etcd's checks.
//!
//! Invariants:
//! * No response before commit *and* apply; no message that raft wants persisted leaves before the sync returned.
//! * The log's bytes are etcd's. Membership changes never pass raft-rs's own decoder, whose numbers differ.
//! * A waiter is found by the request ID in its entry. Nothing passed to raft is ever proposed again.
//! * Revokes and checkpoints of leases are logged by the leader of the term that decided them, or by nobody.
//! * A member that gets a leader's snapshot has its old state until the log says that it goes on from the new one.
//! * A refusal goes to the client; a [`NodeFault`] ends the consensus thread, fails all waiters and must end the
//!   process.
//!
//! Not here: how a snapshot's database is made, sent and read (the composer, `snapshot`, `transport`), joint membership
//! changes, authorisation, HTTP.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bootstrap;
mod conf;
pub mod convert;
pub mod core;
mod error;
mod handle;
mod keepalive;
mod lessor;
mod limits;
mod log_limit;
pub mod member;
mod meters;
mod options;
pub mod pending;
mod promote;
pub mod publish;
mod queues;
mod reconfigure;
mod renewal;
mod request_id;
pub mod room;
mod snapshot;
mod status;
mod tasks;
mod thread;
pub mod waiters;

pub use crate::core::{Leadership, PeerProgress};
pub use error::{ChangeError, LeaseError, NodeFault, ProposeError, ReadError, StartError, TransferError};
pub use handle::Handle;
pub use lease::Checkpoints;
pub use lessor::{LeaseCounts, Lessor, TTL_BUCKETS};
pub use limits::Limits;
pub use meters::Meters;
pub use options::{Asked, LeaseStatus, Options, Outbound, Promoting};
pub use renewal::{RenewalStep, Renewing};
pub use request_id::RequestIds;
pub use snapshot::SnapshotHead;
pub use status::Status;
pub use thread::start;
