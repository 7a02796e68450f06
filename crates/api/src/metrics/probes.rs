//! What the checks of `/livez` and `/readyz` found.

use super::{counters, register};
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// Counters by page and check.
pub(crate) struct Probes {
    last: IntGaugeVec,
    all: IntCounterVec,
}

impl Probes {
    pub(super) fn new(registry: &Registry) -> Self {
        let last = Opts::new("etcd_server_healthcheck", "The result of each kind of healthcheck.");
        let last = IntGaugeVec::new(last, &["type", "name"]).expect("constant, valid labels");
        Self {
            last: register(registry, last),
            all: counters(
                registry,
                "etcd_server_healthchecks_total",
                "The total number of each kind of healthcheck.",
                &["type", "name", "status"],
            ),
        }
    }

    /// A check ran.
    pub(crate) fn observe(&self, kind: &str, name: &str, is_ok: bool) {
        self.last.with_label_values(&[kind, name]).set(i64::from(is_ok));
        let status = if is_ok { "success" } else { "error" };
        self.all.with_label_values(&[kind, name, status]).inc();
    }
}
