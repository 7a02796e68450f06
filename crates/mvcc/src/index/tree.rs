//! The tree's nodes: search, insertion, removal, splitting and merging.

use super::keys::{Keys, common_len};
use super::pack::Pack;
use crate::options::Shape;
use crate::record;
use std::ops::ControlFlow;
use std::sync::Arc;
use types::{KeyRange, RangeEnd};

#[derive(Clone, Debug)]
pub(super) enum Node {
    Leaf(Leaf),
    Inner(Inner),
}

/// Ascending keys and a record for each. Versions of the leaf that differ only in records share the keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaf {
    pub(super) keys: Arc<Keys>,
    pub(super) records: Pack,
}

/// Children in key order: the keys of child i are below separator i and not below separator i − 1.
#[derive(Clone, Debug)]
pub(super) struct Inner {
    pub(super) separators: Arc<Keys>,
    pub(super) children: Vec<Child>,
}

#[derive(Clone, Debug)]
pub(super) struct Child {
    pub(super) node: Arc<Node>,
    pub(super) live: u64,
}

/// The keys from the first (inclusive) to the second (exclusive; `None` = no end).
pub(super) type Span<'a> = (&'a [u8], Option<&'a [u8]>);

/// Called with each key and its record; `Break` ends the walk.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Given the key's old record, if any, appends the new one.
pub(crate) type Make<'a> = dyn FnMut(Option<&[u8]>, &mut Vec<u8>) + 'a;

pub(super) struct Update<'a> {
    pub(super) key: &'a [u8],
    pub(super) make: &'a mut Make<'a>,
    pub(super) record: &'a mut Vec<u8>,
    pub(super) shape: Shape,
}

impl Update<'_> {
    fn record(&mut self, before: Option<&[u8]>) -> &[u8] {
        self.record.clear();
        (self.make)(before, self.record);
        self.record
    }
}

pub(super) struct Split {
    pub(super) separator: Vec<u8>,
    pub(super) right: Child,
}

#[derive(Default)]
pub(super) struct Change {
    pub(super) live: i64,
    pub(super) new_key: bool,
    pub(super) split: Option<Split>,
}

pub(super) fn put(node: &mut Arc<Node>, update: &mut Update<'_>) -> Change {
    match Arc::make_mut(node) {
        Node::Leaf(leaf) => leaf.put(update),
        Node::Inner(inner) => inner.put(update),
    }
}

/// Removes the key; returns whether it was alive, or `None` if it was absent.
pub(super) fn remove(node: &mut Arc<Node>, key: &[u8], shape: &Shape) -> Option<bool> {
    match Arc::make_mut(node) {
        Node::Leaf(leaf) => leaf.remove(key),
        Node::Inner(inner) => inner.remove(key, shape),
    }
}

impl Node {
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        match self {
            Node::Leaf(leaf) => leaf.keys.search(key).ok().map(|at| leaf.records.get(at)),
            Node::Inner(inner) => inner.children[inner.child_of(key)].node.get(key),
        }
    }

    pub(super) fn rank(&self, key: &[u8]) -> u64 {
        match self {
            Node::Leaf(leaf) => {
                let (Ok(at) | Err(at)) = leaf.keys.search(key);
                (0..at).filter(|&at| record::is_live(leaf.records.get(at))).count() as u64
            }
            Node::Inner(inner) => {
                let at = inner.child_of(key);
                let before: u64 = inner.children[..at].iter().map(|child| child.live).sum();
                before + inner.children[at].node.rank(key)
            }
        }
    }

    pub(super) fn live(&self) -> u64 {
        match self {
            Node::Leaf(leaf) => leaf.records.iter().filter(|record| record::is_live(record)).count() as u64,
            Node::Inner(inner) => inner.children.iter().map(|child| child.live).sum(),
        }
    }

    pub(super) fn visit(&self, span: Span<'_>, visit: &mut Visit<'_>) -> ControlFlow<()> {
        match self {
            Node::Leaf(leaf) => {
                let (Ok(first) | Err(first)) = leaf.keys.search(span.0);
                let last = span.1.map_or(leaf.keys.len(), |end| match leaf.keys.search(end) {
                    Ok(at) | Err(at) => at,
                });
                let mut key = leaf.keys.prefix().to_vec();
                let common = key.len();
                for at in first..last {
                    key.truncate(common);
                    key.extend_from_slice(leaf.keys.suffix(at));
                    visit(&key, leaf.records.get(at))?;
                }
                if last < leaf.keys.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            Node::Inner(inner) => inner.children[inner.child_of(span.0)..]
                .iter()
                .try_for_each(|child| child.node.visit(span, visit)),
        }
    }

    fn fill(&self) -> (usize, usize) {
        match self {
            Node::Leaf(leaf) => (leaf.keys.len(), leaf.keys.byte_len()),
            Node::Inner(inner) => (inner.children.len(), 0),
        }
    }
}

impl Leaf {
    fn put(&mut self, update: &mut Update<'_>) -> Change {
        let key = update.key;
        match self.keys.search(key) {
            Ok(at) => {
                let before = self.records.get(at);
                let lived = i64::from(record::is_live(before));
                let record = update.record(Some(before));
                self.records.replace(at, record);
                Change { live: i64::from(record::is_live(record)) - lived, new_key: false, split: None }
            }
            Err(at) => {
                let record = update.record(None);
                let lives = i64::from(record::is_live(record));
                Arc::make_mut(&mut self.keys).insert(at, key);
                self.records.insert(at, record);
                let full = self.keys.len() > update.shape.leaf_keys
                    || (self.keys.byte_len() > update.shape.leaf_bytes && self.keys.len() > 1);
                Change { live: lives, new_key: true, split: full.then(|| self.split(at)) }
            }
        }
    }

    /// Splits in the middle, or at the end if keys arrive in order, so that a bulk load leaves full leaves.
    fn split(&mut self, inserted: usize) -> Split {
        let length = self.keys.len();
        let at = if inserted + 1 == length { length - 1 } else { length / 2 };
        let keys = Arc::make_mut(&mut self.keys).split_off(at);
        let records = self.records.split_off(at);
        let separator = shortest_between(&self.keys.get(at - 1), &keys.get(0)).to_vec();
        let right = Node::Leaf(Leaf { keys: Arc::new(keys), records });
        Split { separator, right: Child { live: right.live(), node: Arc::new(right) } }
    }

    fn remove(&mut self, key: &[u8]) -> Option<bool> {
        let at = self.keys.search(key).ok()?;
        let lived = record::is_live(self.records.get(at));
        Arc::make_mut(&mut self.keys).remove(at);
        self.records.remove(at);
        Some(lived)
    }
}

impl Inner {
    fn child_of(&self, key: &[u8]) -> usize {
        match self.separators.search(key) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }

    fn put(&mut self, update: &mut Update<'_>) -> Change {
        let at = self.child_of(update.key);
        let child = &mut self.children[at];
        let change = put(&mut child.node, update);
        child.live = child.live.saturating_add_signed(change.live);
        let Some(split) = change.split else { return change };
        child.live -= split.right.live;
        Arc::make_mut(&mut self.separators).insert(at, &split.separator);
        self.children.insert(at + 1, split.right);
        let split = (self.children.len() > update.shape.children).then(|| self.split(at + 1));
        Change { split, ..change }
    }

    fn split(&mut self, inserted: usize) -> Split {
        let length = self.children.len();
        let at = if inserted + 1 == length { length - 1 } else { length / 2 };
        let children = self.children.split_off(at);
        self.children.shrink_to_fit();
        let separators = Arc::make_mut(&mut self.separators);
        let right = separators.split_off(at);
        let separator = separators.get(at - 1);
        separators.remove(at - 1);
        let right = Node::Inner(Inner { separators: Arc::new(right), children });
        Split { separator, right: Child { live: right.live(), node: Arc::new(right) } }
    }

    fn remove(&mut self, key: &[u8], shape: &Shape) -> Option<bool> {
        let at = self.child_of(key);
        let child = &mut self.children[at];
        let lived = remove(&mut child.node, key, shape)?;
        child.live -= u64::from(lived);
        let (items, _) = child.node.fill();
        if items == 0 {
            self.drop_child(at);
        } else if items <= self.full(at, shape) / 4 {
            // A sparse child is merged with a neighbour if possible.
            self.merge(at, shape);
        }
        Some(lived)
    }

    fn full(&self, at: usize, shape: &Shape) -> usize {
        match &*self.children[at].node {
            Node::Leaf(_) => shape.leaf_keys,
            Node::Inner(_) => shape.children,
        }
    }

    fn drop_child(&mut self, at: usize) {
        self.children.remove(at);
        if self.separators.len() > 0 {
            Arc::make_mut(&mut self.separators).remove(at.saturating_sub(1));
        }
    }

    /// Merges a sparse child with a neighbour if both fit into one node with room to spare.
    fn merge(&mut self, at: usize, shape: &Shape) {
        let left = if at + 1 < self.children.len() { at } else { at.saturating_sub(1) };
        let [first, second] = [left, left + 1].map(|at| self.children.get(at).map(|child| child.node.fill()));
        let (Some(first), Some(second)) = (first, second) else { return };
        if first.0 + second.0 > self.full(left, shape) * 3 / 4 || first.1 + second.1 > shape.leaf_bytes / 2 {
            return;
        }
        let separator = self.separators.get(left);
        let right = self.children.remove(left + 1);
        Arc::make_mut(&mut self.separators).remove(left);
        let child = &mut self.children[left];
        child.live += right.live;
        match (Arc::make_mut(&mut child.node), &*right.node) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                Arc::make_mut(&mut left.keys).append(&right.keys);
                left.records.append(&right.records);
            }
            (Node::Inner(left), Node::Inner(right)) => {
                let separators = Arc::make_mut(&mut left.separators);
                separators.push(&separator);
                separators.append(&right.separators);
                left.children.extend(right.children.iter().cloned());
            }
            _ => unreachable!("children of one node are of one kind: the tree grows and shrinks at its root"),
        }
    }
}

/// The shortest byte string above `left` and not above `right`; requires `left < right`.
pub(super) fn shortest_between<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    &right[..=common_len(left, right)]
}

/// The span of a range; points are handled by [`Node::get`].
pub(super) fn span(range: &KeyRange) -> Span<'_> {
    match &range.end {
        RangeEnd::Point | RangeEnd::Open => (&range.start, None),
        RangeEnd::Before(end) => (&range.start, Some(end)),
    }
}

/// Builds a tree from ascending keys, with full leaves and no copying.
pub(super) struct Builder {
    shape: Shape,
    leaf: Leaf,
    /// By level, from the leaves up: children without a parent yet, each with the separator before it.
    levels: Vec<Vec<(Vec<u8>, Child)>>,
    last: Vec<u8>,
    pub(super) keys: u64,
}

impl Builder {
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, leaf: Leaf::default(), levels: Vec::new(), last: Vec::new(), keys: 0 }
    }

    pub(super) fn push(&mut self, key: &[u8], record: &[u8]) {
        let bytes = self.leaf.keys.byte_len_with(key);
        let Shape { leaf_keys, leaf_bytes, .. } = self.shape;
        if self.leaf.keys.len() == leaf_keys || (bytes > leaf_bytes && self.leaf.keys.len() > 0) {
            self.close_leaf(key);
        }
        Arc::make_mut(&mut self.leaf.keys).push(key);
        self.leaf.records.push(record);
        self.keys += 1;
    }

    fn close_leaf(&mut self, next: &[u8]) {
        let leaf = std::mem::take(&mut self.leaf);
        let separator = shortest_between(&leaf.keys.get(leaf.keys.len() - 1), next).to_vec();
        let before = std::mem::replace(&mut self.last, separator);
        self.lift(0, before, Node::Leaf(leaf));
    }

    fn lift(&mut self, level: usize, separator: Vec<u8>, node: Node) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        if self.levels[level].len() == self.shape.children {
            let children = std::mem::take(&mut self.levels[level]);
            let (before, inner) = gather(children);
            self.lift(level + 1, before, inner);
        }
        self.levels[level].push((separator, Child { live: node.live(), node: Arc::new(node) }));
    }

    pub(super) fn finish(mut self) -> Arc<Node> {
        let leaf = std::mem::take(&mut self.leaf);
        let before = std::mem::take(&mut self.last);
        self.lift(0, before, Node::Leaf(leaf));
        let mut level = 0;
        while level + 1 < self.levels.len() || self.levels[level].len() > 1 {
            let children = std::mem::take(&mut self.levels[level]);
            let (before, inner) = gather(children);
            self.lift(level + 1, before, inner);
            level += 1;
        }
        let (_, root) =
            self.levels[level].pop().expect("the last level holds what the leaves were lifted into");
        root.node
    }
}

fn gather(children: Vec<(Vec<u8>, Child)>) -> (Vec<u8>, Node) {
    let mut separators = Keys::default();
    for (separator, _) in &children[1..] {
        separators.push(separator);
    }
    let mut children = children.into_iter();
    let (before, first) = children.next().expect("a level is gathered when it is full or last, never empty");
    let children = std::iter::once(first).chain(children.map(|(_, child)| child)).collect();
    (before, Node::Inner(Inner { separators: Arc::new(separators), children }))
}
