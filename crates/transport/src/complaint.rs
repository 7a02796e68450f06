//! A line for a fault, not one for each time it shows.
//!
//! A peer that is wrong is wrong ten times a second. The first times are told at once; later times of the same fault of the
//! same sender are counted, and told with the next line, in [`Limits::complaint`] at the earliest. So many lines are written
//! about a fault however many names those have who do it: a stranger may call itself what it likes.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::limits::Limits;

/// Who does what wrong.
type Fault = (String, &'static str);

/// What was told of something in the window under way.
#[derive(Debug)]
struct Told {
    at: Instant,
    lines: usize,
    left_out: u64,
}

impl Told {
    fn new(now: Instant) -> Self {
        Self { at: now, lines: 0, left_out: 0 }
    }

    /// Whether one more line may be written in the window of now.
    fn has_room(&self, now: Instant, window: Duration, lines_max: usize) -> bool {
        self.lines < lines_max || now.saturating_duration_since(self.at) >= window
    }

    /// A line is written; how many were left out before it.
    fn write(&mut self, now: Instant, window: Duration) -> u64 {
        if now.saturating_duration_since(self.at) >= window {
            (self.at, self.lines) = (now, 0);
        }
        self.lines += 1;
        mem::take(&mut self.left_out)
    }
}

#[derive(Debug, Default)]
struct Book {
    faults: BTreeMap<Fault, Told>,
    /// By what is wrong, whoever does it: as many as the code has words for.
    kinds: BTreeMap<&'static str, Told>,
}

/// What was told, and when.
#[derive(Debug)]
pub(crate) struct Complaints {
    book: Mutex<Book>,
    window: Duration,
    faults_max: usize,
    kind_lines_max: usize,
}

impl Complaints {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            book: Mutex::default(),
            window: limits.complaint,
            faults_max: limits.complaints.max(1),
            kind_lines_max: limits.complaint_lines.max(1),
        }
    }

    /// Whether a line is due, of `lines_max` in a window, and how often the same happened since the last one.
    pub(crate) fn due(&self, who: &str, what: &'static str, now: Instant, lines_max: usize) -> Option<u64> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let Book { faults, kinds } = &mut *book;
        let fault = (who.to_owned(), what);
        let known = faults.get_mut(&fault);
        if let Some(told) = known.filter(|told| !told.has_room(now, self.window, lines_max)) {
            told.left_out += 1;
            return None;
        }
        let kind = kinds.entry(what).or_insert_with(|| Told::new(now));
        if !kind.has_room(now, self.window, self.kind_lines_max) {
            kind.left_out += 1;
            return None;
        }
        let of_others = kind.write(now, self.window);
        if faults.len() >= self.faults_max && !faults.contains_key(&fault) {
            let oldest = faults.iter().min_by_key(|(_, told)| told.at).map(|(fault, _)| fault.clone());
            oldest.and_then(|fault| faults.remove(&fault));
        }
        let told = faults.entry(fault).or_insert_with(|| Told::new(now));
        Some(told.write(now, self.window) + of_others)
    }
}

/// The last few reasons of failures, each told once until something works again.
#[derive(Debug, Default)]
pub(crate) struct Reasons {
    told: Vec<String>,
}

/// A peer has few URLs, and each fails in few ways.
const REASONS_MAX: usize = 8;

impl Reasons {
    /// Whether this one was not told yet; now it counts as told.
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

    /// Whether nothing went wrong since it last worked.
    pub(crate) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// It works: what happens next is news.
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
        let (complaints, start) = (Complaints::new(&Limits::default()), Instant::now());
        let due = |who, what, after| complaints.due(who, what, start + after, 1);
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
        let (complaints, start) = (Complaints::new(&limits), Instant::now());
        let due = |number: u64, after| complaints.due(&number.to_string(), "garbage", start + after, 1);
        let told = (0..1_000).filter(|number| due(*number, Duration::from_nanos(*number)).is_some()).count();
        assert_eq!(told, 5);
        assert_eq!(due(2_000, WINDOW), Some(995), "the rest is counted");
        assert_eq!(complaints.due("somebody", "cluster", start, 1), Some(0), "of another kind");
        // Of many kinds of faults a member remembers the newest.
        for (at, what) in ["a", "b", "c", "d", "e", "f", "g"].into_iter().enumerate() {
            for number in 0..5_u64 {
                let now = start + Duration::from_secs(at as u64);
                complaints.due(&number.to_string(), what, now, 1);
            }
        }
        assert_eq!(complaints.book.lock().unwrap().faults.len(), 16);
    }

    #[test]
    fn what_comes_and_goes_is_told_a_few_times() {
        let (complaints, start) = (Complaints::new(&Limits::default()), Instant::now());
        let told = (0..100).filter(|_| complaints.due("a", "lost", start, 10).is_some()).count();
        assert_eq!((told, complaints.due("a", "lost", start + WINDOW, 10)), (10, Some(90)));
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
