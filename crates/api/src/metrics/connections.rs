//! Client connections (open, limit, refused), and the bytes that they hold.

use super::{counter, counters, gauge, gauges, raise};
use crate::budget::Budget;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

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

pub(super) struct InFlight {
    bytes: IntGaugeVec,
    refused: IntCounterVec,
}

impl InFlight {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            bytes: gauges(
                registry,
                "quorate_in_flight_bytes",
                "The bytes of large requests and answers in flight.",
                &["kind"],
            ),
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
            raise(&self.refused.with_label_values(&[kind]), budget.refused() as u64);
        }
    }
}
