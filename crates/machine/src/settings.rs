//! The settings of a machine.

use crate::Limits;
use types::MemberId;

/// The settings of a machine. `lease_ttl_min` and `max_learners` must be equal on all members, as in etcd.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// This member: decides only whose ranges are answered.
    pub member: MemberId,
    /// The shortest TTL granted, seconds: `ceil(1.5 × election timeout)`.
    pub lease_ttl_min: i64,
    /// etcd's `--max-learners`: the maximum number of learners.
    pub max_learners: usize,
    /// etcd's `--quota-backend-bytes`: 0 = 2 GiB, negative = unlimited. Changes answers and alarms, never effects.
    pub quota_bytes: i64,
    /// Limits of one call. They change no effect and no answer.
    pub limits: Limits,
}

impl Settings {
    /// etcd's defaults for all other settings.
    pub fn new(member: MemberId, lease_ttl_min: i64) -> Self {
        Self { member, lease_ttl_min, max_learners: 1, quota_bytes: 0, limits: Limits::default() }
    }
}
