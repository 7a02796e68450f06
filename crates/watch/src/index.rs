//! Finds the ranges that contain a key. Single keys are hashed; ranges are in a treap, ordered by start, each node
//! storing the furthest end in its subtree: O(log n) for each range found, however they overlap.

use bytes::Bytes;
use slab::Slab;
use std::collections::HashMap;
use types::{KeyRange, RangeEnd};

/// Ranges with the owner's numbers. Each number stands for one range.
#[derive(Debug, Default)]
pub(crate) struct Index {
    points: HashMap<Bytes, Vec<usize>>,
    ranges: Treap,
}

impl Index {
    pub(crate) fn insert(&mut self, range: &KeyRange, number: usize) {
        match &range.end {
            RangeEnd::Point => self.points.entry(range.start.clone()).or_default().push(number),
            end => self.ranges.insert(&range.start, end.clone(), number),
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

    pub(crate) fn visit(&self, key: &[u8], visit: &mut dyn FnMut(usize)) {
        if let Some(numbers) = self.points.get(key) {
            for number in numbers {
                visit(*number);
            }
        }
        self.ranges.visit(self.ranges.root, key, visit);
    }
}

/// Whether a range that begins before `key`, and is no point, ends after it.
fn is_after(end: &RangeEnd, key: &[u8]) -> bool {
    match end {
        RangeEnd::Point => false,
        RangeEnd::Before(end) => key < &end[..],
        RangeEnd::Open => true,
    }
}

const NONE: usize = usize::MAX;

#[derive(Debug)]
struct Node {
    start: Bytes,
    number: usize,
    end: RangeEnd,
    /// The furthest end in the subtree.
    reach: RangeEnd,
    priority: u64,
    left: usize,
    right: usize,
}

#[derive(Debug)]
struct Treap {
    nodes: Slab<Node>,
    root: usize,
    /// The state of the sequence of priorities. They must only differ from the keys' order, not be unpredictable.
    seed: u64,
}

impl Default for Treap {
    fn default() -> Self {
        Self { nodes: Slab::new(), root: NONE, seed: 0 }
    }
}

impl Treap {
    fn insert(&mut self, start: &Bytes, end: RangeEnd, number: usize) {
        let priority = self.priority();
        let reach = end.clone();
        let at = self.nodes.insert(Node {
            start: start.clone(),
            number,
            end,
            reach,
            priority,
            left: NONE,
            right: NONE,
        });
        let (before, after) = self.split(self.root, start, number);
        let before = self.merge(before, at);
        self.root = self.merge(before, after);
    }

    fn remove(&mut self, start: &Bytes, number: usize) {
        let (before, rest) = self.split(self.root, start, number);
        let (found, after) = self.split(rest, start, number + 1);
        if found != NONE {
            self.nodes.remove(found);
        }
        self.root = self.merge(before, after);
    }

    fn visit(&self, at: usize, key: &[u8], visit: &mut dyn FnMut(usize)) {
        let Some(node) = self.nodes.get(at) else { return };
        if !is_after(&node.reach, key) {
            return;
        }
        self.visit(node.left, key, visit);
        if &node.start[..] <= key {
            if is_after(&node.end, key) {
                visit(node.number);
            }
            self.visit(node.right, key, visit);
        }
    }

    /// Splits a subtree into the nodes before (start, number) and the rest.
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

    /// Joins two subtrees; all nodes of the first are before those of the second.
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
        assert_eq!(index.ranges.nodes.vacant_key(), 0);
    }
}
