//! Every bound of the transport, with its unit and reason. "etcd" names the constant of `rafthttp` it follows.

use std::time::Duration;

/// Messages waiting on one stream (etcd `streamBufSize`).
pub(crate) const LANE_MESSAGES_MAX: usize = 4096;
/// Bytes of entries waiting on one stream. etcd has no such bound; 512 messages in flight of up to 1 MiB are what raft
/// allows itself, and a quarter of that is seconds of a fast disk.
pub(crate) const LANE_BYTES_MAX: usize = 128 << 20;
/// Messages between `send` and the router: the lanes of eight peers. Only a runtime that stands still fills it.
pub(crate) const INBOX_MESSAGES_MAX: usize = 65_536;
/// The same fault of the same sender is told once in this time: it may show ten times a second, for days.
pub(crate) const COMPLAINT: Duration = Duration::from_mins(1);
/// Faults remembered for that: every member of a large cluster with all it can do wrong, and strangers.
pub(crate) const COMPLAINTS_MAX: usize = 256;
/// A peer's clock that differs by more is told of (etcd's bound).
pub(crate) const CLOCK_DRIFT_MAX: Duration = Duration::from_secs(1);
/// Messages waiting for a POST to one peer (etcd `pipelineBufSize`).
pub(crate) const POST_MESSAGES_MAX: usize = 64;
/// POSTs in flight to one peer (etcd `connPerPipeline`).
pub(crate) const POST_WORKERS: usize = 4;
/// Encoded bytes after which a lane hands what it has to the connection: large enough that a batch is one write, small
/// enough that a slow socket does not make us encode a whole backlog.
pub(crate) const FRAME_BYTES: usize = 1 << 20;
/// Unknown senders that we answer by POST. A joining member knows at most the cluster's members.
pub(crate) const REMOTES_MAX: usize = 64;

/// Read and write deadline of a peer connection (etcd `ConnReadTimeout`).
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);
/// Link heartbeats: a third of the deadline, as etcd.
pub(crate) const HEARTBEAT: Duration = Duration::from_nanos(5_000_000_000 / 3);
/// At most one dial of a stream in this time (etcd `DialRetryFrequency`).
pub(crate) const REDIAL: Duration = Duration::from_millis(100);
/// TCP connect: 1 s + election timeout, etcd's default sum.
pub(crate) const DIAL: Duration = Duration::from_secs(2);
/// A POST or a probe without an answer. etcd has none; a stopped peer would hold all workers for ever.
pub(crate) const REQUEST: Duration = Duration::from_secs(10);
/// An idle connection is not used again after this: the other end closes it at 5 s.
pub(crate) const IDLE: Duration = Duration::from_secs(4);
/// Time between probes (etcd `proberInterval`): shorter than the deadline, so that the connection is kept.
pub(crate) const PROBE: Duration = Duration::from_secs(4);
/// Bytes that one read of a stream asks for.
pub(crate) const READ_BYTES: usize = 64 << 10;
/// Bytes read from a stream before its messages are delivered, when more keeps coming: raft sees a backlog as one batch,
/// and other tasks get their turn.
pub(crate) const READ_BATCH_BYTES: usize = 1 << 20;
/// Buffers above this are given back once empty, so that one huge message is not paid for for ever.
pub(crate) const BUFFER_KEPT_BYTES: usize = 4 << 20;

/// A raft message in a POST (etcd reads without limit; this is its stream limit).
pub(crate) const POST_BYTES_MAX: usize = 512 << 20;
/// The raft message before a snapshot (etcd `snapshotLimitByte`).
pub(crate) const SNAPSHOT_MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// A lease request's body, and any other small body (etcd `maxLeaseHTTPRequestSize`).
pub(crate) const SMALL_BODY_BYTES_MAX: usize = 64 << 10;
/// The answer to a question about a lease: all keys that hang on it (etcd `maxLeaseHTTPResponseSize`).
pub(crate) const LEASE_ANSWER_BYTES_MAX: usize = 100 << 20;
/// Questions about leases on their way to one URL, each on a connection of its own: at a millisecond each, 64,000 in a
/// second. The others wait for their turn.
pub(crate) const LEASE_QUESTIONS_MAX: usize = 64;
/// The head of an answer to a stream GET. etcd's is 200 bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;
/// The text of a refusal that we show in the log.
pub(crate) const REFUSAL_BYTES_MAX: usize = 4 << 10;
/// A member list or version: 10,000 members of 1 KiB.
pub(crate) const FETCH_BYTES_MAX: usize = 10 << 20;
