//! How large everything may become: values, so that tests reach what lies behind them with a few events.

/// The bounds of a [`crate::Hub`]. Whatever they are, no watcher misses an event: smaller ones make more and smaller steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What may wait in a stream's queue, in bytes of events, before its watchers are held back. Default 64 KiB, four frames
    /// of HTTP/2: a client that reads never waits for us; every stream whose client does not read holds as much.
    pub stream_bytes: usize,
    /// Watchers of a stream that are tried again when its queue has room, in watchers; at least 1. Default 64: about as many
    /// as fill it.
    pub unblock: usize,
    /// The newest events kept, in bytes. Default 4 MiB: some seconds of full load, so that who is a little late needs no read
    /// of the store.
    pub ring_bytes: usize,
    /// The newest events that wait to be told to synced watchers, in bytes. Default 8 MiB: what the store's tap keeps. When
    /// there are more, those watchers fall behind.
    pub untold_bytes: usize,
    /// Events of the ring that one step looks at, in events; at least 1. Default 512: some tens of microseconds.
    pub ring_step_events: usize,
    /// What one step of telling costs, in watchers that are told of an event; at least 1. Default 512: some tens of
    /// microseconds.
    pub tell_cost: usize,
    /// What joining bytes of events costs: as much as telling a watcher, for so many bytes; at least 1. Default 1 KiB.
    pub join_bytes: usize,
    /// Matches of events and topics after which a batch ends with its revision, in matches. Default 16,384: they wait in
    /// memory for the batch to be told.
    pub batch_matches: usize,
    /// Rows of history that a round looks at, in rows; at least 1. Default 10,000: some milliseconds of a thread that is not
    /// the runtime's.
    pub round_rows: usize,
    /// Events that a round finds, in bytes. Default 128 KiB: what a queue may hold above its limit.
    pub round_bytes: usize,
    /// Watchers that one round serves, in watchers; at least 1. Default 512: etcd's `maxWatchersPerSync`.
    pub round_watchers: usize,
    /// Events in one response, in bytes, when it holds more than one revision. Default 128 KiB, as a round's.
    pub response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_bytes: 64 << 10,
            unblock: 64,
            ring_bytes: 4 << 20,
            untold_bytes: 8 << 20,
            ring_step_events: 512,
            tell_cost: 512,
            join_bytes: 1 << 10,
            batch_matches: 16 << 10,
            round_rows: 10_000,
            round_bytes: 128 << 10,
            round_watchers: 512,
            response_bytes: 128 << 10,
        }
    }
}
