//! How a log is laid out and how much of it moves at once. Every limit of the log is a value here, so that a test can
//! draw a small one and reach what lies behind it.

/// etcd's `SegmentSizeBytes`: space set aside for a segment, and the length at which the next begins.
pub const SEGMENT_BYTES: u64 = 64_000_000;

/// The limits of a log, with what a server uses as their default. All are in bytes, and none may be zero but
/// `zero_ahead_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Space set aside for a segment, and the length at which the next begins.
    pub segment_bytes: u64,
    /// What is encoded before it is written: bounds the buffer. A batch is one write unless it is larger.
    pub write_bytes_max: usize,
    /// The unsynced writes of one log, at most, unless a single record is longer: more is synced before it is written.
    ///
    /// A record that a crash tore has no good records further behind it than this, which is how damage is told from a
    /// crash. So a log must not be opened with less than it was written with; the greatest batch of etcd's is below
    /// the default.
    pub unsynced_bytes_max: u64,
    /// How much log is synced before the superblock is: one more sync in a few hundred batches.
    pub superblock_sync_bytes: u64,
    /// How far a write zeroes ahead of itself in space that was only set aside: one journal commit for every so many
    /// bytes of log instead of one a batch, small enough that it delays a single sync by no more than a few
    /// milliseconds. Zero: not at all.
    pub zero_ahead_bytes: u64,
    /// How much of the log is read at once for [`crate::Wal::entries`], unless one entry is larger.
    pub read_bytes_max: u64,
    /// How much of the log is read at once when it is opened, unless one record is larger.
    pub replay_bytes: usize,
}

impl Options {
    /// What a server uses.
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
