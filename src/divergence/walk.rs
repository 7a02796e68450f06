//! Which slice is next: the newest changes first, then the older ones and the keys, over and over.

use super::limits::Limits;
use bytes::Bytes;

#[derive(Debug)]
pub(crate) struct Walk {
    slice: i64,
    small_slice: i64,
    lag_max: i64,
    rounds: u64,
    /// The newest changes were compared up to this revision.
    head: i64,
    /// The older ones, in this pass.
    changes: i64,
    /// Where this pass ends; `None` = it has not begun. What comes after it is followed, and left to the next pass.
    changes_end: Option<i64>,
    are_changes_done: bool,
    /// The next key of this pass; `None` = they are done.
    key: Option<Bytes>,
    /// The round of the next step.
    due: u64,
    passes: u64,
}

impl Walk {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            slice: limits.slice_revisions.max(1),
            small_slice: limits.small_slice_revisions.max(1),
            lag_max: limits.lag_revisions,
            rounds: limits.walk_rounds,
            head: 0,
            changes: 0,
            changes_end: None,
            are_changes_done: false,
            key: Some(Bytes::new()),
            due: 0,
            passes: 0,
        }
    }

    /// Nobody is there to compare with: what comes until then is left to the walk.
    pub(crate) fn skip_to(&mut self, revision: i64) {
        self.head = revision;
    }

    /// The next slice of the newest changes up to `settled`, of which nothing is compacted: after one revision, up to
    /// another. A whole slice if there is one, else whole small ones, and what is left only at the beginning of a round
    /// (`revisions`: of the largest slice before it in this round): members follow at different moments, and each of them
    /// would hash every other one's rest as well.
    pub(crate) fn newest(&mut self, settled: i64, compact: i64, revisions: i64) -> Option<(i64, i64)> {
        let after = self.head.max(compact);
        self.head = if settled - after > self.lag_max { settled } else { after };
        let after = self.head;
        let is_whole = |size: i64| size >= revisions && after % size == 0 && after + size <= settled;
        if is_whole(self.slice) {
            return Some((after, after + self.slice));
        }
        let end = (after / self.small_slice + 1) * self.small_slice;
        if self.small_slice >= revisions && end <= settled {
            return Some((after, end));
        }
        (revisions == 0 && after < settled).then_some((after, settled))
    }

    pub(crate) fn followed(&mut self, to: i64) {
        self.head = to;
    }

    /// Whether the walk may go a step in this round: each in its first pass, some of them later.
    pub(crate) fn is_due(&self, round: u64) -> bool {
        round >= self.due
    }

    /// The next slice of older changes.
    pub(crate) fn older(&mut self, settled: i64, compact: i64) -> Option<(i64, i64)> {
        if self.are_changes_done {
            return None;
        }
        let end = *self.changes_end.get_or_insert(settled);
        let next = self.slice_after(self.changes.max(compact).max(0), end);
        self.are_changes_done = next.is_none();
        next
    }

    pub(crate) fn walked(&mut self, to: i64) {
        self.changes = to;
    }

    /// The next key to begin with; `None` = the pass is over.
    pub(crate) fn key(&self) -> Option<Bytes> {
        self.key.clone()
    }

    pub(crate) fn keys_walked(&mut self, rest: Option<Bytes>) {
        self.key = rest;
    }

    /// Ends the step of a round; begins anew where all was compared.
    pub(crate) fn end_pass(&mut self, round: u64) {
        if self.are_changes_done && self.key.is_none() {
            (self.changes, self.changes_end, self.are_changes_done) = (0, None, false);
            self.key = Some(Bytes::new());
            self.passes += 1;
        }
        self.due = round + if self.passes == 0 { 1 } else { self.rounds };
    }

    /// Slices end at multiples of their size, so that all members ask for the same.
    fn slice_after(&self, after: i64, settled: i64) -> Option<(i64, i64)> {
        let end = (after / self.slice + 1) * self.slice;
        (after < settled).then(|| (after, end.min(settled)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk() -> Walk {
        Walk::new(&Limits {
            slice_revisions: 10,
            small_slice_revisions: 5,
            lag_revisions: 100,
            walk_rounds: 4,
            ..Limits::default()
        })
    }

    #[test]
    fn the_newest_changes_are_followed_in_slices_that_are_alike() {
        let mut walk = walk();
        walk.skip_to(4);
        let mut check = |settled, compact, revisions, expected: Option<(i64, i64)>| {
            assert_eq!(walk.newest(settled, compact, revisions), expected);
            if let Some((_, to)) = expected {
                walk.followed(to);
            }
        };
        check(4, -1, 0, None);
        check(7, -1, 0, Some((4, 5)));
        check(7, -1, 1, None);
        check(7, -1, 0, Some((5, 7)));
        // Small ones up to where a large one begins, and nothing smaller after it.
        check(32, -1, 0, Some((7, 10)));
        check(32, -1, 3, Some((10, 20)));
        check(32, -1, 10, Some((20, 30)));
        check(32, -1, 10, None);
        check(37, -1, 0, Some((30, 35)));
        check(37, -1, 5, None);
        // What is compacted cannot be compared; what is too much is left to the walk.
        check(43, 41, 0, Some((41, 43)));
        check(144, 43, 0, None);
        check(145, 43, 0, Some((144, 145)));
    }

    #[test]
    fn a_pass_goes_over_all_changes_and_all_keys_and_then_takes_its_time() {
        let mut walk = walk();
        assert_eq!(walk.older(15, 2), Some((2, 10)));
        walk.walked(10);
        assert_eq!(walk.key().as_deref(), Some(&b""[..]));
        walk.keys_walked(Some(Bytes::from_static(b"k")));
        walk.end_pass(1);
        assert!(walk.is_due(2));
        assert_eq!(walk.older(99, 2), Some((10, 15)), "what came after the pass began is the next one's");
        walk.walked(15);
        walk.keys_walked(None);
        walk.end_pass(2);
        assert!(walk.is_due(3) && walk.key().is_none(), "the changes are not known to be done");
        assert_eq!(walk.older(99, 2), None);
        walk.end_pass(3);
        assert!(!walk.is_due(6) && walk.is_due(7));
        assert_eq!((walk.older(99, 2), walk.key().as_deref()), (Some((2, 10)), Some(&b""[..])));
    }
}
