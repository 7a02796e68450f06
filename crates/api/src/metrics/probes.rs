//! Results of the `/livez` and `/readyz` checks.

use super::{counters, gauges};
use prometheus::{IntCounterVec, IntGaugeVec, Registry};

pub(crate) struct Probes {
    last: IntGaugeVec,
    all: IntCounterVec,
}

impl Probes {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            last: gauges(
                registry,
                "etcd_server_healthcheck",
                "The result of each kind of healthcheck.",
                &["type", "name"],
            ),
            all: counters(
                registry,
                "etcd_server_healthchecks_total",
                "The total number of each kind of healthcheck.",
                &["type", "name", "status"],
            ),
        }
    }

    /// Records a check's result; `kind` is the page.
    pub(crate) fn observe(&self, kind: &str, name: &str, is_ok: bool) {
        self.last.with_label_values(&[kind, name]).set(i64::from(is_ok));
        let status = if is_ok { "success" } else { "error" };
        self.all.with_label_values(&[kind, name, status]).inc();
    }
}
