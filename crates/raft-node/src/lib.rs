//! # The node: one member of the raft group
//!
//! The heart of the server: everything that is decided together passes here. It gives requests their place in the log,
//! makes the log durable, replicates it, applies what is committed and answers whoever waits.
//!
//! ```text
//!        runtime (tokio)                           consensus thread                        disk
//! api ─▶ Handle::propose ─┐ gathered,   ┌▶ driver ─▶ core (raft-rs) ─▶ messages ─▶ transport
//! transport ─▶ deliver ───┤ handed over │    │          └ log ─ one write + one sync a batch ─▶ wal
//! api ─▶ read_barrier ────┘ in batches ─┘    └─▶ machine ─ one engine batch a group ─▶ engine
//! waiters ◀─ completer task ◀─ one Vec and at most one notify a batch ─┘
//! ```
//!
//! * [`core`]: what raft says, as a pure function of inputs and the time given; no thread, clock, socket or tokio.
//! * [`convert`]: etcd's wire types to raft-rs's and back, and every check of what a peer sends.
//! * `driver`: the consensus thread, the only owner of core, log and machine. A group that touches many keys is applied on a
//!   thread of its own, to which the machine is lent (`driver::apply`); what is committed meanwhile waits in the log.
//! * [`Handle`]: the way in, for any number of tasks.
//! * [`bootstrap`]: identities and the first entries of a fresh cluster. [`publish`]: what a member tells the others
//!   through the log about itself, and the cluster version. [`promote`]: what a leader checks before a learner votes.
//!
//! Invariants:
//! * No answer before commit *and* apply; no message that raft wants persisted leaves before the sync returned.
//! * The log's bytes are etcd's. Members' changes never pass raft-rs's own decoder, whose numbers differ.
//! * A waiter is keyed by the request ID in its entry. What was handed to raft once is never proposed again.
//! * What leases ask for (revokes, checkpoints) is logged by the leader of the term that decided it, or by nobody.
//! * A refusal goes to the client; a [`NodeFault`] ends the consensus thread, fails all waiters and must end the process.
//!
//! What it does not do: snapshots between members (a `MsgSnap` is refused by name in the log, and the log is kept for
//! members that lag), joint membership changes, authorisation, and everything about HTTP.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bootstrap;
pub mod convert;
pub mod core;
mod driver;
mod error;
mod front;
mod handle;
mod leases;
mod limits;
mod meters;
mod options;
pub mod promote;
pub mod publish;
mod quiet;
mod request_id;
mod status;
mod tasks;

pub use driver::start;
pub use error::{LeaseError, NodeFault, ProposeError, ReadError, StartError, TransferError};
pub use handle::Handle;
pub use lease::Checkpoints;
pub use leases::{Behind, LeaseCounts, LeaseStatus, TTL_BUCKETS};
pub use limits::Limits;
pub use meters::Meters;
pub use options::{Asked, Options, Outbound};
pub use request_id::RequestIds;
pub use status::{Leadership, PeerProgress, Status};
