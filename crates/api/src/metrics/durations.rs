//! How long things take, in etcd's buckets.

use super::{gauge, register};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntGauge, Registry, exponential_buckets};
use proto::etcdserverpb::InternalRaftRequest;
use std::time::{Duration, Instant};

/// Durations of the reads that this member serves itself.
pub(crate) struct Durations {
    /// `etcd_server_range_duration_seconds`: the range alone.
    pub(crate) range: Timed,
    /// `etcd_server_request_duration_seconds`, of a range with what comes before it.
    pub(crate) range_request: Timed,
    /// The same of a transaction that only reads.
    pub(crate) read_txn: Timed,
    /// The same of what goes through the log, by number in [`PROPOSALS`].
    proposals: [Timed; PROPOSALS.len()],
    /// `etcd_mvcc_hash_duration_seconds`.
    pub(crate) hash: Histogram,
    /// `etcd_mvcc_hash_rev_duration_seconds`.
    pub(crate) hash_kv: Histogram,
    /// `etcd_disk_backend_defrag_duration_seconds`.
    pub(crate) defrag: Histogram,
    /// `etcd_disk_defrag_inflight`: 1 while space is being given back.
    pub(crate) defrag_inflight: IntGauge,
    /// `etcd_disk_backend_snapshot_duration_seconds`.
    pub(crate) snapshot: Histogram,
}

/// Kinds of proposals, as etcd names them.
const PROPOSALS: [&str; 9] = [
    "Put",
    "DeleteRange",
    "Txn",
    "Compaction",
    "LeaseGrant",
    "LeaseRevoke",
    "LeaseCheckpoint",
    "Alarm",
    "Unknown",
];

/// A duration, apart for what succeeds and what fails.
pub(crate) struct Timed {
    ok: Histogram,
    failed: Histogram,
}

impl Durations {
    /// Where a proposal's duration goes.
    pub(crate) fn proposal(&self, request: &InternalRaftRequest) -> &Timed {
        let kinds = [
            request.put.is_some(),
            request.delete_range.is_some(),
            request.txn.is_some(),
            request.compaction.is_some(),
            request.lease_grant.is_some(),
            request.lease_revoke.is_some(),
            request.lease_checkpoint.is_some(),
            request.alarm.is_some(),
        ];
        let kind = kinds.iter().position(|is_it| *is_it).unwrap_or(PROPOSALS.len() - 1);
        &self.proposals[kind]
    }
}

impl Timed {
    /// Counts what began at `start` and ends now; says how long it took.
    pub(crate) fn observe<T, E>(&self, start: Instant, result: &Result<T, E>) -> Duration {
        let (seconds, took) = (if result.is_ok() { &self.ok } else { &self.failed }, start.elapsed());
        seconds.observe(took.as_secs_f64());
        took
    }
}

/// `count` buckets from `start` seconds up, each twice the one before.
fn options(name: &str, help: &str, start: f64, count: usize) -> HistogramOpts {
    let buckets = exponential_buckets(start, 2.0, count).expect("constant, valid buckets");
    HistogramOpts::new(name, help).buckets(buckets)
}

impl Durations {
    pub(super) fn new(registry: &Registry) -> Self {
        let plain = |options| {
            register(registry, Histogram::with_opts(options).expect("a constant, valid metric name"))
        };
        let labelled = |options, labels: &[&str]| {
            register(registry, HistogramVec::new(options, labels).expect("constant, valid labels"))
        };
        let ranges = labelled(
            options(
                "etcd_server_range_duration_seconds",
                "The latency distributions of txn.Range",
                0.0001,
                20,
            ),
            &["success"],
        );
        let requests = labelled(
            options(
                "etcd_server_request_duration_seconds",
                "Response latency distribution in seconds for each type.",
                0.001,
                14,
            ),
            &["type", "success"],
        );
        let request = |kind| Timed {
            ok: requests.with_label_values(&[kind, "true"]),
            failed: requests.with_label_values(&[kind, "false"]),
        };
        Self {
            range: Timed {
                ok: ranges.with_label_values(&["true"]),
                failed: ranges.with_label_values(&["false"]),
            },
            range_request: request("Range"),
            read_txn: request("ReadonlyTxn"),
            proposals: PROPOSALS.map(request),
            hash: plain(options(
                "etcd_mvcc_hash_duration_seconds",
                "The latency distribution of storage hash operation.",
                0.01,
                15,
            )),
            hash_kv: plain(options(
                "etcd_mvcc_hash_rev_duration_seconds",
                "The latency distribution of storage hash by revision operation.",
                0.01,
                15,
            )),
            defrag: plain(options(
                "etcd_disk_backend_defrag_duration_seconds",
                "The latency distribution of backend defragmentation.",
                0.1,
                13,
            )),
            defrag_inflight: gauge(
                registry,
                "etcd_disk_defrag_inflight",
                "Whether or not defrag is active on the member. 1 means active, 0 means not.",
            ),
            snapshot: plain(options(
                "etcd_disk_backend_snapshot_duration_seconds",
                "The latency distribution of backend snapshots.",
                0.01,
                17,
            )),
        }
    }
}
