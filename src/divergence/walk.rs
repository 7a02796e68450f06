//! Which slice is next: the newest changes first, then the older ones and the keys, over and over.

use super::limits::Limits;
use bytes::Bytes;

#[derive(Debug)]
pub(crate) struct Walk {
    slice: i64,
    lag_max: i64,
    rounds: u64,
    /// The newest changes were compared up to this revision.
    head: i64,
    /// The older ones, in this pass.
    changes: i64,
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
            lag_max: limits.lag_revisions,
            rounds: limits.walk_rounds,
            head: 0,
            changes: 0,
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

    /// The next slice of the newest changes up to `settled`, of which nothing is compacted: after one revision, up to another.
    /// With `whole_only` one that is not whole is left until later: the others would ask for other ones.
    pub(crate) fn newest(&mut self, settled: i64, compact: i64, whole_only: bool) -> Option<(i64, i64)> {
        let after = self.head.max(compact);
        self.head = if settled - after > self.lag_max { settled } else { after };
        self.slice_after(self.head, settled).filter(|(_, to)| !whole_only || to % self.slice == 0)
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
        let next = self.slice_after(self.changes.max(compact).max(0), settled);
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
            (self.changes, self.are_changes_done, self.key) = (0, false, Some(Bytes::new()));
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
        Walk::new(&Limits { slice_revisions: 10, lag_revisions: 100, walk_rounds: 4, ..Limits::default() })
    }

    #[test]
    fn the_newest_changes_are_followed_in_slices_that_end_alike() {
        let mut walk = walk();
        walk.skip_to(4);
        assert_eq!(walk.newest(7, -1, true), None, "it is not whole");
        let mut check = |settled, compact, expected: Option<(i64, i64)>| {
            let whole_only = expected.is_none_or(|(_, to)| to % 10 == 0);
            assert_eq!(walk.newest(settled, compact, whole_only), expected);
            if let Some((_, to)) = expected {
                walk.followed(to);
            }
        };
        check(4, -1, None);
        check(7, -1, Some((4, 7)));
        check(25, -1, Some((7, 10)));
        check(25, -1, Some((10, 20)));
        check(25, -1, Some((20, 25)));
        check(25, -1, None);
        // What is compacted cannot be compared; what is too much is left to the walk.
        check(40, 33, Some((33, 40)));
        check(141, 33, None);
        check(142, 33, Some((141, 142)));
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
        assert_eq!(walk.older(15, 2), Some((10, 15)));
        walk.walked(15);
        walk.keys_walked(None);
        walk.end_pass(2);
        assert!(walk.is_due(3) && walk.key().is_none(), "the changes are not known to be done");
        assert_eq!(walk.older(15, 2), None);
        walk.end_pass(3);
        assert!(!walk.is_due(6) && walk.is_due(7));
        assert_eq!((walk.older(15, 2), walk.key().as_deref()), (Some((2, 10)), Some(&b""[..])));
    }
}
