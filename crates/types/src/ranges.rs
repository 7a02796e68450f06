//! A set of keys, stored as disjoint ranges.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The end of a range, ordered by how far it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper<'a> {
    /// Up to this key, exclusive.
    Before(&'a [u8]),
    /// Up to this key, inclusive.
    At(&'a [u8]),
    /// Every key after the start.
    Never,
}

impl<'a> Upper<'a> {
    /// From the wire, by the rules of [`crate::KeyRange::from_wire`].
    pub fn from_wire(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Self::At(key),
            [0] => Self::Never,
            _ => Self::Before(range_end),
        }
    }

    /// Whether a range that starts at or before `key` and ends here contains it.
    pub fn covers(self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end,
            Self::At(end) => key <= end,
            Self::Never => true,
        }
    }
}

impl Ord for Upper<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |end: &Self| match *end {
            Self::Before(key) => (false, key, false),
            Self::At(key) => (false, key, true),
            Self::Never => (true, &[][..], false),
        };
        rank(self).cmp(&rank(other))
    }
}

impl PartialOrd for Upper<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A set of keys. Insertion takes O(log n) amortised, a lookup O(log n).
#[derive(Debug, Default)]
pub struct KeyRanges<'a> {
    /// By first key. No range contains the first key of another.
    ranges: BTreeMap<&'a [u8], Upper<'a>>,
}

impl<'a> KeyRanges<'a> {
    /// Whether the key is in the set.
    pub fn contains(&self, key: &[u8]) -> bool {
        let up_to_it = (Bound::Unbounded, Bound::Included(key));
        self.ranges.range::<[u8], _>(up_to_it).next_back().is_some_and(|(_, end)| end.covers(key))
    }

    /// Adds a range, which may be empty, and merges it with those it overlaps.
    pub fn insert(&mut self, start: &'a [u8], mut end: Upper<'a>) {
        if !end.covers(start) {
            return;
        }
        let mut first = start;
        let before = self.ranges.range::<[u8], _>((Bound::Unbounded, Bound::Included(start))).next_back();
        if let Some((&its_start, &its_end)) = before
            && its_end.covers(start)
        {
            first = its_start;
            end = end.max(its_end);
        }
        let after = (Bound::Excluded(first), Bound::Unbounded);
        while let Some((&next, &its_end)) = self.ranges.range::<[u8], _>(after).next()
            && end.covers(next)
        {
            end = end.max(its_end);
            self.ranges.remove(next);
        }
        self.ranges.insert(first, end);
    }

    /// Adds every range of another set.
    pub fn append(&mut self, other: Self) {
        for (start, end) in other.ranges {
            self.insert(start, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyRange;

    /// All subsets and rotations of a few ranges that touch, overlap and nest.
    #[test]
    fn a_set_holds_what_one_of_its_ranges_holds() {
        let wire = [("b", ""), ("b", "d"), ("c", "\0"), ("a", "b"), ("d", "b"), ("bb", "c"), ("e", "")];
        let keys = ["a", "aa", "b", "b\0", "bb", "c", "cc", "d", "e", "f"];
        for bits in 0..1_u32 << wire.len() {
            for turn in 0..wire.len() {
                let chosen = (0..wire.len()).map(|n| (n + turn) % wire.len()).filter(|n| bits >> n & 1 == 1);
                let chosen: Vec<(&str, &str)> = chosen.map(|n| wire[n]).collect();
                let mut set = KeyRanges::default();
                for (key, end) in &chosen {
                    set.insert(key.as_bytes(), Upper::from_wire(key.as_bytes(), end.as_bytes()));
                }
                for key in keys.map(str::as_bytes) {
                    let holds = |(start, end): &(&'static str, &'static str)| {
                        KeyRange::from_wire((*start).into(), (*end).into()).contains(key)
                    };
                    assert_eq!(set.contains(key), chosen.iter().any(holds), "{chosen:?}: {key:?}");
                }
            }
        }
    }
}
