//! # The state machine: what committed entries do
//!
//! The only place where the log becomes state. An entry's effect is exactly etcd's (3.7), because members of a mixed
//! cluster apply the same entries; it never depends on a clock, free space, or the caller.
//!
//! ```text
//! raft-node ─ entries ─▶ Machine::apply ─┬─ command  one entry → one command
//!                                        ├─ apply    commands: alarms first, then quota, then the effect
//!                                        ├─ kv       put, delete, range, txn and its compares (reads use it too)
//!                                        ├─ conf     changes of members, checked against the current members
//!                                        ├─ rows     one engine batch a call: keys, leases, alarms, members, index
//!                                        └─ buckets, import   the same rows as etcd's database has them, and back
//!           ◀─ Outcomes ────────────────
//! api ─────── reads ────▶ Shared         one view, lock-free; membership, alarms, leases, sizes, applied index
//! leader's snapshot ─ Import ─▶ rows ─▶ Machine::open ─▶ Machine::replace, under the readers
//! ```
//!
//! Invariants:
//! * One [`Machine::apply`] writes one engine batch, which includes the applied index, its term and the `ConfState`.
//!   After a crash the log is applied again from any earlier point; entries at or below the applied index are skipped.
//! * The same entries in any grouping produce the same rows.
//! * A machine that takes over a leader's state ([`Machine::replace`]) keeps its [`Shared`], in which the applied index
//!   still only grows, and is published last. Until then readers may see parts of the new state beside the old index.
//! * A [`Refusal`] is the same on every member and goes to the client; a [`Fault`] stops this process. Drop a machine
//!   after a fault.
//! * What etcd's members would panic on (an unknown request kind, no header, a joint change) is a fault that names it.
//!
//! Not here: static checks of requests (`api`), proposing the NOSPACE alarm ([`Outcome::over_quota`] asks the node to),
//! lease deadlines (the leader's), deciding how long readers may delay compaction ([`Machine::expire_views`]). Without
//! an auth store, a first user or role is a fault, which the API refuses; other auth entries have no effect.

mod alarms;
mod answer;
mod apply;
pub mod buckets;
mod check;
mod command;
mod conf;
mod fault;
pub mod history;
mod import;
pub mod kv;
mod limits;
mod machine;
mod membership;
mod outcome;
mod point;
mod quota;
mod refusal;
mod restore;
mod rows;
mod settings;
mod shared;
mod state;
mod touch;
mod unread;
mod v2request;
mod v2store;
mod version;

pub use alarms::{Alarms, no_space};
pub use answer::{Answer, Request, Rows};
pub use check::check;
pub use command::{Command, Kind};
pub use fault::{Fault, Stop};
pub use import::{Import, ImportError};
pub use kv::Later;
pub use lease::Info as LeaseInfo;
pub use limits::Limits;
pub use machine::Machine;
pub use membership::{Downgrade, Membership};
pub use outcome::{ConfChange, ConfChangeKind, Effect, Outcome, Response, Unread};
pub use point::Point;
pub use quota::{LEASE_COST, PUT_OVERHEAD, QUOTA_DEFAULT_BYTES, Quota, put_cost, txn_cost};
pub use refusal::Refusal;
pub use restore::{RestoreError, force_new_cluster, start_new_cluster};
pub use settings::Settings;
pub use shared::Shared;
pub use types::Member;
pub use v2store::v2_store;
pub use version::ClusterVersion;

#[cfg(test)]
mod tests;
