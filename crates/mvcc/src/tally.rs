//! What was done since the store was opened: numbers for whoever watches a process, not part of the state.

/// Counts since the store was opened. They travel with each View, so that reading them costs the writer nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Keys put, those in transactions included.
    pub puts: u64,
    /// Bytes of their keys and values.
    pub put_bytes: u64,
    /// Calls that delete, whether or not there was something.
    pub deletes: u64,
    /// Rows of the history that compaction removed.
    pub compacted_rows: u64,
}
