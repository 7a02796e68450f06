//! The ordered index of keys: a copy-on-write B+-tree.
//!
//! ```text
//! Index (root) ─▶ Inner {separators, children with live counts} ─▶ … ─▶ Leaf {keys, records}
//! ```
//!
//! A clone is one reference; writing to it copies the nodes on the path to the key, unless nobody shares them. Each
//! child is stored with its count of live keys, so ranges are counted in O(log keys). A node's keys, without their
//! common prefix, and its records are packed end to end: about 30 bytes a key with similar names.
//!
//! Invariants: keys ascend over the leaves; all leaves have the same depth; `live` matches the leaves below; no node is
//! empty except a lone root leaf. Of a record it knows only whether the key is alive ([`crate::record::is_live`]).

mod keys;
mod pack;
mod tree;

#[cfg(test)]
mod tests;

use crate::options::Shape;
use crate::record;
use std::ops::ControlFlow;
use std::sync::Arc;
use tree::{Builder, Child, Inner, Leaf, Node, Update, span};
pub(crate) use tree::{Make, Visit};
use types::{KeyRange, RangeEnd};

pub(crate) type Push<'a> = dyn FnMut(&[u8], &[u8]) + 'a;

#[derive(Clone, Debug)]
pub(crate) struct Index {
    root: Arc<Node>,
    keys: u64,
    shape: Shape,
}

impl Index {
    /// Builds the index from `feed`, which must pass keys in ascending order.
    pub(crate) fn build<E>(
        shape: Shape,
        feed: impl FnOnce(&mut Push<'_>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut builder = Builder::new(shape);
        feed(&mut |key, record| builder.push(key, record))?;
        let keys = builder.keys;
        Ok(Self { root: builder.finish(), keys, shape })
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.root.get(key)
    }

    /// Replaces the key's record with what `make` makes of it, in one search. The new record is left in `record`.
    pub(crate) fn update<'a>(&mut self, key: &'a [u8], record: &'a mut Vec<u8>, make: &'a mut Make<'a>) {
        let change = tree::put(&mut self.root, &mut Update { key, make, record, shape: self.shape });
        self.keys += u64::from(change.new_key);
        if let Some(split) = change.split {
            let left = Child { live: self.root.live(), node: self.root.clone() };
            let mut separators = keys::Keys::default();
            separators.push(&split.separator);
            let children = vec![left, split.right];
            self.root = Arc::new(Node::Inner(Inner { separators: Arc::new(separators), children }));
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        if self.root.get(key).is_none() {
            return;
        }
        tree::remove(&mut self.root, key, &self.shape);
        self.keys -= 1;
        while let Node::Inner(inner) = &*self.root {
            let root = match &inner.children[..] {
                [] => Arc::new(Node::Leaf(Leaf::default())),
                [only] => only.node.clone(),
                _ => break,
            };
            self.root = root;
        }
    }

    pub(crate) fn count(&self, range: &KeyRange) -> u64 {
        match &range.end {
            RangeEnd::Point => u64::from(self.get(&range.start).is_some_and(record::is_live)),
            RangeEnd::Open => self.root.live() - self.root.rank(&range.start),
            RangeEnd::Before(end) if *end <= range.start => 0,
            RangeEnd::Before(end) => self.root.rank(end) - self.root.rank(&range.start),
        }
    }

    /// Visits the range's keys in order, dead ones included, from `from` on if that is above the range's start.
    pub(crate) fn visit(&self, range: &KeyRange, from: &[u8], visit: &mut Visit<'_>) {
        if range.is_point() {
            if let Some(record) = self.get(&range.start).filter(|_| from <= &range.start[..]) {
                let _ = visit(&range.start, record);
            }
            return;
        }
        let (start, end) = span(range);
        let start = start.max(from);
        if end.is_none_or(|end| start < end) {
            let _ = self.root.visit((start, end), visit);
        }
    }

    /// The number of keys, dead ones included.
    pub(crate) fn len(&self) -> u64 {
        self.keys
    }

    /// Memory of the index, bytes, without allocator overhead.
    pub(crate) fn heap_len(&self) -> usize {
        heap_len(&self.root)
    }

    pub(crate) fn check(&self, report: &mut Vec<String>) {
        let mut walk = Walk { report, shape: self.shape, depths: Vec::new(), keys: 0, last: None };
        walk.node(&self.root, 0, true);
        let keys = walk.keys;
        walk.depths.dedup();
        if walk.depths.len() > 1 {
            report.push("index: leaves at different depths".into());
        }
        if keys != self.keys {
            report.push(format!("index: {keys} keys in the leaves, {} counted", self.keys));
        }
    }
}

fn heap_len(node: &Node) -> usize {
    let arc = size_of::<Node>() + 2 * size_of::<usize>();
    let pack = size_of::<keys::Keys>() + 2 * size_of::<usize>();
    arc + pack
        + match node {
            Node::Leaf(leaf) => leaf.keys.heap_len() + leaf.records.heap_len(),
            Node::Inner(inner) => {
                let own = inner.separators.heap_len() + inner.children.capacity() * size_of::<Child>();
                own + inner.children.iter().map(|child| heap_len(&child.node)).sum::<usize>()
            }
        }
}

struct Walk<'a> {
    report: &'a mut Vec<String>,
    shape: Shape,
    depths: Vec<usize>,
    keys: u64,
    last: Option<Vec<u8>>,
}

impl Walk<'_> {
    fn require(&mut self, holds: bool, what: &str) {
        if !holds {
            self.report.push(format!("index: {what}"));
        }
    }

    fn node(&mut self, node: &Node, depth: usize, is_root: bool) {
        match node {
            Node::Leaf(leaf) => {
                self.depths.push(depth);
                self.require(leaf.keys.len() == leaf.records.len(), "a leaf has as many records as keys");
                self.require(is_root || leaf.keys.len() > 0, "no leaf but the root is empty");
                self.require(leaf.keys.len() <= self.shape.leaf_keys, "no leaf is overfull");
                for key in leaf.keys.iter() {
                    self.keys += 1;
                    let ordered = self.last.as_deref().is_none_or(|last| last < &key[..]);
                    self.require(ordered, "keys are ascending");
                    self.last = Some(key);
                }
            }
            Node::Inner(inner) => self.inner(inner, depth),
        }
    }

    fn inner(&mut self, inner: &Inner, depth: usize) {
        self.require(inner.children.len() == inner.separators.len() + 1, "a separator between two children");
        self.require(
            (1..=self.shape.children).contains(&inner.children.len()),
            "no inner node is empty or overfull",
        );
        for (at, child) in inner.children.iter().enumerate() {
            self.require(child.live == child.node.live(), "counts of live keys are right");
            self.node(&child.node, depth + 1, false);
            if at < inner.separators.len() {
                let below = self.last.as_deref().is_none_or(|last| last < &inner.separators.get(at)[..]);
                self.require(below, "a child's keys are below the separator after it");
            }
        }
        for (at, child) in inner.children.iter().enumerate().skip(1) {
            let mut first = None;
            let _ = child.node.visit((&[], None), &mut |key, _| {
                first = Some(key.to_vec());
                ControlFlow::Break(())
            });
            let above = first.as_deref().is_none_or(|first| first >= &inner.separators.get(at - 1)[..]);
            self.require(above, "a child's keys are not below the separator before it");
        }
    }
}
