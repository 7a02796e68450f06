//! etcd's metrics of snapshots between members (`rafthttp/metrics.go`), and one of ours.

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, core::Collector,
    exponential_buckets,
};

/// The label of a sender that is not known to be a member (etcd `unknownSnapshotSender`).
pub(crate) const UNKNOWN_SENDER: &str = "UNKNOWN_SNAPSHOT_SENDER";

/// One direction of snapshots.
pub(crate) struct Direction {
    in_flight: IntGaugeVec,
    succeeded: IntCounterVec,
    failed: IntCounterVec,
    took: HistogramVec,
}

impl Direction {
    /// `verb` is `send` or `receive`; `label` the name of the label with the other member.
    fn new(verb: &str, label: &str) -> Self {
        let options =
            |name: &str, help: String| Opts::new(format!("etcd_network_snapshot_{verb}_{name}"), help);
        let counters = |name: &str, help: String| {
            IntCounterVec::new(options(name, help), &[label]).expect("a constant, valid metric name")
        };
        let buckets = exponential_buckets(0.1, 2.0, 10).expect("constant, valid buckets");
        let took =
            options("total_duration_seconds", format!("Total latency distributions of v3 snapshot {verb}s"));
        Self {
            in_flight: IntGaugeVec::new(
                options("inflights_total", format!("Total number of inflight snapshot {verb}s")),
                &[label],
            )
            .expect("a constant, valid metric name"),
            succeeded: counters("success", format!("Total number of successful snapshot {verb}s")),
            failed: counters("failures", format!("Total number of snapshot {verb} failures")),
            took: HistogramVec::new(HistogramOpts::from(took).buckets(buckets), &[label])
                .expect("a constant, valid metric name"),
        }
    }

    /// One more is under way, until this is dropped.
    pub(crate) fn begin(&self, other: &str) -> InFlight {
        let gauge = self.in_flight.with_label_values(&[other]);
        gauge.inc();
        InFlight(gauge)
    }

    pub(crate) fn succeeded(&self, other: &str, took: Duration) {
        self.succeeded.with_label_values(&[other]).inc();
        self.took.with_label_values(&[other]).observe(took.as_secs_f64());
    }

    pub(crate) fn failed(&self, other: &str) {
        self.failed.with_label_values(&[other]).inc();
    }

    fn collectors(&self) -> [Box<dyn Collector>; 4] {
        [
            Box::new(self.in_flight.clone()),
            Box::new(self.succeeded.clone()),
            Box::new(self.failed.clone()),
            Box::new(self.took.clone()),
        ]
    }
}

/// A snapshot that is under way.
pub(crate) struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

pub(crate) struct SnapshotMeters {
    pub(crate) sending: Direction,
    pub(crate) receiving: Direction,
    sent_bytes: IntCounterVec,
}

impl SnapshotMeters {
    pub(crate) fn new() -> Self {
        let options = Opts::new(
            "quorate_peer_snapshot_sent_bytes_total",
            "The total number of bytes of databases sent to peers, counted while they are sent.",
        );
        Self {
            sending: Direction::new("send", "To"),
            receiving: Direction::new("receive", "From"),
            sent_bytes: IntCounterVec::new(options, &["To"]).expect("a constant, valid metric name"),
        }
    }

    pub(crate) fn sent_bytes(&self, to: &str, bytes: u64) {
        self.sent_bytes.with_label_values(&[to]).inc_by(bytes);
    }

    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let mut all: Vec<Box<dyn Collector>> = vec![Box::new(self.sent_bytes.clone())];
        all.extend(self.sending.collectors());
        all.extend(self.receiving.collectors());
        all
    }
}
