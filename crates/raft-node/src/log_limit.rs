//! Rate-limits log lines by their place in the code, since peers can cause a line per message: up to
//! [`Limits::log_lines`] within [`Limits::log_window`]; the rest are counted, and the count is logged with the first
//! line of a later window. Fatal lines are never dropped.

use crate::Limits;
use slog::{Drain, Level, Logger, Never, OwnedKVList, Record};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use types::lock;

type Place = (&'static str, u32);

struct LimitedDrain {
    log: Logger,
    lines: usize,
    window: Duration,
    places: Mutex<HashMap<Place, Window>>,
}

struct Window {
    since: Instant,
    lines: usize,
    left_out: u64,
}

impl Window {
    /// Whether a line may be written now, and how many were dropped before it.
    fn takes(&mut self, now: Instant, lines: usize, window: Duration) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= window {
            let left_out = std::mem::take(&mut self.left_out);
            (self.since, self.lines) = (now, 1);
            return Some(left_out);
        }
        if self.lines >= lines {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(0)
    }
}

pub(crate) fn limited(log: Logger, limits: &Limits) -> Logger {
    let (lines, window) = (limits.log_lines.max(1), limits.log_window);
    Logger::root(LimitedDrain { log, lines, window, places: Mutex::default() }, slog::o!())
}

impl Drain for LimitedDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if record.level() == Level::Critical || !Drain::is_enabled(&self.log, record.level()) {
            return Drain::log(&self.log, record, values);
        }
        let now = Instant::now();
        let due = lock(&self.places)
            .entry((record.file(), record.line()))
            .or_insert(Window { since: now, lines: 0, left_out: 0 })
            .takes(now, self.lines, self.window);
        match due {
            None => return Ok(()),
            Some(0) => {}
            Some(left_out) => slog::warn!(self.log, "lines like the next were left out";
                "times" => left_out, "level" => record.level().as_str()),
        }
        Drain::log(&self.log, record, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Drain for Lines {
        type Ok = ();
        type Err = Never;

        fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
            lock(&self.0).push(record.msg().to_string());
            Ok(())
        }
    }

    #[test]
    fn a_place_writes_a_few_lines_whatever_they_say_and_other_places_their_own() {
        let lines = Lines::default();
        let limits = Limits { log_lines: 3, ..Limits::default() };
        let log = limited(Logger::root(lines.clone(), slog::o!()), &limits);
        for number in 0..1_000 {
            slog::warn!(log, "message {} is wrong", number);
            slog::info!(log, "so it is dropped");
        }
        let written = lock(&lines.0).clone();
        assert_eq!(written.iter().filter(|line| line.contains("is wrong")).count(), 3, "{written:?}");
        assert_eq!(written.len(), 6, "{written:?}");
        slog::crit!(log, "the end");
        assert_eq!(lock(&lines.0).len(), 7);
    }

    #[test]
    fn what_was_left_out_is_counted_for_the_first_line_of_a_later_window() {
        let (start, window) = (Instant::now(), Duration::from_mins(1));
        let mut told = Window { since: start, lines: 0, left_out: 0 };
        let mut takes = |seconds| told.takes(start + Duration::from_secs(seconds), 2, window);
        assert_eq!([takes(0), takes(1), takes(2), takes(59)], [Some(0), Some(0), None, None]);
        assert_eq!([takes(60), takes(61), takes(62)], [Some(2), Some(0), None]);
        assert_eq!(takes(1_000), Some(1));
    }
}
