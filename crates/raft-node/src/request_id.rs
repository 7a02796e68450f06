//! Request IDs, made as in etcd (`pkg/idutil`). They must be unique across members and restarts, because an entry
//! completes whoever waits for its ID.
//!
//! ```text
//! | 2 bytes: member ID, low bits | 5 bytes: milliseconds at the start, shifted | 1 byte: counter |
//! ```
//!
//! Of three members, two share the low bits of their IDs in one of 22,000 clusters. Such etcd members, if started at
//! about the same time, make the same IDs, and one receives the outcome of the other's request. Here the milliseconds
//! are shifted by a function of the member ID's other bits, the same after each restart. The counter carries into the
//! milliseconds: a restart repeats an ID only if a member made more than 256,000 a second, or if the clock was set back
//! to the very time of an earlier start, as on a machine without a clock of its own (etcd's weakness too).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Makes the IDs of one process, from any thread.
#[derive(Debug)]
pub struct RequestIds {
    prefix: u64,
    suffix: AtomicU64,
}

const SUFFIX_MASK: u64 = u64::MAX >> 16;

impl RequestIds {
    /// A generator for a member started at this time (milliseconds since 1970).
    pub fn new(member: u64, unix_millis: u64) -> Self {
        // The low bits are the prefix; an odd factor mixes the others, best in the highest bits.
        let moved = (member >> 16).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
        let millis = unix_millis.wrapping_add(moved) & (u64::MAX >> 24);
        Self { prefix: member << 48, suffix: AtomicU64::new(millis << 8) }
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

    /// Whether an ID may be this member's; no waiter here has another one.
    pub fn is_own(&self, id: u64) -> bool {
        id & !SUFFIX_MASK == self.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_the_members_mark_the_time_and_a_counter() {
        let ids = RequestIds::new(0x1234, 0x12_3456_789a);
        assert_eq!(ids.next_id(), 0x1234_1234_5678_9a01);
        assert_eq!(ids.next_id(), 0x1234_1234_5678_9a02);
        assert!(ids.is_own(0x1234_0000_0000_0000) && !ids.is_own(0x1235_0000_0000_0000));
    }

    /// Members with equal low 16 bits, started in the same millisecond, make a million IDs each.
    #[test]
    fn members_that_share_the_mark_share_no_id() {
        let starts =
            [0x29be_1ae5_193b_2e64_u64, 0x8211_f1d0_f64f_2e64, 0x0001_0000_0000_2e64, 0x0000_0000_0001_2e64];
        let mut first: Vec<u64> =
            starts.iter().map(|member| RequestIds::new(*member, 1_795_414_287_961).next_id()).collect();
        first.sort_unstable();
        for pair in first.windows(2) {
            assert!(pair[1] - pair[0] > 1_000_000_000, "{pair:x?}");
        }
    }

    #[test]
    fn ids_of_a_later_life_are_new() {
        let first = RequestIds::new(7, 1_000);
        let second = RequestIds::new(7, 1_001);
        let later = second.next_id();
        assert!((0..256).all(|_| first.next_id() < later));
    }
}
