//! Limits of one call of the machine, as values, so that tests can set small ones.

use mvcc::Cost;

/// The machine's limits: when rows are read and where a group ends, never what an entry does or answers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What one entry's reads may cost while it is applied; the rest is deferred ([`crate::Unread`]). 512 rows, 64 KiB.
    pub entry_reads: Cost,
    /// What the reads of all entries of one call may cost: 16,384 rows and 4 MiB, below 10 ms.
    pub group_reads: Cost,
    /// Keys that the entries of a group may compare, delete or detach. 8,192: some 15 ms of a 100 ms tick. A value
    /// compared or kept counts as one more key for every 4 KiB.
    pub group_keys: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entry_reads: Cost { rows: 512, bytes: 64 << 10 },
            group_reads: Cost { rows: 16_384, bytes: 4 << 20 },
            group_keys: 8_192,
        }
    }
}
