//! The waiters for entries, by request ID. A waiter is removed once: by the entry's outcome, a refusal before it was
//! logged, its deadline, its task being dropped, or the end of the node. Pure: the caller answers it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

/// A waiter, and how to answer it.
#[derive(Debug)]
pub struct Waiter<R> {
    /// The channel for the answer.
    pub reply: R,
    /// Since when it waits.
    pub since: Instant,
    /// When it stops waiting.
    pub deadline: Instant,
}

/// All waiters of a member.
#[derive(Debug)]
pub struct Waiters<R> {
    by_id: HashMap<u64, Waiter<R>, BuildHasherDefault<IdHasher>>,
    /// No deadline is before this; `None` while nobody waits. May be too early, never too late.
    first_deadline: Option<Instant>,
}

impl<R> Default for Waiters<R> {
    fn default() -> Self {
        Self { by_id: HashMap::default(), first_deadline: None }
    }
}

impl<R> Waiters<R> {
    /// The number of waiters.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are no waiters.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Adds a waiter; returns whether its deadline is the first.
    pub fn insert(&mut self, id: u64, waiter: Waiter<R>) -> bool {
        let is_first = self.first_deadline.is_none_or(|first| waiter.deadline < first);
        if is_first {
            self.first_deadline = Some(waiter.deadline);
        }
        self.by_id.insert(id, waiter);
        is_first
    }

    /// Removes the waiter for this ID, if there still is one.
    pub fn take(&mut self, id: u64) -> Option<Waiter<R>> {
        self.by_id.remove(&id)
    }

    /// When to look for expired waiters.
    pub fn first_deadline(&self) -> Option<Instant> {
        self.first_deadline
    }

    /// Removes the expired waiters. Visits all of them.
    pub fn take_expired(&mut self, now: Instant) -> Vec<(u64, Waiter<R>)> {
        let expired = self.by_id.extract_if(|_, waiter| waiter.deadline <= now).collect();
        self.first_deadline = self.by_id.values().map(|waiter| waiter.deadline).min();
        expired
    }

    /// Removes and returns every waiter.
    pub fn take_all(&mut self) -> impl Iterator<Item = Waiter<R>> + use<R> {
        self.first_deadline = None;
        std::mem::take(&mut self.by_id).into_values()
    }
}

/// Request IDs are distinct numbers: one multiplication spreads them.
#[derive(Clone, Copy, Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn whoever_waits_is_taken_once_and_the_first_deadline_is_never_too_late() {
        let (mut waiters, now) = (Waiters::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let waiter = |reply, seconds| Waiter { reply, since: now, deadline: at(seconds) };
        assert!(waiters.insert(1, waiter("a", 5)) && !waiters.insert(2, waiter("b", 9)));
        assert!(waiters.insert(3, waiter("c", 2)) && waiters.first_deadline() == Some(at(2)));
        assert_eq!(waiters.take(3).map(|waiter| waiter.reply), Some("c"));
        assert!(waiters.take(3).is_none() && waiters.first_deadline() <= Some(at(5)));
        let replies = |expired: Vec<(u64, Waiter<&'static str>)>| {
            expired.into_iter().map(|(id, waiter)| (id, waiter.reply)).collect::<Vec<_>>()
        };
        assert_eq!(replies(waiters.take_expired(at(4))), []);
        assert_eq!(replies(waiters.take_expired(at(5))), [(1, "a")]);
        assert_eq!((waiters.first_deadline(), waiters.len()), (Some(at(9)), 1));
        assert_eq!(waiters.take_all().count(), 1);
        assert!(waiters.is_empty() && waiters.first_deadline().is_none());
    }
}
