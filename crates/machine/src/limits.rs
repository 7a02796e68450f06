//! What one call of the machine may cost: values with their units and reasons, so that a test can draw small ones.

use mvcc::Cost;

/// The machine's limits. [`Limits::default`] is what a member runs with. They change when rows are read and where a group
/// ends: never what an entry does, nor what it answers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What the reads of one entry may cost while it is applied. What is beyond is read by whoever answers
    /// ([`crate::Unread`]). 512 rows and 64 KiB, as a read may cost on the thread that serves clients.
    pub entry_reads: Cost,
    /// What the reads of all entries of one call may cost together: 16,384 rows and 4 MiB, below 10 ms.
    pub group_reads: Cost,
    /// Keys that the entries of one [`crate::Machine::apply_short`] may compare, delete or take off a lease: 8,192, some
    /// 15 ms, of a tick's 100. A value that is compared or kept is a key more for every 4 KiB.
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
