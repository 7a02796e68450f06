//! # Leases, as every member sees them
//!
//! A lease is a promise with a time to live; keys hang on it and go when it goes. This crate is the replicated half:
//! which leases there are, what they promised, which keys hang on them. It changes only when the log says so.
//!
//! ```text
//! grant ──▶ Table ◀── attach / detach (a put, a delete)      rows: one per lease, in the engine's meta family
//! revoke ─▶ Table ──▶ the keys to delete, in byte order       attachments: no rows; rebuilt from the keys at start
//! checkpoint ─▶ remaining TTL
//! ```
//!
//! Invariants:
//! * A key hangs on at most one lease, and that lease is the one its stored record names.
//! * [`Table::revoke`] hands out keys in byte order: members delete them in that order, or their hashes part ways.
//! * Equal logs give equal tables; `ttl_min` is this member's setting and must be equal on all members, as in etcd.
//!
//! What it does not do: no clock. Deadlines, keepalives and expiry belong to the leader's shell.

mod row;
mod table;

pub use row::{ROW_PREFIX, row_key};
pub use table::{GrantError, Lease, Table, UnknownLease};

/// The longest time to live, in seconds: etcd's `MaxLeaseTTL`, which keeps deadlines inside a Go duration.
pub const TTL_MAX: i64 = 9_000_000_000;
