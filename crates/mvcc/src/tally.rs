//! Counters of this process, for metrics; not part of the replicated state.

/// Counts since the store was opened. They travel with each view, so that reading them costs the writer nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Keys put, including those in transactions.
    pub puts: u64,
    /// Bytes of their keys and values.
    pub put_bytes: u64,
    /// Delete calls, whether or not they deleted anything.
    pub deletes: u64,
    /// Rows of history removed by compaction.
    pub compacted_rows: u64,
}
