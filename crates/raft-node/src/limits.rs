//! Every limit of the node: a value with its unit, its reason and its default, so that a test can draw a small one.
//!
//! A limit is never less than what lets one piece through: where zero would stop everything, one is taken.

use std::time::Duration;

/// The node's limits. [`Limits::default`] is what a member runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries that may wait before they reach the log, and reads that may wait for their round. A full inbox is the only
    /// reason to refuse a request for load.
    pub inbox_entries: usize,
    /// Bytes of entries that may wait before they reach the log: what a member can afford beside its caches.
    pub inbox_bytes: usize,
    /// Messages from peers that may wait for the consensus thread; etcd's receive queues hold 4,096 a peer. More are
    /// dropped, as a network would, and raft sends them again.
    pub inbox_messages: usize,
    /// Bytes of peers' messages that may wait.
    pub inbox_message_bytes: usize,
    /// Requests that wait for their entry to be applied. Those handed to another leader leave the inbox at once.
    pub waiters: usize,
    /// No new entries enter the log while more committed ones than this wait to be applied (etcd refuses at 5,000).
    pub backlog_entries: u64,
    /// The same in bytes, of what waits while the machine is lent out: a leader reads all of it to see which leases are
    /// about to go, between two ticks.
    pub backlog_bytes: usize,
    /// No new entries enter the log while more than this many are not committed: a quorum is slow or away.
    pub uncommitted_entries: u64,
    /// The same in bytes.
    pub uncommitted_bytes: usize,
    /// In bytes. raft-rs drops proposals silently above this, so it lies above all that the driver lets through.
    pub raft_uncommitted_bytes: u64,
    /// While a follower in reach lacks more entries than this, leases end a batch a tick: they must not make it much
    /// later.
    pub follower_lag: u64,
    /// Renewals that are woken when their lease, whose time is over, is gone; more than these look for themselves now and
    /// then.
    pub renewals_waiting: usize,
    /// A new leader of more leases than this makes their deadlines on a thread of its own: of these it takes some 5 ms.
    pub deadlines_inline: usize,
    /// Keys of a lease that are looked up at a time for whoever asks what hangs on it: a fifth of a millisecond, for which
    /// what is applied may have to wait. More than these are gathered on a thread of its own.
    pub lease_keys: usize,
    /// Leases whose many keys are gathered at one time.
    pub lease_keys_threads: usize,
    /// Entries proposed in one step of the consensus thread: bounds the size of one write and the wait of those behind.
    pub batch_entries: usize,
    /// Bytes proposed in one step; the entry that passes it still goes along.
    pub batch_bytes: usize,
    /// Bytes of one append message, and of the entries forwarded in one; etcd's `maxSizePerMsg`, 1 MiB less its overhead.
    /// At least one entry goes into each.
    pub message_bytes: u64,
    /// Append messages in flight to one member; etcd's `maxInflightMsgs`.
    pub inflight_messages: usize,
    /// Committed bytes handed to the machine in one group, and read from the log at a time by whoever only looks at them;
    /// at least one entry.
    pub group_bytes: u64,
    /// Bytes of recent entries kept in memory for followers and for applying; at least the newest entry.
    pub cache_bytes: usize,
    /// Entries in one message of a peer: an append of 1 MiB holds at most this many entries of 8 bytes.
    pub peer_entries: usize,
    /// Payload bytes of one entry that a peer may send; far above `--max-request-bytes`, which its proposer enforces.
    pub peer_entry_bytes: usize,
    /// Bytes of a message's context. etcd's and ours are 8; raft's own transfer mark is 16.
    pub peer_context_bytes: usize,
    /// How far above this member's own term that of a peer's message may lie. A term grows by one an election: an election
    /// a second takes 136 years for so many, and a forged term cannot use up the numbers that are left.
    pub term_leap: u64,
    /// How often a proposal that came from a peer is handed on to another leader. It came here by one hop; a leader that
    /// stepped down hands it on, and so may that one's successor. Two members that each take the other for the leader
    /// would do it for ever.
    pub forward_hops: u8,
    /// Read contexts remembered for each member within one term, to drop those that come twice; the oldest are forgotten.
    pub seen_reads: usize,
    /// Reads of peers that a leader has under way. A member has one round at a time, asked again every
    /// [`Limits::read_retry`]: more are dropped, and asked again.
    pub peer_reads: usize,
    /// Attempts whose answers a round of reads still takes; older answers are only late.
    pub read_attempts: usize,
    /// A read whose context got no answer asks again with a fresh one after this long (etcd's `readIndexRetryTime`).
    pub read_retry: Duration,
    /// Members behind the log's start that are remembered as told of; with more, some are told of again.
    pub lagging_told: usize,
    /// Bytes of log after which the engine is flushed, so that replay after a crash stays short.
    pub flush_log_bytes: u64,
    /// The engine is flushed at least this often while anything is applied.
    pub flush_every: Duration,
    /// Entries kept behind the flushed index for slow followers (etcd's `DefaultSnapshotCatchUpEntries`).
    pub keep_entries: u64,
    /// Log kept beyond [`Limits::keep_entries`] for members that lag, in steps of [`Limits::flush_log_bytes`]: 16 = 1 GiB
    /// of log.
    pub keep_lagging_steps: usize,
    /// Turns that the flusher yields before it hands proposals over: requests read in the same turn go together.
    pub flush_yields: usize,
    /// Under load, a step of the machine's background work is done this often (etcd's sleep between batches of a
    /// compaction).
    pub background_every: Duration,
    /// Compaction waits this long for readers of what it removes. Readers that keep the pace are done much sooner (a hash
    /// of 100 million rows takes half of it), the others have let go already; who is left is told that it was compacted.
    pub readers_wait: Duration,
    /// Lines that one place of the node's code, or of raft-rs's, may log in [`Limits::log_window`]: peers can cause most
    /// of them. What is left out is counted, and told with the next line.
    pub log_lines: usize,
    /// See [`Limits::log_lines`]. A fault that shows for days is told about once a minute.
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
            lagging_told: 64,
            flush_log_bytes: 64 << 20,
            flush_every: Duration::from_mins(1),
            keep_entries: 5_000,
            keep_lagging_steps: 16,
            flush_yields: 2,
            background_every: Duration::from_millis(10),
            readers_wait: Duration::from_mins(1),
            log_lines: 30,
            log_window: Duration::from_mins(1),
        }
    }
}
