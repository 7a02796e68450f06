//! Rates and intervals of revokes and checkpoints.

use std::time::Duration;

/// Revokes proposed per second (etcd's is 1,000): 100,000 leases that expire together are gone in ten seconds.
pub const REVOKES_PER_SECOND: u32 = 10_000;
/// Revokes proposed but not applied: what one commit may carry besides the clients' entries.
pub const REVOKES_IN_FLIGHT_MAX: usize = 256;
/// A proposed revoke is retried if the lease still exists after this (etcd: `defaultExpiredleaseRetryInterval`).
pub const REVOKE_RETRY: Duration = Duration::from_secs(3);
/// Revokes handed out at once: few enough that client requests hardly wait for them.
pub const REVOKE_BATCH_MAX: usize = 64;
/// Leases processed in one [`crate::Expirer::tick`]: about a millisecond with a million, in which none is renewed.
pub(crate) const LOOKS_MAX: usize = 512;
/// Leases in one checkpoint entry (etcd: `maxLeaseCheckpointBatchSize`).
pub const CHECKPOINTS_MAX: usize = 1_000;
/// No checkpoint this soon after a grant or renewal: most leases that are kept alive never need one.
pub const CHECKPOINT_FIRST: Duration = Duration::from_mins(1);
/// The longest time between two checkpoints of a lease (etcd: `defaultLeaseCheckpointInterval`).
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_mins(5);
/// The shortest time between two checkpoints of a lease; closer to its end it needs none.
pub const CHECKPOINT_SHORTEST: Duration = Duration::from_secs(1);

/// A member's settings that affect leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Added by a new leader to every deadline: an election timeout, for which the previous one may have renewed.
    pub extension: Duration,
    /// How long after the start of a confirmation leases may be renewed; shorter than `extension`.
    pub confirmed_for: Duration,
}

impl Pace {
    /// The settings for this election timeout.
    pub fn of(election_timeout: Duration) -> Self {
        Self { extension: election_timeout, confirmed_for: election_timeout / 4 * 3 }
    }
}
