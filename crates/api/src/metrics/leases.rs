//! Counters of granted, renewed, revoked and expired leases, kept by the node.

use super::counter;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, Registry,
    core::{Collector, Desc},
    proto::{Bucket, Histogram as Histo, MetricFamily},
};
use raft_node::{LeaseCounts, TTL_BUCKETS};
use std::sync::{Arc, Mutex};
use types::lock;

pub(super) struct Leases {
    granted: IntCounter,
    renewed: IntCounter,
    revoked: IntCounter,
    expired: IntCounter,
    ttl: Ttl,
    seen: Mutex<LeaseCounts>,
}

impl Leases {
    pub(super) fn new(registry: &Registry) -> Self {
        let plain = |name, help| counter(registry, name, help);
        Self {
            granted: plain("etcd_debugging_lease_granted_total", "The total number of granted leases."),
            renewed: plain(
                "etcd_debugging_lease_renewed_total",
                "The number of renewed leases seen by the leader.",
            ),
            revoked: plain("etcd_debugging_lease_revoked_total", "The total number of revoked leases."),
            expired: plain(
                "etcd_debugging_server_lease_expired_total",
                "The total number of expired leases.",
            ),
            ttl: super::register(registry, Ttl::new()),
            seen: Mutex::default(),
        }
    }

    pub(super) fn refresh(&self, counts: LeaseCounts) {
        let mut seen = lock(&self.seen);
        self.granted.inc_by(counts.granted.saturating_sub(seen.granted));
        self.renewed.inc_by(counts.renewed.saturating_sub(seen.renewed));
        self.revoked.inc_by(counts.revoked.saturating_sub(seen.revoked));
        self.expired.inc_by(counts.expired.saturating_sub(seen.expired));
        *lock(&self.ttl.counts) = counts;
        *seen = counts;
    }
}

/// A histogram of granted TTLs, with counts kept by the node.
#[derive(Clone)]
struct Ttl {
    counts: Arc<Mutex<LeaseCounts>>,
    /// Supplies name and help; it never observes anything.
    name: Histogram,
}

impl Ttl {
    fn new() -> Self {
        let options =
            HistogramOpts::new("etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs.");
        let name = Histogram::with_opts(options).expect("a constant, valid metric name");
        Self { counts: Arc::default(), name }
    }
}

impl Collector for Ttl {
    fn desc(&self) -> Vec<&Desc> {
        self.name.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let counts = *lock(&self.counts);
        let mut families = self.name.collect();
        for metric in families.iter_mut().flat_map(MetricFamily::mut_metric) {
            metric.set_histogram(histogram(&counts));
        }
        families
    }
}

fn histogram(counts: &LeaseCounts) -> Histo {
    let mut below = 0;
    let buckets = (0..TTL_BUCKETS).map(|at| {
        below += counts.ttl_buckets[at];
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(2f64.powi(i32::try_from(at).expect("two dozen")));
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut histogram = Histo::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counts.granted);
    #[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floats")]
    histogram.set_sample_sum(counts.ttl_sum as f64);
    histogram
}
