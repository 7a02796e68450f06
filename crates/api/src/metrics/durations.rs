//! Durations of requests and of storage work, in etcd's buckets.

use super::{buckets, gauge, histogram, register};
use machine::Kind;
use prometheus::{Histogram, HistogramVec, IntGauge, Registry};
use std::time::{Duration, Instant};

pub(crate) struct Durations {
    /// `etcd_server_range_duration_seconds`: the range alone.
    pub(crate) range: Timed,
    /// `etcd_server_request_duration_seconds` of a range, including its barrier.
    pub(crate) range_request: Timed,
    /// `etcd_server_request_duration_seconds` of a read-only transaction.
    pub(crate) read_txn: Timed,
    /// `etcd_server_request_duration_seconds` of log entries, by kind.
    proposals: [Timed; Kind::ALL.len()],
    pub(crate) hash: Histogram,
    pub(crate) hash_kv: Histogram,
    pub(crate) defrag: Histogram,
    /// `etcd_disk_defrag_inflight`: 1 while this member defragments.
    pub(crate) defrag_inflight: IntGauge,
    pub(crate) snapshot: Histogram,
}

/// etcd's label for a kind of entry; that of `Kind::Unknown` if it has none.
fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::ClusterVersion
        | Kind::MemberAttributes
        | Kind::Downgrade
        | Kind::DowngradeTest
        | Kind::Range => Kind::Unknown.name(),
        kind => kind.name(),
    }
}

/// A duration, measured separately for success and failure.
pub(crate) struct Timed {
    ok: Histogram,
    failed: Histogram,
}

impl Durations {
    pub(crate) fn proposal(&self, kind: Kind) -> &Timed {
        &self.proposals[kind as usize]
    }
}

impl Timed {
    /// Records the time since `start`, and returns it.
    pub(crate) fn observe<T, E>(&self, start: Instant, result: &Result<T, E>) -> Duration {
        let (seconds, took) = (if result.is_ok() { &self.ok } else { &self.failed }, start.elapsed());
        seconds.observe(took.as_secs_f64());
        took
    }
}

impl Durations {
    pub(super) fn new(registry: &Registry) -> Self {
        let plain = |name, help, start, count| histogram(registry, name, help, start, count);
        let labelled = |options, labels: &[&str]| {
            register(registry, HistogramVec::new(options, labels).expect("constant, valid labels"))
        };
        let ranges = labelled(
            buckets(
                "etcd_server_range_duration_seconds",
                "The latency distributions of txn.Range",
                0.0001,
                20,
            ),
            &["success"],
        );
        let requests = labelled(
            buckets(
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
            proposals: std::array::from_fn(|number| request(label(Kind::ALL[number]))),
            hash: plain(
                "etcd_mvcc_hash_duration_seconds",
                "The latency distribution of storage hash operation.",
                0.01,
                15,
            ),
            hash_kv: plain(
                "etcd_mvcc_hash_rev_duration_seconds",
                "The latency distribution of storage hash by revision operation.",
                0.01,
                15,
            ),
            defrag: plain(
                "etcd_disk_backend_defrag_duration_seconds",
                "The latency distribution of backend defragmentation.",
                0.1,
                13,
            ),
            defrag_inflight: gauge(
                registry,
                "etcd_disk_defrag_inflight",
                "Whether or not defrag is active on the member. 1 means active, 0 means not.",
            ),
            snapshot: plain(
                "etcd_disk_backend_snapshot_duration_seconds",
                "The latency distribution of backend snapshots.",
                0.01,
                17,
            ),
        }
    }
}
