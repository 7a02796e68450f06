//! Connections of clients: how many there are, may be, and were refused; and the bytes that they hold.

use super::{counter, counters, gauge, register};
use crate::budget::Budget;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// The series.
pub(crate) struct Connections {
    pub(crate) open: IntGauge,
    pub(crate) limit: IntGauge,
    pub(crate) refused: IntCounter,
}

impl Connections {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            open: gauge(registry, "quorate_client_connections", "The current number of client connections."),
            limit: gauge(
                registry,
                "quorate_client_connections_limit",
                "The number of client connections beyond which new ones are closed at once.",
            ),
            refused: counter(
                registry,
                "quorate_client_connections_refused_total",
                "The total number of connections that were closed at once because too many were open.",
            ),
        }
    }
}

/// Bytes in flight.
pub(super) struct InFlight {
    bytes: IntGaugeVec,
    refused: IntCounterVec,
}

impl InFlight {
    pub(super) fn new(registry: &Registry) -> Self {
        let bytes =
            Opts::new("quorate_in_flight_bytes", "The bytes of large requests and answers in flight.");
        let bytes = IntGaugeVec::new(bytes, &["kind"]).expect("constant, valid labels");
        Self {
            bytes: register(registry, bytes),
            refused: counters(
                registry,
                "quorate_in_flight_refused_total",
                "The total number of requests and answers that were refused or taken back for want of room.",
                &["kind"],
            ),
        }
    }

    pub(super) fn refresh(&self, budgets: [(&str, &Budget); 3]) {
        for (kind, budget) in budgets {
            self.bytes.with_label_values(&[kind]).set(i64::try_from(budget.used()).unwrap_or(i64::MAX));
            let refused = self.refused.with_label_values(&[kind]);
            refused.inc_by((budget.refused() as u64).saturating_sub(refused.get()));
        }
    }
}
