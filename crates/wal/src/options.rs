//! The limits of the log, as values, so that a test can set small ones and reach the code behind them.

/// etcd's `SegmentSizeBytes`: the space reserved for a segment, and the length at which the next begins.
pub const SEGMENT_BYTES: u64 = 64_000_000;

/// The limits of a log, all in bytes; the defaults are a server's. Only `zero_ahead_bytes` may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The space reserved for a segment, and the length at which the next begins.
    pub segment_bytes: u64,
    /// Records encoded before they are written: bounds the buffer. A batch is one write unless it is larger.
    pub write_bytes_max: usize,
    /// Unsynced bytes of a log, unless a single record is longer: beyond, the log syncs before it writes.
    /// No good record follows further behind a torn one, which tells damage from a crash: never open a log with less
    /// than it was written with.
    pub unsynced_bytes_max: u64,
    /// The superblock is synced after this much synced log: one more sync in a few hundred batches.
    pub superblock_sync_bytes: u64,
    /// How far a write zeroes reserved space ahead of itself, bytes: one journal commit for all of it. 0 = not at all.
    pub zero_ahead_bytes: u64,
    /// Bytes read at once by [`crate::Wal::entries`], unless one entry is larger.
    pub read_bytes_max: u64,
    /// Bytes read at once when the log is opened, unless one record is larger.
    pub replay_bytes: usize,
}

impl Options {
    /// The limits that a server uses.
    pub const DEFAULT: Self = Self {
        segment_bytes: SEGMENT_BYTES,
        write_bytes_max: 4 << 20,
        unsynced_bytes_max: 16 << 20,
        superblock_sync_bytes: 8 << 20,
        zero_ahead_bytes: 1 << 20,
        read_bytes_max: 256 << 10,
        replay_bytes: 1 << 20,
    };
}

impl Default for Options {
    fn default() -> Self {
        Self::DEFAULT
    }
}
