//! Limits the log lines about faults, which a faulty peer repeats ten times a second. Further lines of the same sender
//! and fault are counted until [`Limits::complaint`] has passed, and the next line has the count. Lines about one fault
//! are also limited over all senders, because a sender can change its name.

use std::{
    collections::BTreeMap,
    mem,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::limits::Limits;

type Fault = (String, &'static str);

#[derive(Debug)]
struct Window {
    at: Instant,
    lines: usize,
    left_out: u64,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { at: now, lines: 0, left_out: 0 }
    }

    fn has_room(&self, now: Instant, window: Duration, lines_max: usize) -> bool {
        self.lines < lines_max || now.saturating_duration_since(self.at) >= window
    }

    /// Counts a line that is written; returns how many were left out before it.
    fn write(&mut self, now: Instant, window: Duration) -> u64 {
        if now.saturating_duration_since(self.at) >= window {
            (self.at, self.lines) = (now, 0);
        }
        self.lines += 1;
        mem::take(&mut self.left_out)
    }
}

#[derive(Debug, Default)]
struct Windows {
    faults: BTreeMap<Fault, Window>,
    /// By fault, over all senders: bounded by the texts in the code.
    kinds: BTreeMap<&'static str, Window>,
}

#[derive(Debug)]
pub(crate) struct LogLimiter {
    windows: Mutex<Windows>,
    window: Duration,
    faults_max: usize,
    kind_lines_max: usize,
}

impl LogLimiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            windows: Mutex::default(),
            window: limits.complaint,
            faults_max: limits.complaints.max(1),
            kind_lines_max: limits.complaint_lines.max(1),
        }
    }

    /// If a line may be written, of `lines_max` in a window: how many were left out since the last one.
    pub(crate) fn due(&self, who: &str, what: &'static str, now: Instant, lines_max: usize) -> Option<u64> {
        let mut windows = types::lock(&self.windows);
        let Windows { faults, kinds } = &mut *windows;
        let fault = (who.to_owned(), what);
        let known = faults.get_mut(&fault);
        if let Some(told) = known.filter(|told| !told.has_room(now, self.window, lines_max)) {
            told.left_out += 1;
            return None;
        }
        let kind = kinds.entry(what).or_insert_with(|| Window::new(now));
        if !kind.has_room(now, self.window, self.kind_lines_max) {
            kind.left_out += 1;
            return None;
        }
        let of_others = kind.write(now, self.window);
        if faults.len() >= self.faults_max && !faults.contains_key(&fault) {
            let oldest = faults.iter().min_by_key(|(_, told)| told.at).map(|(fault, _)| fault.clone());
            oldest.and_then(|fault| faults.remove(&fault));
        }
        let told = faults.entry(fault).or_insert_with(|| Window::new(now));
        Some(told.write(now, self.window) + of_others)
    }
}

/// The last few reasons of failure, each logged once until there is a success.
#[derive(Debug, Default)]
pub(crate) struct Reasons {
    told: Vec<String>,
}

/// Reasons remembered: a peer has few URLs, and each fails in few ways.
const REASONS_MAX: usize = 8;

impl Reasons {
    /// Whether this reason was not logged yet. Counts it as logged.
    pub(crate) fn is_new(&mut self, reason: &str) -> bool {
        if self.told.iter().any(|told| told == reason) {
            return false;
        }
        if self.told.len() == REASONS_MAX {
            self.told.remove(0);
        }
        self.told.push(reason.to_owned());
        true
    }

    /// Whether nothing has failed since the last success.
    pub(crate) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    pub(crate) fn forget(&mut self) {
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_mins(1);

    #[test]
    fn a_fault_is_told_once_and_then_with_its_count() {
        let (limiter, start) = (LogLimiter::new(&Limits::default()), Instant::now());
        let due = |who, what, after| limiter.due(who, what, start + after, 1);
        assert_eq!(due("a", "garbage", Duration::ZERO), Some(0));
        for tick in 1..10 {
            assert_eq!(due("a", "garbage", Duration::from_millis(100 * tick)), None);
        }
        assert_eq!(due("b", "garbage", Duration::ZERO), Some(0), "somebody else");
        assert_eq!(due("a", "cluster", Duration::ZERO), Some(0), "something else");
        assert_eq!(due("a", "garbage", WINDOW), Some(9));
        assert_eq!(due("a", "garbage", WINDOW + Duration::from_secs(1)), None);
    }

    #[test]
    fn strangers_without_end_fill_neither_the_memory_nor_the_log() {
        let limits = Limits { complaints: 16, complaint_lines: 5, ..Limits::default() };
        let (limiter, start) = (LogLimiter::new(&limits), Instant::now());
        let due = |number: u64, after| limiter.due(&number.to_string(), "garbage", start + after, 1);
        let told = (0..1_000).filter(|number| due(*number, Duration::from_nanos(*number)).is_some()).count();
        assert_eq!(told, 5);
        assert_eq!(due(2_000, WINDOW), Some(995), "the rest is counted");
        assert_eq!(limiter.due("somebody", "cluster", start, 1), Some(0), "of another kind");
        // Of many kinds of faults a member remembers the newest.
        for (at, what) in ["a", "b", "c", "d", "e", "f", "g"].into_iter().enumerate() {
            for number in 0..5_u64 {
                let now = start + Duration::from_secs(at as u64);
                limiter.due(&number.to_string(), what, now, 1);
            }
        }
        assert_eq!(limiter.windows.lock().unwrap().faults.len(), 16);
    }

    #[test]
    fn what_comes_and_goes_is_told_a_few_times() {
        let (limiter, start) = (LogLimiter::new(&Limits::default()), Instant::now());
        let told = (0..100).filter(|_| limiter.due("a", "lost", start, 10).is_some()).count();
        assert_eq!((told, limiter.due("a", "lost", start + WINDOW, 10)), (10, Some(90)));
    }

    #[test]
    fn each_of_two_reasons_that_take_turns_is_told_once() {
        let mut reasons = Reasons::default();
        let told = ["refused", "unknown", "refused", "unknown"].map(|reason| reasons.is_new(reason));
        assert_eq!(told, [true, true, false, false]);
        reasons.forget();
        assert!(reasons.is_new("refused"));
    }
}
