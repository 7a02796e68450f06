//! Every limit of the transport, with its unit, reason and default. "etcd" names the constant that it follows.

use std::time::Duration;

/// The limits of the transport. A member runs with [`Limits::default`]; tests use smaller ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages waiting on one stream (etcd `streamBufSize`). More are dropped, and raft is told.
    pub lane_messages: usize,
    /// Bytes of entries waiting on one stream, at least one message: seconds of a fast disk. etcd has no such limit.
    pub lane_bytes: usize,
    /// Messages between `send` and the router: the lanes of eight peers. Only full if the runtime hangs.
    pub inbox_messages: usize,
    /// Messages waiting for a POST to one peer (etcd `pipelineBufSize`).
    pub post_messages: usize,
    /// POSTs in flight to one peer (etcd `connPerPipeline`).
    pub post_workers: usize,
    /// Bytes that a lane encodes at a time: one write, and not a whole backlog for a slow socket.
    pub batch_bytes: usize,
    /// Unknown senders that are answered by POST, such as joining members. A new one replaces the oldest.
    pub remotes: usize,
    /// How long an unknown sender is kept at least: a joining member asks ten times a second.
    pub remote_kept: Duration,
    /// How long the connections with a removed member are kept: it shall learn of its removal from the log.
    pub farewell: Duration,

    /// Time between log lines about the same fault of the same sender; lines left out are counted.
    pub complaint: Duration,
    /// Faults remembered for that: enough for every fault of every member of a large cluster.
    pub complaints: usize,
    /// Log lines about the same fault of all senders in [`Limits::complaint`]: a sender can change its name.
    pub complaint_lines: usize,
    /// Log lines of each kind about a peer's connections in [`Limits::complaint`]: they may change ten times a second.
    pub connection_lines: usize,
    /// The clock drift of a peer from which it is logged (etcd's value).
    pub clock_drift: Duration,

    /// The deadline of reads and writes of a peer connection (etcd `ConnReadTimeout`), and of a request's head.
    pub deadline: Duration,
    /// Time between link heartbeats: a third of the deadline, as in etcd.
    pub heartbeat: Duration,
    /// Time between dials of a stream (etcd `DialRetryFrequency`).
    pub redial: Duration,
    /// The timeout of a TCP connect: etcd's default, 1 s + election timeout.
    pub dial: Duration,
    /// The timeout of a POST or a probe. etcd has none; a stopped peer would occupy all workers for ever.
    pub request: Duration,
    /// How long an idle connection is used again: the other end closes it after 5 s.
    pub idle: Duration,
    /// Time between probes (etcd `proberInterval`): shorter than the deadline, so the connection is kept.
    pub probe: Duration,

    /// The size of one read of a stream, in bytes.
    pub read_bytes: usize,
    /// Bytes read from a stream before its messages are delivered, while more come: a backlog is one batch.
    pub read_batch_bytes: usize,
    /// Empty buffers above this size are freed, in bytes: one huge message must not hold memory for ever.
    pub buffer_kept_bytes: usize,
    /// Bytes of one message, or of the entries of one frame, on a stream (etcd `readBytesLimit`).
    pub frame_bytes: u64,
    /// Entries of one message on a stream: raft fills a message up to 1 MiB, and an entry takes at least 4 bytes.
    pub frame_entries: u64,
    /// The head of the response to a stream GET, in bytes. etcd sends 200.
    pub head_bytes: usize,
    /// The text of a refusal in the log, in bytes.
    pub refusal_bytes: usize,
    /// The response with a member list, version or the like, in bytes: 10,000 members of 1 KiB.
    pub answer_bytes: usize,

    /// Connections to the peer port: seven a member, enough for 500. A new one replaces the oldest idle one, or is
    /// refused.
    pub connections: usize,
    /// The pause after a failed accept, such as for lack of file descriptors.
    pub accept_pause: Duration,
    /// The read buffer of a connection, and the longest head of a request, in bytes (Go's `DefaultMaxHeaderBytes` is 1
    /// MiB).
    pub connection_bytes: usize,
    /// A raft message in a POST, in bytes: the largest entry that the node accepts, and more. etcd has no limit.
    pub post_bytes: usize,
    /// How long a request's body may take: 72 MiB at 2.4 MiB/s. A slow sender holds memory.
    pub body: Duration,
    /// Bytes of all request bodies that are being read; more are refused with 503.
    pub bodies_bytes: usize,
    /// The raft message before a snapshot, in bytes (etcd `snapshotLimitByte`).
    pub snapshot_message_bytes: u64,
    /// Snapshots sent at one time, to all peers together: each reads the whole store. Others wait, first come first served.
    pub snapshots_sent: usize,
    /// Snapshots received at one time: each replaces the whole store. Another one is refused.
    pub snapshots_received: usize,
    /// The pause before a failed snapshot is reported to raft, or a refused one answered: raft, here and there, makes the
    /// next one with the next heartbeat.
    pub snapshot_retry: Duration,
    /// How long the receiver of a snapshot may take nothing before it is given up: a full disk's writes stall for seconds.
    pub snapshot_stall: Duration,
    /// How long the receiver of a snapshot may take to answer after the last byte: it imports the database first.
    pub snapshot_answer: Duration,
    /// Time between log lines that say how much of a snapshot was sent.
    pub snapshot_progress: Duration,
    /// The body of a lease request or another small request, in bytes (etcd `maxLeaseHTTPRequestSize`).
    pub small_body_bytes: usize,

    /// The response to a lease request, in bytes: all keys of the lease (etcd `maxLeaseHTTPResponseSize`).
    pub lease_answer_bytes: usize,
    /// Lease requests in flight to one URL, a connection each: 64,000 per second at a millisecond. Others wait.
    pub lease_questions: usize,
    /// URLs to which such connections are kept; those of former leaders are dropped.
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
            farewell: Duration::from_secs(1),
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
            snapshots_sent: 2,
            snapshots_received: 1,
            snapshot_retry: Duration::from_secs(1),
            snapshot_stall: Duration::from_mins(1),
            snapshot_answer: Duration::from_mins(30),
            snapshot_progress: Duration::from_secs(10),
            small_body_bytes: 64 << 10,
            lease_answer_bytes: 100 << 20,
            lease_questions: 64,
            lease_urls: 64,
        }
    }
}

impl Limits {
    /// The buffer of an HTTP connection, in bytes: hyper accepts no smaller one.
    pub(crate) fn http_buffer(&self) -> usize {
        self.connection_bytes.max(8 << 10)
    }
}
