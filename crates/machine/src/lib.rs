//! # The machine: what committed entries do
//!
//! The one place where the log becomes state. An entry's effect is exactly etcd's (3.7), because members of a mixed
//! cluster apply the same entries; nothing here looks at a clock, at free space or at who is asking.
//!
//! ```text
//! raft-node ─ entries ─▶ Machine::apply ─┬─ codec    one entry → one request
//!                                        ├─ apply    requests: alarms first, then quota, then the effect
//!                                        ├─ kv       put, delete, range, txn and its compares (reads use it too)
//!                                        ├─ conf     changes of members, checked against the members of now
//!                                        └─ rows     one engine batch a call: keys, leases, alarms, members, index
//!           ◀─ Outcomes ────────────────
//! api ─────── reads ────▶ Shared         one View, lock-free; membership, alarms, leases, sizes, applied index
//! ```
//!
//! Invariants:
//! * One [`Machine::apply`] = one engine batch, which also holds the applied index, its term and the `ConfState`. After a
//!   crash the log is applied again from anywhere before; entries at or below the applied index are skipped.
//! * The same entries in any grouping leave the same rows.
//! * A [`Refusal`] is the same on every member and goes to the client; a [`Fault`] is this process's end. After a fault
//!   the machine in memory is worth nothing: drop it.
//! * What etcd's members would panic on (an unknown request kind, no header, a joint change) is a fault that names the
//!   entry, for the log then holds something no member can agree on.
//!
//! What it does not do: static checks of requests (empty keys, duplicate keys in a txn, sort options: `api`), waiting
//! for a physical compaction, proposing the NOSPACE alarm ([`Outcome::over_quota`] asks the node to), deadlines of
//! leases (the leader's), deciding how long a reader may hold compaction up ([`Machine::expire_views`] is for whoever
//! has a clock). A first user or role is a fault until there is an auth store: the API refuses those calls by name,
//! and what etcd members log of the others has no effect without users and roles.

mod alarms;
mod apply;
mod check;
mod codec;
mod conf;
mod fault;
pub mod history;
pub mod kv;
mod limits;
mod machine;
mod membership;
mod outcome;
mod quota;
mod refusal;
mod restore;
mod rows;
mod shared;
mod touch;
mod unread;
mod version;

pub use alarms::Alarms;
pub use check::check;
pub use fault::{Fault, Stop};
pub use lease::Info as LeaseInfo;
pub use limits::Limits;
pub use machine::{Machine, Settings};
pub use membership::{Downgrade, Member, Membership};
pub use outcome::{ConfChange, ConfChangeKind, Effect, Outcome, Response};
pub use quota::{LEASE_COST, PUT_OVERHEAD, QUOTA_DEFAULT_BYTES, Quota, cost, put_cost, txn_cost};
pub use refusal::Refusal;
pub use restore::{RestoreError, Summary, begin_anew};
pub use shared::Shared;
pub use unread::{Later, Unread};
pub use version::ClusterVersion;

#[cfg(test)]
mod tests;
