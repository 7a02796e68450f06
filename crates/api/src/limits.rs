//! Options of the client port: limits, and what is served to whom.

use crate::{
    budget::Options as InFlight, metrics::Shown, slow::WorkLimits, watches::WatchLimits, wire::Wire,
    zip::Compression,
};
use std::{sync::Arc, time::Duration};

/// How much longer a message may be than a log entry, in bytes: etcd's `grpcOverheadBytes`.
const OVERHEAD_BYTES: usize = 512 << 10;

/// Limits for clients. Names and defaults are those of etcd's flags.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `--max-request-bytes`: the largest log entry a request may become; 512 KiB more are accepted on the wire.
    pub max_request_bytes: usize,
    /// `--max-txn-ops`: operations in one level of a transaction.
    pub max_txn_ops: usize,
    /// `--watch-progress-notify-interval`: time without events before a progress notification, if a watcher asked; 100
    /// ms or more, and up to a tenth longer.
    pub watch_progress_interval: Duration,
    /// `--max-concurrent-streams`, for each connection.
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-interval`: silence after which a connection is pinged; zero means never.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`: how long the response to a ping may take.
    pub keepalive_timeout: Duration,
    /// Connections to the client ports; more are closed at once. Default unlimited: the server derives it from
    /// descriptors.
    pub connections_max: usize,
    /// Connections to the metrics ports, likewise.
    pub monitors_max: usize,
    /// Partly received requests, and requests that wait for their turn.
    pub requests: InFlight,
    /// Large answers that clients have not read yet.
    pub answers: InFlight,
    /// Small answers that clients have not read yet.
    pub values: InFlight,
    /// Limits of a single connection.
    pub wire: Arc<Wire>,
    /// The longest response, in bytes without its prefix: 2 GiB − 1, as etcd (`math.MaxInt32`).
    pub send_bytes_max: usize,
    /// Where compression and decompression run.
    pub compression: Compression,
    /// How snapshots are made and sent.
    pub snapshots: Snapshots,
    /// How long a piece may wait for its client before a list releases its View, which holds up compaction. Default 5
    /// s: a client that reads some 100 kB/s never reaches it.
    pub view_hold_max: Duration,
    /// How much work watching may do at once.
    pub watching: WatchLimits,
    /// How much work runs on which thread.
    pub work: WorkLimits,
    /// Which thread reads and writes how much JSON.
    pub json: gateway::WorkLimits,
    /// Switches of the HTTP/1.1 endpoints.
    pub http: Http,
    /// Switches of the `/metrics` page.
    pub shown: Shown,
}

/// What is served over HTTP/1.1, and to whom.
#[derive(Clone, Debug)]
pub struct Http {
    /// `--enable-grpc-gateway`: serve the JSON gateway under `/v3/`.
    pub gateway: bool,
    /// `--cors`: allowed browser origins; an empty list, or one with `*`, allows all.
    pub origins: Vec<String>,
    /// `--host-whitelist`: allowed host names; an empty list, or one with `*`, allows all.
    pub hosts: Vec<String>,
}

impl Default for Http {
    fn default() -> Self {
        Self { gateway: true, origins: vec!["*".to_owned()], hosts: vec!["*".to_owned()] }
    }
}

impl Limits {
    /// The longest accepted message, compressed or not, in bytes.
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.max_request_bytes + OVERHEAD_BYTES
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_request_bytes: 3 << 19, // 1.5 MiB
            max_txn_ops: 128,
            watch_progress_interval: Duration::from_mins(10),
            max_concurrent_streams: u32::MAX,
            keepalive_interval: Duration::from_hours(2),
            keepalive_timeout: Duration::from_secs(20),
            connections_max: usize::MAX,
            monitors_max: usize::MAX,
            requests: InFlight::default(),
            answers: InFlight::default(),
            values: InFlight::values(),
            wire: Arc::default(),
            send_bytes_max: i32::MAX as usize,
            compression: Compression::default(),
            snapshots: Snapshots::default(),
            view_hold_max: Duration::from_secs(5),
            watching: WatchLimits::default(),
            work: WorkLimits::default(),
            json: gateway::WorkLimits::default(),
            http: Http::default(),
            shown: Shown::default(),
        }
    }
}

/// How snapshots are made and sent. Tests may draw smaller values than the defaults.
#[derive(Clone, Copy, Debug)]
pub struct Snapshots {
    /// Snapshots sent at one time; more are refused. Default 64, 32 MiB for all: a bound for errors and attacks.
    pub sent_max: usize,
    /// Bytes of rows written in one turn, at least a row. Default 256 KiB: half a millisecond.
    pub step_bytes: u64,
    /// Bytes of rows measured in one turn, at least a row. Default 8 MiB: some milliseconds.
    pub measured_bytes: u64,
    /// How fast a client must read a snapshot, which keeps overwritten data on disk. Default 1 MiB a minute.
    pub pace: Pace,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self {
            sent_max: 64,
            step_bytes: 256 << 10,
            measured_bytes: 8 << 20,
            pace: Pace { bytes_min: 1 << 20, window: Duration::from_mins(1) },
        }
    }
}

/// The slowest allowed reading speed.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes to be read within each `window`.
    pub bytes_min: u64,
    /// Length of a window; only time spent waiting for the client counts.
    pub window: Duration,
}
