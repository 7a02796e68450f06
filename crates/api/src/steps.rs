//! Counts and logs slow steps on the runtime's thread: work whose size a client chooses. Ranges and transactions are
//! timed for etcd's metrics anyway; other calls are timed at each poll ([`Steps::watch`]).

use crate::metrics::counters;
use prometheus::{IntCounterVec, Registry};
use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, Instant},
};

const LOGGED_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Steps {
    max: Duration,
    slow: IntCounterVec,
    log: slog::Logger,
    begun: Instant,
    /// When a line may be logged again, in milliseconds since `begun`.
    quiet_until: AtomicU64,
    /// Slow steps since the last line.
    untold: AtomicU64,
}

impl Steps {
    pub(crate) fn new(max: Duration, registry: &Registry, log: slog::Logger) -> Self {
        let help =
            "Steps on the thread that serves all clients that took longer than 5 ms, by what they were.";
        Self {
            max,
            slow: counters(registry, "quorate_slow_steps_total", help, &["step"]),
            log,
            begun: Instant::now(),
            quiet_until: AtomicU64::new(0),
            untold: AtomicU64::new(0),
        }
    }

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

    pub(crate) fn watch<F: Future>(&self, step: &'static str, call: F) -> Watched<'_, F> {
        Watched { steps: self, step, call: Box::pin(call) }
    }
}

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
