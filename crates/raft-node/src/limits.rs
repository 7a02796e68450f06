//! The limits of the node, each with unit, reason and default. None blocks everything: where zero would, it is one.

use std::time::Duration;

/// The node's limits; the defaults are a member's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries waiting to reach the log, and as many reads waiting for their round. Beyond it requests are refused.
    pub inbox_entries: usize,
    /// Bytes of entries waiting to reach the log: what a member has memory for besides its caches.
    pub inbox_bytes: usize,
    /// Peers' messages waiting for the consensus thread (etcd: 4,096 a peer). More are dropped; raft resends them.
    pub inbox_messages: usize,
    /// Bytes of peers' messages waiting for the consensus thread.
    pub inbox_message_bytes: usize,
    /// Requests waiting for their entry to be applied. Forwarded ones leave the inbox at once.
    pub waiters: usize,
    /// While more committed entries than this wait to be applied, none are proposed (etcd refuses at 5,000).
    pub backlog_entries: u64,
    /// The same in bytes, while another thread has the machine: a leader scans all for revokes between two ticks.
    pub backlog_bytes: usize,
    /// While more entries than this are uncommitted, none are proposed: a quorum is slow or away.
    pub uncommitted_entries: u64,
    /// The same limit in bytes.
    pub uncommitted_bytes: usize,
    /// Bytes above which raft-rs drops proposals silently; so it exceeds everything that a member accepts.
    pub raft_uncommitted_bytes: u64,
    /// While an active follower lacks more entries, leases end one batch per tick, so as not to delay it further.
    pub follower_lag: u64,
    /// Renewals of expired leases that are woken when the lease is gone; any beyond poll.
    pub renewals_waiting: usize,
    /// With more leases than this (some 5 ms), a new leader builds the deadlines on another thread.
    pub deadlines_inline: usize,
    /// Keys of a lease read at a time, 0.2 ms, for which applying may wait. More are collected on another thread.
    pub lease_keys: usize,
    /// Leases whose many keys are collected at the same time.
    pub lease_keys_threads: usize,
    /// Entries proposed in one step: bounds the size of one write, and the delay of those behind.
    pub batch_entries: usize,
    /// Bytes proposed in one step; the entry that exceeds it is included.
    pub batch_bytes: usize,
    /// Bytes of entries in one append or forward, at least one: etcd's `maxSizePerMsg`, 1 MiB less its overhead.
    pub message_bytes: u64,
    /// Append messages in flight to one member; etcd's `maxInflightMsgs`.
    pub inflight_messages: usize,
    /// Bytes of committed entries applied in one group, or read from the log at a time for a scan; at least one entry.
    pub group_bytes: u64,
    /// Bytes of newest entries cached for followers and for applying; at least one entry.
    pub cache_bytes: usize,
    /// Entries in one message of a peer: an append of 1 MiB holds at most this many entries of 8 bytes.
    pub peer_entries: usize,
    /// Payload bytes of a peer's entry; far above `--max-request-bytes`, which its proposer enforces.
    pub peer_entry_bytes: usize,
    /// Bytes of a message's context. etcd's and ours have 8; raft's transfer mark has 16.
    pub peer_context_bytes: usize,
    /// How far a message's term may exceed this member's: 136 years of an election a second. A forged term cannot
    /// exhaust the range.
    pub term_leap: u64,
    /// How often a forwarded proposal is sent: to a leader, by one that stepped down to its successor, and once more.
    /// Two members that take each other for the leader would forward it forever.
    pub forward_hops: u8,
    /// Read contexts remembered per member and term, to drop repeated ones; the oldest are forgotten.
    pub seen_reads: usize,
    /// Unfinished reads of peers at a leader, one round a member. More are dropped, and asked again.
    pub peer_reads: usize,
    /// Attempts of a round whose answers are still accepted; older answers are only late.
    pub read_attempts: usize,
    /// A read without an answer is retried with a new context after this long (etcd's `readIndexRetryTime`).
    pub read_retry: Duration,
    /// Log bytes after which the engine is flushed, to keep replay after a crash short.
    pub flush_log_bytes: u64,
    /// Entries after which the engine is flushed, whatever their bytes (`--snapshot-count`, if it is given).
    pub flush_entries: u64,
    /// The longest time between flushes while entries are applied.
    pub flush_every: Duration,
    /// Entries kept behind the flushed index for slow followers (etcd's `DefaultSnapshotCatchUpEntries`).
    pub keep_entries: u64,
    /// Log kept beyond [`Limits::keep_entries`] for lagging members, in units of [`Limits::flush_log_bytes`]: 1 GiB of
    /// log is sooner read than most databases. None if `--snapshot-catchup-entries` is given, which says how much.
    pub keep_lagging_steps: usize,
    /// How often the runtime's task yields before it hands over proposals, so that requests read in the same turn go together.
    pub gather_yields: usize,
    /// Under load, the interval of the machine's background steps (etcd's sleep between batches of a compaction).
    pub background_every: Duration,
    /// How long compaction waits for readers of what it removes; then they are told that it was compacted. A hash of
    /// 100 million rows takes half of it.
    pub readers_wait: Duration,
    /// Log lines from one place of the node's or raft-rs's code in [`Limits::log_window`]; the rest are counted.
    pub log_lines: usize,
    /// The window of [`Limits::log_lines`]: a lasting fault is logged about once a minute.
    pub log_window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inbox_entries: 65_536,
            inbox_bytes: 64 << 20,
            inbox_messages: 16_384,
            inbox_message_bytes: 128 << 20,
            waiters: 262_144,
            backlog_entries: 4_000,
            backlog_bytes: 256 << 20,
            uncommitted_entries: 16_384,
            uncommitted_bytes: 64 << 20,
            raft_uncommitted_bytes: 256 << 20,
            follower_lag: 8_192,
            renewals_waiting: 65_536,
            deadlines_inline: 10_000,
            lease_keys: 1_024,
            lease_keys_threads: 1,
            batch_entries: 8_192,
            batch_bytes: 8 << 20,
            message_bytes: 1 << 20,
            inflight_messages: 512,
            group_bytes: 4 << 20,
            cache_bytes: 16 << 20,
            peer_entries: 131_072,
            peer_entry_bytes: 64 << 20,
            peer_context_bytes: 64,
            term_leap: 1 << 32,
            forward_hops: 3,
            seen_reads: 65_536,
            peer_reads: 4_096,
            read_attempts: 32,
            read_retry: Duration::from_millis(500),
            flush_log_bytes: 64 << 20,
            flush_entries: u64::MAX,
            flush_every: Duration::from_mins(1),
            keep_entries: 5_000,
            keep_lagging_steps: 16,
            gather_yields: 2,
            background_every: Duration::from_millis(10),
            readers_wait: Duration::from_mins(1),
            log_lines: 30,
            log_window: Duration::from_mins(1),
        }
    }
}
