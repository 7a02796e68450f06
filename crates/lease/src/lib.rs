//! # Leases: the replicated table, and the leader's deadlines
//!
//! [`Table`] is the replicated half: which leases exist, their TTLs, their keys; it changes only by log entries.
//! [`Expirer`] is the leader's half: when each lease ends. It has no clock: the caller passes the time.
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
//! * A key is attached to at most one lease: the one that its stored record names.
//! * [`Table::revoke`] returns keys in byte order: members delete them in that order, or their hashes would diverge.
//! * Equal logs give equal tables; `ttl_min` is a setting that must be equal on all members, as in etcd.
//!
//! Not here: clock, log, threads. `raft-node` proposes what the expirer asks for.

mod clock;
mod expirer;
mod pace;
mod row;
mod table;

pub use clock::Deadlines;
pub use expirer::{Checkpoints, Expirer, Renewal};
pub use pace::{
    CHECKPOINT_FIRST, CHECKPOINT_INTERVAL, CHECKPOINT_SHORTEST, CHECKPOINTS_MAX, Pace, REVOKE_BATCH_MAX,
    REVOKE_RETRY, REVOKES_IN_FLIGHT_MAX, REVOKES_PER_SECOND,
};
pub use row::{ROW_PREFIX, row_key};
pub use table::{GrantError, Lease, Table, UnknownLease};

use types::LeaseId;

/// A lease, as applied by the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// The ID of the lease.
    pub id: LeaseId,
    /// The granted TTL, seconds.
    pub ttl: i64,
    /// The remaining TTL by the last checkpoint, seconds; 0 = the full TTL.
    pub remaining_ttl: i64,
}

/// What an entry did to the table, for the expirer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A lease was granted.
    Granted {
        /// The ID of the lease.
        id: LeaseId,
        /// The granted TTL, seconds.
        ttl: i64,
    },
    /// A lease was revoked.
    Revoked {
        /// The ID of the lease.
        id: LeaseId,
    },
    /// A remaining TTL was stored or cleared.
    Checkpointed {
        /// The ID of the lease.
        id: LeaseId,
        /// The remaining TTL, seconds; 0 = the full TTL.
        remaining_ttl: i64,
    },
}

/// A remaining TTL that is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The ID of the lease.
    pub id: LeaseId,
    /// The remaining TTL, seconds; 0 = the full TTL.
    pub remaining_ttl: i64,
}

/// The longest TTL, seconds: etcd's `MaxLeaseTTL`, which keeps deadlines within a Go duration.
pub const TTL_MAX: i64 = 9_000_000_000;
