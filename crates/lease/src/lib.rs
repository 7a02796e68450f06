//! # Leases, as every member sees them, and the leader's clockwork
//!
//! A lease is a promise with a time to live; keys hang on it and go when it goes. [`Table`] is the replicated half:
//! which leases there are, what they promised, which keys hang on them. It changes only when the log says so.
//! [`Expirer`] is the leader's half: when which lease ends. It knows no clock either: it is told the time.
//!
//! ```text
//! grant ──▶ Table ◀── attach / detach (a put, a delete)      rows: one per lease, in the engine's meta family
//! revoke ─▶ Table ──▶ the keys to delete, in byte order       attachments: no rows; rebuilt from the keys at start
//! checkpoint ─▶ remaining TTL
//!      │ Change: what an entry did
//!      ▼
//! Expirer ◀── renew (keepalives)      ──▶ leases to revoke, checkpoints to log: the leader's, in its term alone
//! ```
//!
//! Invariants:
//! * A key hangs on at most one lease, and that lease is the one its stored record names.
//! * [`Table::revoke`] hands out keys in byte order: members delete them in that order, or their hashes part ways.
//! * Equal logs give equal tables; `ttl_min` is this member's setting and must be equal on all members, as in etcd.
//!
//! What it does not do: no clock, no log, no thread. Proposing what the expirer asks for is `raft-node`'s.

mod clock;
mod expirer;
mod row;
mod table;

pub use clock::Deadlines;
pub use expirer::{
    CHECKPOINT_FIRST, CHECKPOINT_INTERVAL, CHECKPOINT_SHORTEST, CHECKPOINTS_MAX, Checkpoints, Expirer, Pace,
    REVOKE_BATCH_MAX, REVOKE_RETRY, REVOKES_IN_FLIGHT_MAX, REVOKES_PER_SECOND, Renewal,
};
pub use row::{ROW_PREFIX, row_key};
pub use table::{GrantError, Lease, Table, UnknownLease};

use types::LeaseId;

/// A lease, as it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its identity.
    pub id: LeaseId,
    /// What was granted, in seconds.
    pub ttl: i64,
    /// What the last checkpoint left of it, in seconds; 0 = all of it.
    pub remaining_ttl: i64,
}

/// What an entry did to the table of leases; for whoever keeps the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A lease came.
    Granted {
        /// Which.
        id: LeaseId,
        /// For how long, in seconds.
        ttl: i64,
    },
    /// A lease went.
    Revoked {
        /// Which.
        id: LeaseId,
    },
    /// What is left of a lease is known.
    Checkpointed {
        /// Which.
        id: LeaseId,
        /// In seconds; 0 = all of it.
        remaining_ttl: i64,
    },
}

/// What is left of a lease, to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which.
    pub id: LeaseId,
    /// In seconds; 0 = all of it.
    pub remaining_ttl: i64,
}

/// The longest time to live, in seconds: etcd's `MaxLeaseTTL`, which keeps deadlines inside a Go duration.
pub const TTL_MAX: i64 = 9_000_000_000;
