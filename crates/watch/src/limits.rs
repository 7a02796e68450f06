//! The hub's limits, as values, so that tests reach them with a few events.

/// The limits of a [`crate::Hub`]. They never make a watcher miss an event: smaller ones only make steps smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of events in a stream's queue before its watchers are held back. Default 64 KiB: four HTTP/2 frames.
    pub stream_bytes: usize,
    /// Watchers of a stream retried at once when its queue has room; at least 1. Default 64: about as many as fill it.
    pub unblock: usize,
    /// Bytes of newest events kept. Default 4 MiB: some seconds of full load, for slightly late watchers.
    pub ring_bytes: usize,
    /// Bytes of undispatched events; beyond, synced watchers fall behind. Default 8 MiB, as the change feed.
    pub undispatched_bytes: usize,
    /// Events of the ring examined in one step; at least 1. Default 512: some tens of microseconds.
    pub ring_step_events: usize,
    /// The cost of one dispatch step, in watchers served with an event; at least 1. Default 512: some tens of µs.
    pub dispatch_cost: usize,
    /// The bytes of events whose joining costs as much as serving one watcher; at least 1. Default 1 KiB.
    pub join_bytes: usize,
    /// Matches of events and topics after which a batch ends with its revision. Default 16,384: they are in memory.
    pub batch_matches: usize,
    /// Rows of history examined in a round; at least 1. Default 10,000: some milliseconds, off the runtime's thread.
    pub round_rows: usize,
    /// Bytes of events found in a round. Default 128 KiB: by how much a queue may exceed its limit.
    pub round_bytes: usize,
    /// Watchers served by one round; at least 1. Default 512: etcd's `maxWatchersPerSync`.
    pub round_watchers: usize,
    /// Bytes of events in a response of more than one revision. Default 128 KiB, as in a round.
    pub response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_bytes: 64 << 10,
            unblock: 64,
            ring_bytes: 4 << 20,
            undispatched_bytes: 8 << 20,
            ring_step_events: 512,
            dispatch_cost: 512,
            join_bytes: 1 << 10,
            batch_matches: 16 << 10,
            round_rows: 10_000,
            round_bytes: 128 << 10,
            round_watchers: 512,
            response_bytes: 128 << 10,
        }
    }
}
