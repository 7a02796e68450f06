//! Request IDs, made as etcd makes them (`pkg/idutil`): they key the waiters of a member, and must be unique over
//! all members and their restarts, because an entry's ID completes whoever waits for it.
//!
//! ```text
//! | 2 bytes: member ID, low bits | 5 bytes: milliseconds at the start | 1 byte: counter |
//! ```
//!
//! The counter carries into the milliseconds: a restart repeats an ID only if a member made more than 256,000 a second.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Makes IDs for one life of one member, from any thread.
#[derive(Debug)]
pub struct RequestIds {
    prefix: u64,
    suffix: AtomicU64,
}

const SUFFIX_MASK: u64 = u64::MAX >> 16;

impl RequestIds {
    /// A generator for a member that starts at this time (milliseconds since 1970).
    pub fn new(member: u64, unix_millis: u64) -> Self {
        Self { prefix: member << 48, suffix: AtomicU64::new((unix_millis & (u64::MAX >> 24)) << 8) }
    }

    /// The next ID, never 0.
    pub fn next_id(&self) -> u64 {
        loop {
            let suffix = self.suffix.fetch_add(1, Relaxed).wrapping_add(1);
            let id = self.prefix | (suffix & SUFFIX_MASK);
            if id != 0 {
                return id;
            }
        }
    }

    /// Whether an ID may be one of this member's: others are nobody's here.
    pub fn is_own(&self, id: u64) -> bool {
        id & !SUFFIX_MASK == self.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_the_members_mark_the_time_and_a_counter() {
        let ids = RequestIds::new(0xabcd_0000_0000_1234, 0x12_3456_789a);
        assert_eq!(ids.next_id(), 0x1234_1234_5678_9a01);
        assert_eq!(ids.next_id(), 0x1234_1234_5678_9a02);
        assert!(ids.is_own(0x1234_0000_0000_0000) && !ids.is_own(0x1235_0000_0000_0000));
    }

    #[test]
    fn ids_of_a_later_life_are_new() {
        let first = RequestIds::new(7, 1_000);
        let second = RequestIds::new(7, 1_001);
        let later = second.next_id();
        assert!((0..256).all(|_| first.next_id() < later));
    }
}
