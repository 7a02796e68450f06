//! One line for a fault, not one for each time it shows.
//!
//! A peer that is wrong is wrong ten times a second. The first time is told at once; later times of the same fault of the
//! same sender are counted, and told with the next line, at most one in [`COMPLAINT`].

use std::{collections::BTreeMap, sync::Mutex, time::Instant};

use crate::limits::{COMPLAINT, COMPLAINTS_MAX};

/// Who does what wrong.
type Fault = (String, &'static str);

#[derive(Debug)]
struct Told {
    at: Instant,
    since: u64,
}

/// What was told, and when.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    told: Mutex<BTreeMap<Fault, Told>>,
}

impl Complaints {
    /// Whether a line is due, and how often the same happened since the last one.
    pub(crate) fn due(&self, who: &str, what: &'static str, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().expect("no panic while complaints are held");
        let fault = (who.to_owned(), what);
        if let Some(last) = told.get_mut(&fault) {
            if now.saturating_duration_since(last.at) < COMPLAINT {
                last.since += 1;
                return None;
            }
            let since = last.since;
            *last = Told { at: now, since: 0 };
            return Some(since);
        }
        if told.len() >= COMPLAINTS_MAX {
            let oldest = told.iter().min_by_key(|(_, told)| told.at).map(|(fault, _)| fault.clone());
            oldest.and_then(|fault| told.remove(&fault));
        }
        told.insert(fault, Told { at: now, since: 0 });
        Some(0)
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
    use std::time::Duration;

    #[test]
    fn a_fault_is_told_once_and_then_with_its_count() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        let due = |who, what, after| complaints.due(who, what, start + after);
        assert_eq!(due("a", "garbage", Duration::ZERO), Some(0));
        for tick in 1..10 {
            assert_eq!(due("a", "garbage", Duration::from_millis(100 * tick)), None);
        }
        assert_eq!(due("b", "garbage", Duration::ZERO), Some(0), "somebody else");
        assert_eq!(due("a", "cluster", Duration::ZERO), Some(0), "something else");
        assert_eq!(due("a", "garbage", COMPLAINT), Some(9));
        assert_eq!(due("a", "garbage", COMPLAINT + Duration::from_secs(1)), None);
    }

    #[test]
    fn strangers_without_end_do_not_fill_the_memory() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        for number in 0..2 * COMPLAINTS_MAX as u64 {
            let at = start + Duration::from_nanos(number);
            assert_eq!(complaints.due(&number.to_string(), "garbage", at), Some(0));
        }
        assert_eq!(complaints.told.lock().unwrap().len(), COMPLAINTS_MAX);
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
