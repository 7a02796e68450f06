//! Every limit of the transport: a value with its unit, its reason and its default, so that a test can draw a small one.
//! "etcd" names the constant of `rafthttp` that it follows.

use std::time::Duration;

/// The transport's limits. [`Limits::default`] is what a member runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages waiting on one stream (etcd `streamBufSize`). More are dropped, and raft is told.
    pub lane_messages: usize,
    /// Bytes of entries waiting on one stream. etcd has no such bound; 512 messages in flight of up to 1 MiB are what raft
    /// allows itself, and a quarter of that is seconds of a fast disk. One message always fits.
    pub lane_bytes: usize,
    /// Messages between `send` and the router: the lanes of eight peers. Only a runtime that stands still fills it.
    pub inbox_messages: usize,
    /// Messages waiting for a POST to one peer (etcd `pipelineBufSize`).
    pub post_messages: usize,
    /// POSTs in flight to one peer (etcd `connPerPipeline`).
    pub post_workers: usize,
    /// Encoded bytes after which a lane hands what it has to the connection: large enough that a batch is one write, small
    /// enough that a slow socket does not make us encode a whole backlog.
    pub batch_bytes: usize,
    /// Unknown senders that we answer by POST, and as many joining members as can be answered at once. Where there are more,
    /// the oldest gives way.
    pub remotes: usize,
    /// An unknown sender is answered for this long at least, whoever else comes: a member that joins asks ten times a second.
    pub remote_kept: Duration,

    /// Lines about the same fault of the same sender in [`Limits::complaint`]; what is left out is counted.
    pub complaint: Duration,
    /// Faults remembered for that: every member of a large cluster with all it can do wrong, and strangers.
    pub complaints: usize,
    /// Lines about the same fault of all senders in [`Limits::complaint`]: who gives itself another name each time is one
    /// of many.
    pub complaint_lines: usize,
    /// Lines about a peer's connections, of each kind, in [`Limits::complaint`]: it may come and go ten times a second.
    pub connection_lines: usize,
    /// A peer's clock that differs by more is told of (etcd's bound).
    pub clock_drift: Duration,

    /// Read and write deadline of a peer connection (etcd `ConnReadTimeout`), and the time that a request's head may take.
    pub deadline: Duration,
    /// Link heartbeats: a third of the deadline, as etcd.
    pub heartbeat: Duration,
    /// At most one dial of a stream in this time (etcd `DialRetryFrequency`).
    pub redial: Duration,
    /// TCP connect: 1 s + election timeout, etcd's default sum.
    pub dial: Duration,
    /// A POST or a probe without an answer. etcd has none; a stopped peer would hold all workers for ever.
    pub request: Duration,
    /// An idle connection is not used again after this: the other end closes it at 5 s.
    pub idle: Duration,
    /// Time between probes (etcd `proberInterval`): shorter than the deadline, so that the connection is kept.
    pub probe: Duration,

    /// Bytes that one read of a stream asks for.
    pub read_bytes: usize,
    /// Bytes read from a stream before its messages are delivered, when more keeps coming: raft sees a backlog as one
    /// batch, and other tasks get their turn.
    pub read_batch_bytes: usize,
    /// Buffers above this are given back once empty, so that one huge message is not paid for for ever, in bytes.
    pub buffer_kept_bytes: usize,
    /// Bytes of one message, or of one run of entries, on a stream (etcd `readBytesLimit`).
    pub frame_bytes: u64,
    /// Entries of one message on a stream: raft fills a message up to 1 MiB, and an entry takes at least 4 bytes of it.
    pub frame_entries: u64,
    /// The head of an answer to a stream GET, in bytes. etcd's is 200.
    pub head_bytes: usize,
    /// The text of a refusal that we show in the log, in bytes.
    pub refusal_bytes: usize,
    /// A member list, a version or another small answer, in bytes: 10,000 members of 1 KiB.
    pub answer_bytes: usize,

    /// Connections to the peer port at once. Each member holds two streams, four POST workers and a probe: this is 500
    /// members. Where there are more, the oldest that does nothing is closed; a newcomer, if all are at work.
    pub connections: usize,
    /// After a failed accept (out of file descriptors, say): long enough not to spin.
    pub accept_pause: Duration,
    /// What a connection reads ahead, and the longest head of a request, in bytes (Go's `DefaultMaxHeaderBytes` is 1 MiB).
    pub connection_bytes: usize,
    /// A raft message in a POST, in bytes (etcd reads without limit): the largest entry that the node takes, and the rest.
    pub post_bytes: usize,
    /// The time that a request's body may take: 72 MiB at 2.4 MiB a second. A sender that dribbles holds memory.
    pub body: Duration,
    /// Bytes of all bodies of requests that are being read: more are refused with 503.
    pub bodies_bytes: usize,
    /// The raft message before a snapshot, in bytes (etcd `snapshotLimitByte`).
    pub snapshot_message_bytes: u64,
    /// A snapshot that is refused is read for so long, for its sender looks for an answer only after its last byte.
    pub snapshot: Duration,
    /// A lease request's body, and any other small body, in bytes (etcd `maxLeaseHTTPRequestSize`).
    pub small_body_bytes: usize,

    /// The answer to a question about a lease, in bytes: all keys that hang on it (etcd `maxLeaseHTTPResponseSize`).
    pub lease_answer_bytes: usize,
    /// Questions about leases on their way to one URL, each on a connection of its own: at a millisecond each, 64,000 in a
    /// second. The others wait for their turn.
    pub lease_questions: usize,
    /// URLs of leaders to which connections for such questions are kept; those of former leaders give way.
    pub lease_urls: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lane_messages: 4096,
            lane_bytes: 128 << 20,
            inbox_messages: 65_536,
            post_messages: 64,
            post_workers: 4,
            batch_bytes: 1 << 20,
            remotes: 64,
            remote_kept: Duration::from_secs(1),
            complaint: Duration::from_mins(1),
            complaints: 256,
            complaint_lines: 32,
            connection_lines: 10,
            clock_drift: Duration::from_secs(1),
            deadline: Duration::from_secs(5),
            heartbeat: Duration::from_nanos(5_000_000_000 / 3),
            redial: Duration::from_millis(100),
            dial: Duration::from_secs(2),
            request: Duration::from_secs(10),
            idle: Duration::from_secs(4),
            probe: Duration::from_secs(4),
            read_bytes: 64 << 10,
            read_batch_bytes: 1 << 20,
            buffer_kept_bytes: 4 << 20,
            frame_bytes: 512 << 20,
            frame_entries: 1 << 20,
            head_bytes: 16 << 10,
            refusal_bytes: 4 << 10,
            answer_bytes: 10 << 20,
            connections: 4096,
            accept_pause: Duration::from_millis(50),
            connection_bytes: 64 << 10,
            post_bytes: 72 << 20,
            body: Duration::from_secs(30),
            bodies_bytes: 256 << 20,
            snapshot_message_bytes: 64 << 20,
            snapshot: Duration::from_mins(5),
            small_body_bytes: 64 << 10,
            lease_answer_bytes: 100 << 20,
            lease_questions: 64,
            lease_urls: 64,
        }
    }
}
