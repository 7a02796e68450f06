//! Which lines are written: the first of each second from one place in the code, then one in so many, as etcd's zap
//! does; the next line says how many were left out. A client gains nothing by varying the text. Critical lines are
//! always written.

use slog::{Level, Record};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampling {
    /// Lines in a row. Default 100, etcd's `Initial`.
    pub(crate) first: u64,
    /// Then every so-and-so-many-th. Default 100, etcd's `Thereafter`.
    pub(crate) thereafter: u64,
    /// After this it begins anew. Default one second, zap's tick.
    pub(crate) tick: Duration,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { first: 100, thereafter: 100, tick: Duration::from_secs(1) }
    }
}

#[derive(Debug)]
struct Place {
    since: Instant,
    lines: u64,
    /// Left out since the last line that was written.
    left_out: u64,
}

/// Counts lines by place. The table is as large as there are places in the code.
#[derive(Debug)]
pub(super) struct Sampler {
    sampling: Sampling,
    places: Mutex<HashMap<(&'static str, u32), Place>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write it; so many like it were left out before.
    Write(u64),
    LeaveOut,
}

impl Sampler {
    pub(super) fn new(sampling: Sampling) -> Self {
        Self { sampling, places: Mutex::default() }
    }

    pub(super) fn judge(&self, record: &Record<'_>) -> Verdict {
        if record.level() == Level::Critical {
            return Verdict::Write(0);
        }
        self.count((record.file(), record.line()), Instant::now())
    }

    fn count(&self, place: (&'static str, u32), now: Instant) -> Verdict {
        let Sampling { first, thereafter, tick } = self.sampling;
        let mut places = types::lock(&self.places);
        let place = places.entry(place).or_insert(Place { since: now, lines: 0, left_out: 0 });
        if now.saturating_duration_since(place.since) >= tick {
            place.since = now;
            place.lines = 0;
        }
        place.lines += 1;
        if place.lines > first && !(place.lines - first).is_multiple_of(thereafter.max(1)) {
            place.left_out += 1;
            return Verdict::LeaveOut;
        }
        Verdict::Write(std::mem::take(&mut place.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_second_and_one_in_so_many_are_written_and_none_is_forgotten() {
        let sampling = Sampling { first: 3, thereafter: 10, tick: Duration::from_secs(1) };
        let sampler = Sampler::new(sampling);
        let start = Instant::now();
        let (mut written, mut told) = (0, 0);
        let mut run = |lines: u64, after: Duration| {
            for _ in 0..lines {
                if let Verdict::Write(left_out) = sampler.count(("a.rs", 1), start + after) {
                    (written, told) = (written + 1, told + left_out);
                }
            }
            (written, told)
        };
        assert_eq!(run(3, Duration::ZERO), (3, 0));
        assert_eq!(run(30, Duration::ZERO), (6, 27));
        assert_eq!(run(5, Duration::ZERO), (6, 27));
        // A second later it begins anew, and says what was left out.
        assert_eq!(run(1, Duration::from_secs(1)), (7, 32));
        // Another place has its own count.
        assert_eq!(sampler.count(("a.rs", 2), start), Verdict::Write(0));
    }
}
