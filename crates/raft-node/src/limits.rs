//! Every limit of the node, with its unit and its reason.

use std::time::Duration;

/// Entries that may wait before they reach the log. A full inbox is the only reason to refuse a request for load.
pub const INBOX_ENTRIES_MAX: usize = 65_536;
/// Bytes that may wait before they reach the log: what a member can afford beside its caches.
pub const INBOX_BYTES_MAX: usize = 64 << 20;
/// Messages from peers that may wait for the consensus thread; etcd's receive queues hold 4,096 a peer.
pub const INBOX_MESSAGES_MAX: usize = 16_384;
/// Bytes of peers' messages that may wait: more are dropped, as a network would, and raft sends them again.
pub const INBOX_MESSAGE_BYTES_MAX: usize = 128 << 20;
/// No new entries enter the log while more committed ones than this wait to be applied (etcd refuses at 5,000).
pub const BACKLOG_ENTRIES_MAX: u64 = 4_000;
/// No new entries enter the log while more than this many are not committed: a quorum is slow or away.
pub const UNCOMMITTED_ENTRIES_MAX: u64 = 16_384;
/// The same in bytes.
pub const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;
/// While a follower in reach lacks more entries than this, leases end a batch a tick: they must not make it much later.
pub const FOLLOWER_LAG_MAX: u64 = 8_192;
/// Renewals that are woken when their lease, whose time is over, is gone; more than these look for themselves now and then.
pub const RENEWALS_WAITING_MAX: usize = 65_536;
/// A new leader of more leases than this makes their deadlines on a thread of its own: of these it takes some 5 ms.
pub const DEADLINES_INLINE_MAX: usize = 10_000;
/// Keys of a lease that are looked up at a time for whoever asks what hangs on it: a fifth of a millisecond, for which
/// what is applied may have to wait. More than these are gathered on a thread of their own.
pub const LEASE_KEYS_MAX: usize = 1_024;
/// Leases whose many keys are gathered at one time.
pub const LEASE_KEYS_THREADS_MAX: usize = 1;
/// Entries proposed in one step of the consensus thread: bounds the size of one write and the wait of those behind.
pub const BATCH_ENTRIES_MAX: usize = 8_192;
/// Bytes proposed in one step.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// raft-rs drops proposals silently above this, so it lies above all that the driver lets through.
pub const RAFT_UNCOMMITTED_BYTES_MAX: u64 = 256 << 20;
/// One append message; etcd's `maxSizePerMsg`, 1 MiB less its overhead. raft-rs's default is one entry a message.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Append messages in flight to one member; etcd's `maxInflightMsgs`.
pub const INFLIGHT_MESSAGES_MAX: usize = 512;
/// Committed bytes handed to the machine in one group.
pub const GROUP_BYTES_MAX: u64 = 4 << 20;
/// Recent entries kept in memory for followers and for applying, in bytes.
pub const CACHE_BYTES_MAX: usize = 16 << 20;
/// Entries in one message of a peer: an append of 1 MiB holds at most this many entries of 8 bytes.
pub const PEER_ENTRIES_MAX: usize = 131_072;
/// Payload bytes of one entry that a peer may send; far above `--max-request-bytes`, which its proposer enforces.
pub const PEER_ENTRY_BYTES_MAX: usize = 64 << 20;
/// Bytes of a heartbeat's context. etcd's and ours are 8; raft's own transfer mark is 16.
pub const PEER_CONTEXT_BYTES_MAX: usize = 64;
/// Read contexts remembered for each peer within one term, to drop those that come twice.
pub const SEEN_READS_MAX: usize = 65_536;
/// Attempts whose answers a round of reads still takes; older answers are only late.
pub const READ_ATTEMPTS_MAX: usize = 32;
/// A read whose context got no answer asks again with a fresh one after this long (etcd's `readIndexRetryTime`).
pub const READ_RETRY: Duration = Duration::from_millis(500);
/// Bytes of log after which the engine is flushed, so that replay after a crash stays short.
pub const FLUSH_LOG_BYTES: u64 = 64 << 20;
/// The engine is flushed at least this often while anything is applied.
pub const FLUSH_EVERY: Duration = Duration::from_mins(1);
/// Entries kept behind the flushed index for slow followers (etcd's `DefaultSnapshotCatchUpEntries`).
pub const KEEP_ENTRIES: u64 = 5_000;
/// Log kept beyond [`KEEP_ENTRIES`] for members that lag, in steps of [`FLUSH_LOG_BYTES`]: 16 = 1 GiB of log.
pub const KEEP_LAGGING_STEPS: usize = 16;
/// Turns that the flusher yields before it hands proposals over: requests read in the same turn go together.
pub const FLUSH_YIELDS: usize = 2;
/// Under load, a step of the machine's background work is done this often (etcd's sleep between batches of a compaction).
pub const BACKGROUND_EVERY: Duration = Duration::from_millis(10);
/// Compaction waits this long for readers of what it removes. Readers that keep the pace are done much sooner (a hash of
/// 100 million rows takes half of it), the others have let go already; who is left is told that it was compacted.
pub const READERS_WAIT_MAX: Duration = Duration::from_mins(1);
