//! How many clients are connected, and who is let in.
//!
//! Every connection holds a file descriptor. Those that are there go on whatever happens; one beyond the limit is taken
//! and closed at once, so that its client can try the next member instead of waiting in the kernel's queue. What the
//! store and the peers need is not given away: the composer sets the limits below what the process may hold.

use crate::{Traffic, lock, metrics};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The log tells of refused connections at most this often; the metric counts them all.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// Connections of one kind: those of clients, or those of scrapers.
#[derive(Debug)]
struct Seats {
    open: AtomicUsize,
    max: usize,
}

/// All connections to this member's ports for clients and for metrics.
pub(crate) struct Connections {
    clients: Arc<Seats>,
    monitors: Arc<Seats>,
    series: metrics::Connections,
    told: Mutex<Option<Instant>>,
}

/// A connection's place; the next one may have it when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Seats>);

#[cfg(test)]
impl Seat {
    /// A place among no others.
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
    /// At most so many of each kind.
    pub(crate) fn new(clients_max: usize, monitors_max: usize, series: metrics::Connections) -> Self {
        let seats = |max| Arc::new(Seats { open: AtomicUsize::new(0), max });
        series.limit.set(i64::try_from(clients_max).unwrap_or(i64::MAX));
        Self { clients: seats(clients_max), monitors: seats(monitors_max), series, told: Mutex::default() }
    }

    /// A place for a connection to a port for `traffic`; `None` when all are taken.
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

    /// Brings the gauge up to date.
    pub(crate) fn refresh(&self) {
        self.series.open.set(i64::try_from(self.clients.open.load(Relaxed)).unwrap_or(i64::MAX));
    }
}
