//! How much is compared at a time.

use std::time::Duration;

/// The limits of the comparison between members. A member runs with [`Limits::default`].
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Revisions whose changes are one slice, which begins and ends at a multiple of it: members ask for the same ones.
    pub(crate) slice_revisions: i64,
    /// The same for the newest changes, where less than such a slice is new.
    pub(crate) small_slice_revisions: i64,
    /// Rows of a slice; a larger one is halved, and a single revision beyond it is left out.
    pub(crate) slice_rows: u64,
    /// Bytes of a slice, as its rows.
    pub(crate) slice_bytes: u64,
    /// Slices of the newest changes in one round.
    pub(crate) slices_a_round: usize,
    /// Revisions that the comparison of the newest changes may lag behind; beyond it they are left to the walk.
    pub(crate) lag_revisions: i64,
    /// Keys of a slice of keys.
    pub(crate) keys: i64,
    /// Bytes of keys and values that end such a slice early.
    pub(crate) keys_bytes: usize,
    /// The longest key at which a slice may begin, in bytes; the walk ends there.
    pub(crate) key_bytes_max: usize,
    /// Hashes of slices that are remembered for the next one who asks.
    pub(crate) remembered: usize,
    /// Rounds between two steps of the walk, once it has been through for the first time.
    pub(crate) walk_rounds: u64,
    /// Rounds until a member that has no such page is asked again: it may be one of ours by then.
    pub(crate) ask_again_rounds: u64,
    /// How long a member may take to answer.
    pub(crate) answer: Duration,
    /// How often members must differ before anybody acts.
    pub(crate) confirmations: u32,
    /// The same where nobody has a majority, and a member that is silent might decide.
    pub(crate) patience: u32,
    /// The time between two such attempts.
    pub(crate) pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            slice_revisions: 16_384,
            small_slice_revisions: 1_024,
            slice_rows: 100_000,
            slice_bytes: 64 << 20,
            slices_a_round: 16,
            lag_revisions: 1 << 18,
            keys: 2_048,
            keys_bytes: 4 << 20,
            key_bytes_max: 16 << 10,
            remembered: 64,
            walk_rounds: 8,
            ask_again_rounds: 15,
            answer: Duration::from_secs(3),
            confirmations: 3,
            patience: 10,
            pause: Duration::from_millis(500),
        }
    }
}
