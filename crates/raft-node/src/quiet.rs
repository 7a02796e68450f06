//! A few lines of the same place in the code, and then their number.
//!
//! What a peer sends can make the node, and raft-rs, log a line a message. Here every place in the code may log
//! [`Limits::log_lines`] lines in [`Limits::log_window`], whatever they say; the rest is counted, and the count is told with
//! the first line of a later window. What ends the process is never left out.

use crate::Limits;
use crate::front::lock;
use slog::{Drain, Level, Logger, Never, OwnedKVList, Record};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where in the code a line is written: there are as many as the code has.
type Place = (&'static str, u32);

struct Quiet {
    log: Logger,
    lines: usize,
    window: Duration,
    places: Mutex<HashMap<Place, Told>>,
}

struct Told {
    since: Instant,
    lines: usize,
    left_out: u64,
}

impl Told {
    /// Whether a line of now is to be written, and how many were left out before it.
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

/// A logger whose places write no more lines than the limits say.
pub(crate) fn limited(log: Logger, limits: &Limits) -> Logger {
    let (lines, window) = (limits.log_lines.max(1), limits.log_window);
    Logger::root(Quiet { log, lines, window, places: Mutex::default() }, slog::o!())
}

impl Drain for Quiet {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if record.level() == Level::Critical || !Drain::is_enabled(&self.log, record.level()) {
            return Drain::log(&self.log, record, values);
        }
        let now = Instant::now();
        let due = lock(&self.places)
            .entry((record.file(), record.line()))
            .or_insert(Told { since: now, lines: 0, left_out: 0 })
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
        let mut told = Told { since: start, lines: 0, left_out: 0 };
        let mut takes = |seconds| told.takes(start + Duration::from_secs(seconds), 2, window);
        assert_eq!([takes(0), takes(1), takes(2), takes(59)], [Some(0), Some(0), None, None]);
        assert_eq!([takes(60), takes(61), takes(62)], [Some(2), Some(0), None]);
        assert_eq!(takes(1_000), Some(1));
    }
}
