//! From a key to the ranges that hold it.
//!
//! Single keys are looked up; ranges lie in a treap, ordered by where they begin, each node knowing how far its subtree
//! reaches: the ranges around a key are found in O(log n) for each, however they overlap.

use bytes::Bytes;
use std::collections::HashMap;
use types::{KeyRange, RangeEnd};

/// Ranges with numbers of their owner's. A number stands for one range.
#[derive(Debug, Default)]
pub(crate) struct Index {
    points: HashMap<Bytes, Vec<usize>>,
    ranges: Treap,
}

impl Index {
    pub(crate) fn insert(&mut self, range: &KeyRange, number: usize) {
        match &range.end {
            RangeEnd::Point => self.points.entry(range.start.clone()).or_default().push(number),
            RangeEnd::Open => self.ranges.insert(&range.start, End::Open, number),
            RangeEnd::Before(end) => {
                self.ranges.insert(&range.start, End::Before(end.clone()), number);
            }
        }
    }

    pub(crate) fn remove(&mut self, range: &KeyRange, number: usize) {
        if !range.is_point() {
            self.ranges.remove(&range.start, number);
        } else if let Some(numbers) = self.points.get_mut(&range.start) {
            numbers.retain(|known| *known != number);
            if numbers.is_empty() {
                self.points.remove(&range.start);
            }
        }
    }

    /// Calls for each range that holds the key.
    pub(crate) fn visit(&self, key: &[u8], visit: &mut dyn FnMut(usize)) {
        if let Some(numbers) = self.points.get(key) {
            for number in numbers {
                visit(*number);
            }
        }
        self.ranges.visit(self.ranges.root, key, visit);
    }
}

/// Where a range ends. Ordered: an open one reaches furthest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Open,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < &end[..],
            Self::Open => true,
        }
    }
}

/// No node.
const NONE: usize = usize::MAX;

#[derive(Debug)]
struct Node {
    start: Bytes,
    number: usize,
    end: End,
    /// The furthest end in the subtree.
    reach: End,
    priority: u64,
    left: usize,
    right: usize,
}

#[derive(Debug)]
struct Treap {
    nodes: Vec<Node>,
    free: Vec<usize>,
    root: usize,
    /// Where the sequence of priorities stands. They need only be unlike the keys' order, not unpredictable.
    seed: u64,
}

impl Default for Treap {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NONE, seed: 0 }
    }
}

impl Treap {
    fn insert(&mut self, start: &Bytes, end: End, number: usize) {
        let priority = self.priority();
        let node =
            Node { start: start.clone(), number, reach: end.clone(), end, priority, left: NONE, right: NONE };
        let at = if let Some(at) = self.free.pop() {
            self.nodes[at] = node;
            at
        } else {
            self.nodes.push(node);
            self.nodes.len() - 1
        };
        let (before, after) = self.split(self.root, start, number);
        let before = self.merge(before, at);
        self.root = self.merge(before, after);
    }

    fn remove(&mut self, start: &Bytes, number: usize) {
        let (before, rest) = self.split(self.root, start, number);
        let (found, after) = self.split(rest, start, number + 1);
        if found != NONE {
            self.free.push(found);
            self.nodes[found].start = Bytes::new();
            self.nodes[found].end = End::Open;
            self.nodes[found].reach = End::Open;
        }
        self.root = self.merge(before, after);
    }

    fn visit(&self, at: usize, key: &[u8], visit: &mut dyn FnMut(usize)) {
        let Some(node) = self.nodes.get(at) else { return };
        if !node.reach.is_after(key) {
            return;
        }
        self.visit(node.left, key, visit);
        if &node.start[..] <= key {
            if node.end.is_after(key) {
                visit(node.number);
            }
            self.visit(node.right, key, visit);
        }
    }

    /// Splits a subtree into what is before (start, number) and the rest.
    fn split(&mut self, at: usize, start: &Bytes, number: usize) -> (usize, usize) {
        let Some(node) = self.nodes.get(at) else { return (NONE, NONE) };
        let (left, right) = (node.left, node.right);
        if (&node.start, node.number) < (start, number) {
            let (before, after) = self.split(right, start, number);
            self.nodes[at].right = before;
            self.update(at);
            (at, after)
        } else {
            let (before, after) = self.split(left, start, number);
            self.nodes[at].left = after;
            self.update(at);
            (before, at)
        }
    }

    /// Joins two subtrees, all of the first before all of the second.
    fn merge(&mut self, before: usize, after: usize) -> usize {
        if before == NONE || after == NONE {
            return if before == NONE { after } else { before };
        }
        if self.nodes[before].priority >= self.nodes[after].priority {
            let joined = self.merge(self.nodes[before].right, after);
            self.nodes[before].right = joined;
            self.update(before);
            before
        } else {
            let joined = self.merge(before, self.nodes[after].left);
            self.nodes[after].left = joined;
            self.update(after);
            after
        }
    }

    fn update(&mut self, at: usize) {
        let node = &self.nodes[at];
        let mut reach = &node.end;
        for child in [node.left, node.right] {
            if let Some(child) = self.nodes.get(child) {
                reach = reach.max(&child.reach);
            }
        }
        let reach = reach.clone();
        self.nodes[at].reach = reach;
    }

    /// The next of a well-mixed sequence (splitmix64).
    fn priority(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = || prop::collection::vec(0u8..4, 1..3);
        (key(), key(), 0..4).prop_map(|(start, end, kind)| {
            let end = match kind {
                0 => RangeEnd::Point,
                1 => RangeEnd::Open,
                _ => RangeEnd::Before(end.into()),
            };
            KeyRange { start: start.into(), end }
        })
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_walk_over_all_ranges_finds(
            ranges in prop::collection::vec(range(), 0..60),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
            key in prop::collection::vec(0u8..4, 1..4),
        ) {
            let mut index = Index::default();
            let mut all: Vec<Option<KeyRange>> = Vec::new();
            for (number, range) in ranges.into_iter().enumerate() {
                index.insert(&range, number);
                all.push(Some(range));
            }
            for at in removed.iter().filter(|_| !all.is_empty()).map(|at| at.index(all.len())).collect::<Vec<_>>() {
                if let Some(range) = all[at].take() {
                    index.remove(&range, at);
                }
            }
            let mut found = Vec::new();
            index.visit(&key, &mut |number| found.push(number));
            found.sort_unstable();
            let holds = |range: &Option<KeyRange>| range.as_ref().is_some_and(|range| range.contains(&key));
            let expected: Vec<usize> = (0..all.len()).filter(|at| holds(&all[*at])).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn places_are_used_again() {
        let mut index = Index::default();
        let range = KeyRange { start: "a".into(), end: RangeEnd::Open };
        for number in 0..1_000 {
            index.insert(&range, number);
            index.remove(&range, number);
        }
        assert_eq!(index.ranges.nodes.len(), 1);
    }
}
