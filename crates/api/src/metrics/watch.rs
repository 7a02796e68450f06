//! Series of watchers and watch streams, under etcd's names.

use super::{counter, gauge, histogram};
use ::watch::Counts;
use prometheus::{Histogram, IntCounter, IntGauge, Registry};
use std::time::Instant;

pub(crate) struct Watch {
    streams: IntGauge,
    watchers: IntGauge,
    slow: IntGauge,
    pending: IntGauge,
    events: IntCounter,
    sent: Histogram,
    sent_per_event: Histogram,
    control: Histogram,
    progress: Histogram,
}

impl Watch {
    pub(super) fn new(registry: &Registry) -> Self {
        let plain = |name, help| gauge(registry, name, help);
        let duration = |name, help| histogram(registry, name, help, 0.001, 14);
        Self {
            streams: plain("etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams."),
            watchers: plain("etcd_debugging_mvcc_watcher_total", "Total number of watchers."),
            slow: plain("etcd_debugging_mvcc_slow_watcher_total", "Total number of unsynced slow watchers."),
            pending: plain(
                "etcd_debugging_mvcc_pending_events_total",
                "Total number of pending events to be sent.",
            ),
            events: counter(
                registry,
                "etcd_debugging_mvcc_events_total",
                "Total number of events sent by this member.",
            ),
            sent: duration(
                "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
                "The total duration in seconds of running through the send loop watch stream response all events.",
            ),
            sent_per_event: duration(
                "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
                "The average duration in seconds of running through the send loop watch stream response, per event.",
            ),
            control: duration(
                "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
                "The total duration in seconds of running through the send loop control stream response.",
            ),
            progress: duration(
                "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
                "The total duration in seconds of running through the progress loop control stream response.",
            ),
        }
    }

    /// Records a frame of responses: the time since `begun`, and its number of events.
    pub(crate) fn observe(&self, begun: Instant, events: usize) {
        let seconds = begun.elapsed().as_secs_f64();
        if events == 0 {
            self.control.observe(seconds);
            return;
        }
        self.sent.observe(seconds);
        self.sent_per_event.observe(seconds / f64::from(u32::try_from(events).unwrap_or(u32::MAX)));
    }

    pub(crate) fn observe_progress(&self, begun: Instant) {
        self.progress.observe(begun.elapsed().as_secs_f64());
    }

    pub(super) fn refresh(&self, counts: Counts) {
        self.streams.set(counts.streams as i64);
        self.watchers.set(counts.watchers as i64);
        self.slow.set(counts.slow as i64);
        self.pending.set(counts.pending as i64);
        self.events.reset();
        self.events.inc_by(counts.events);
    }
}
