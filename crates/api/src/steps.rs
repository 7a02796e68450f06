//! Steps on the thread that serves everybody that take too long: counted, and logged with what they were.
//!
//! Whoever does work of a size that a client chooses says how long it took. Where a clock is read anyway (ranges and
//! transactions are timed for etcd's metrics) that costs a comparison; other calls are timed a step at a time
//! ([`Steps::watch`]).

use prometheus::{IntCounterVec, Opts, Registry};
use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// Between two lines of the log.
const LOGGED_EVERY: Duration = Duration::from_secs(1);

/// Counts the slow ones.
pub(crate) struct Steps {
    max: Duration,
    slow: IntCounterVec,
    log: slog::Logger,
    begun: Instant,
    /// When a line may be written again, in milliseconds since `begun`.
    quiet_until: AtomicU64,
    /// Since the last line.
    untold: AtomicU64,
}

impl Steps {
    /// Steps longer than `max` are slow.
    pub(crate) fn new(max: Duration, registry: &Registry, log: slog::Logger) -> Self {
        let help =
            "Steps on the thread that serves all clients that took longer than 5 ms, by what they were.";
        let slow = IntCounterVec::new(Opts::new("quorate_slow_steps_total", help), &["step"])
            .expect("a constant, valid name and label");
        registry.register(Box::new(slow.clone())).expect("metric names are registered once");
        Self {
            max,
            slow,
            log,
            begun: Instant::now(),
            quiet_until: AtomicU64::new(0),
            untold: AtomicU64::new(0),
        }
    }

    /// A step took so long.
    pub(crate) fn note(&self, step: &'static str, took: Duration) {
        if took > self.max {
            self.tell(step, took);
        }
    }

    #[cold]
    fn tell(&self, step: &'static str, took: Duration) {
        self.slow.with_label_values(&[step]).inc();
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let quiet_until = self.quiet_until.load(Relaxed);
        let later = now + u64::try_from(LOGGED_EVERY.as_millis()).unwrap_or(u64::MAX);
        let told = now >= quiet_until
            && self.quiet_until.compare_exchange(quiet_until, later, Relaxed, Relaxed).is_ok();
        if told {
            slog::warn!(self.log, "a step held all clients up"; "step" => step, "took" => ?took,
                "expected-duration" => ?self.max, "untold" => self.untold.swap(0, Relaxed));
        } else {
            self.untold.fetch_add(1, Relaxed);
        }
    }

    /// Times every step of a call.
    pub(crate) fn watch<F: Future>(&self, step: &'static str, call: F) -> Watched<'_, F> {
        Watched { steps: self, step, call: Box::pin(call) }
    }
}

/// A call whose steps are timed.
pub(crate) struct Watched<'a, F> {
    steps: &'a Steps,
    step: &'static str,
    call: Pin<Box<F>>,
}

impl<F: Future> Future for Watched<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let begun = Instant::now();
        let polled = self.call.as_mut().poll(cx);
        self.steps.note(self.step, begun.elapsed());
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    struct Lines(Arc<Mutex<Vec<String>>>);

    impl slog::Drain for Lines {
        type Ok = ();
        type Err = slog::Never;

        fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
            self.0.lock().expect("no test panics with it").push(record.msg().to_string());
            Ok(())
        }
    }

    #[tokio::test]
    async fn slow_steps_are_counted_by_name_and_told_once_a_second() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let log = slog::Logger::root(slog::Fuse(Lines(Arc::clone(&lines))), slog::o!());
        let registry = Registry::new();
        let steps = Steps::new(Duration::from_millis(2), &registry, log);
        steps.note("Range", Duration::from_millis(2));
        for _ in 0..5 {
            steps.watch("Lock", async { std::thread::sleep(Duration::from_millis(4)) }).await;
        }
        steps.watch("Lock", async { tokio::time::sleep(Duration::from_millis(10)).await }).await;
        assert_eq!(steps.slow.with_label_values(&["Lock"]).get(), 5, "waiting is no step");
        assert_eq!(steps.slow.with_label_values(&["Range"]).get(), 0);
        assert_eq!(*lines.lock().expect("no test panics with it"), ["a step held all clients up"]);
    }
}
