//! Limits how many clients are connected, since each takes a file descriptor. At the limit a new connection is accepted
//! and closed at once, so that its client tries the next member instead of waiting in the kernel's queue.

use crate::metrics;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use types::lock;

/// At most one log line about refused connections in this time; the metric counts all.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// What a port serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Both gRPC and HTTP/1.1.
    All,
    /// Only gRPC: etcd's client URLs if HTTP has its own URLs.
    Grpc,
    /// HTTP/1.1 without gRPC: `--listen-client-http-urls`.
    Http,
    /// `/metrics` and the health endpoints, without access control: `--listen-metrics-urls`.
    Metrics,
}

impl Traffic {
    /// The name in etcd's log.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "grpc+http",
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Metrics => "metrics",
        }
    }
}

#[derive(Debug)]
struct Seats {
    open: AtomicUsize,
    max: usize,
}

pub(crate) struct Connections {
    clients: Arc<Seats>,
    monitors: Arc<Seats>,
    series: metrics::Connections,
    told: Mutex<Option<Instant>>,
}

/// A permit for one connection, given back on drop.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Seats>);

#[cfg(test)]
impl Seat {
    pub(crate) fn free() -> Self {
        Self(Arc::new(Seats { open: AtomicUsize::new(1), max: 1 }))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Connections {
    pub(crate) fn new(clients_max: usize, monitors_max: usize, series: metrics::Connections) -> Self {
        let seats = |max| Arc::new(Seats { open: AtomicUsize::new(0), max });
        series.limit.set(i64::try_from(clients_max).unwrap_or(i64::MAX));
        Self { clients: seats(clients_max), monitors: seats(monitors_max), series, told: Mutex::default() }
    }

    /// Takes a permit for a connection to a port for `traffic`; `None` if there are none left.
    pub(crate) fn seat(&self, traffic: Traffic, log: &slog::Logger) -> Option<Seat> {
        let seats = if traffic == Traffic::Metrics { &self.monitors } else { &self.clients };
        let taken = seats.open.fetch_update(Relaxed, Relaxed, |open| (open < seats.max).then_some(open + 1));
        if taken.is_ok() {
            return Some(Seat(Arc::clone(seats)));
        }
        self.series.refused.inc();
        let mut told = lock(&self.told);
        if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            *told = Some(Instant::now());
            slog::warn!(log, "refusing connections: as many are open as there are file descriptors for";
                "traffic" => traffic.name(), "connections-max" => seats.max,
                "refused-total" => self.series.refused.get());
        }
        None
    }

    pub(crate) fn refresh(&self) {
        self.series.open.set(i64::try_from(self.clients.open.load(Relaxed)).unwrap_or(i64::MAX));
    }
}
