//! Builds one bucket's pages from its entries in order, holding one page of each level.
//!
//! A page is complete as soon as the next one begins, and goes out at once; so branches stand between leaves, each
//! behind its children. Page numbers depend on the lengths of the entries alone: a pass that counts pages gives the same
//! numbers as one that writes them.

use crate::WriteError;
use crate::format::{BRANCH, ELEMENT_BYTES, HEADER_BYTES, LEAF};

/// bbolt never lets a branch go below this, and stops the process (an assertion) at one that has fewer.
const CHILDREN_MIN: usize = 2;

/// Where complete pages go.
pub(crate) trait Sink {
    /// Takes a page of `bytes` bytes, header included, whose contents after the header are `parts`; returns its number.
    /// A sink that only counts is given no values.
    fn page(&mut self, flags: u16, count: usize, bytes: u64, parts: &[&[u8]]) -> Result<u64, WriteError>;
}

/// A value, or its length alone in a pass that measures.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'a> {
    Bytes(&'a [u8]),
    Length(u64),
}

impl<'a> Content<'a> {
    pub(crate) fn length(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Length(length) => length,
        }
    }

    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Length(_) => &[],
        }
    }
}

/// A tree that is being built.
#[derive(Debug)]
pub(crate) struct Tree {
    page_bytes: u64,
    /// Bytes after which a page is complete.
    fill_bytes: u64,
    leaf: Leaf,
    /// The branches that are not complete, the lowest first.
    branches: Vec<Branch>,
    elements: Vec<u8>,
}

/// The leaf that is being filled.
#[derive(Debug, Default)]
struct Leaf {
    first: Vec<u8>,
    /// Flags, key bytes and value bytes of each element.
    elements: Vec<[u32; 3]>,
    data: Vec<u8>,
    bytes: u64,
}

/// A branch that is being filled.
#[derive(Debug, Default)]
struct Branch {
    /// Key bytes, and the page.
    children: Vec<(usize, u64)>,
    keys: Vec<u8>,
    /// Whether a branch of this level went out before.
    is_further: bool,
}

impl Tree {
    /// `fill_percent` is from 10 to 100.
    pub(crate) fn new(page_bytes: u32, fill_percent: u8) -> Self {
        let page_bytes = u64::from(page_bytes);
        Self {
            page_bytes,
            fill_bytes: page_bytes * u64::from(fill_percent) / 100,
            leaf: Leaf::default(),
            branches: Vec::new(),
            elements: Vec::new(),
        }
    }

    /// Adds an entry whose key is above the one before it. An entry beyond the fill has a leaf of its own, and goes out
    /// without being copied.
    pub(crate) fn add(
        &mut self,
        flags: u32,
        key: &[u8],
        value: Content<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), WriteError> {
        let bytes = (ELEMENT_BYTES + key.len()) as u64 + value.length();
        if !self.leaf.elements.is_empty() && self.leaf.bytes + bytes > self.fill_bytes {
            self.end_leaf(sink)?;
        }
        let value_bytes =
            u32::try_from(value.length()).map_err(|_| WriteError::ValueBytes(value.length()))?;
        let element = [flags, u32::try_from(key.len()).expect("a key's length was checked"), value_bytes];
        if HEADER_BYTES as u64 + bytes > self.fill_bytes {
            write_table(&mut self.elements, &[element]);
            let parts = [&self.elements, key, value.bytes()];
            let page = sink.page(LEAF, 1, HEADER_BYTES as u64 + bytes, &parts)?;
            return self.child(0, key, page, sink);
        }
        if self.leaf.elements.is_empty() {
            self.leaf.first.clear();
            self.leaf.first.extend_from_slice(key);
            self.leaf.bytes = HEADER_BYTES as u64;
        }
        self.leaf.elements.push(element);
        self.leaf.data.extend_from_slice(key);
        self.leaf.data.extend_from_slice(value.bytes());
        self.leaf.bytes += bytes;
        Ok(())
    }

    /// Ends the tree; returns its root page. A tree without entries is one empty leaf.
    pub(crate) fn finish(mut self, sink: &mut dyn Sink) -> Result<u64, WriteError> {
        if !self.leaf.elements.is_empty() {
            self.end_leaf(sink)?;
        } else if self.branches.is_empty() {
            return sink.page(LEAF, 0, HEADER_BYTES as u64, &[]);
        }
        let mut level = 0;
        loop {
            let branch = &self.branches[level];
            if let ([(_, root)], false) = (&branch.children[..], branch.is_further) {
                return Ok(*root);
            }
            let count = branch.children.len();
            if branch.bytes(count) > self.page_bytes && count >= 2 * CHILDREN_MIN {
                self.end_branch(level, count - CHILDREN_MIN, sink)?;
            }
            self.end_branch(level, self.branches[level].children.len(), sink)?;
            level += 1;
        }
    }

    fn end_leaf(&mut self, sink: &mut dyn Sink) -> Result<(), WriteError> {
        let mut leaf = std::mem::take(&mut self.leaf);
        write_table(&mut self.elements, &leaf.elements);
        let page = sink.page(LEAF, leaf.elements.len(), leaf.bytes, &[&self.elements, &leaf.data])?;
        self.child(0, &leaf.first, page, sink)?;
        leaf.elements.clear();
        leaf.data.clear();
        self.leaf = leaf;
        Ok(())
    }

    /// Adds a complete page to the branch of a level. The branch goes out when its page is full and two children are
    /// left for the next one.
    fn child(&mut self, level: usize, key: &[u8], page: u64, sink: &mut dyn Sink) -> Result<(), WriteError> {
        if self.branches.len() == level {
            self.branches.push(Branch::default());
        }
        let branch = &mut self.branches[level];
        branch.children.push((key.len(), page));
        branch.keys.extend_from_slice(key);
        let count = branch.children.len();
        if count >= 2 * CHILDREN_MIN && branch.bytes(count - 1) > self.fill_bytes {
            self.end_branch(level, count - CHILDREN_MIN, sink)?;
        }
        Ok(())
    }

    /// Lets the first `count` children of a level's branch go out as a page.
    fn end_branch(&mut self, level: usize, count: usize, sink: &mut dyn Sink) -> Result<(), WriteError> {
        let mut branch = std::mem::take(&mut self.branches[level]);
        self.elements.clear();
        let mut position = count * ELEMENT_BYTES;
        for (key_bytes, page) in &branch.children[..count] {
            self.elements.extend_from_slice(&number(position).to_le_bytes());
            self.elements.extend_from_slice(&number(*key_bytes).to_le_bytes());
            self.elements.extend_from_slice(&page.to_le_bytes());
            position = position + key_bytes - ELEMENT_BYTES;
        }
        let bytes = branch.bytes(count);
        let key_bytes = branch.key_bytes(count);
        let page = sink.page(BRANCH, count, bytes, &[&self.elements, &branch.keys[..key_bytes]])?;
        let first: Vec<u8> = branch.keys[..branch.children[0].0].to_vec();
        branch.children.drain(..count);
        branch.keys.drain(..key_bytes);
        branch.is_further = true;
        self.branches[level] = branch;
        self.child(level + 1, &first, page, sink)
    }
}

impl Branch {
    /// The bytes of the first keys.
    fn key_bytes(&self, count: usize) -> usize {
        let last: usize = self.children[count..].iter().map(|(key_bytes, _)| key_bytes).sum();
        self.keys.len() - last
    }

    /// The bytes of a page of the first children.
    fn bytes(&self, count: usize) -> u64 {
        (HEADER_BYTES + count * ELEMENT_BYTES + self.key_bytes(count)) as u64
    }
}

/// The elements of a leaf as they stand in a page: each has the distance to its key.
fn write_table(table: &mut Vec<u8>, elements: &[[u32; 3]]) {
    table.clear();
    let mut position = elements.len() * ELEMENT_BYTES;
    for [flags, key_bytes, value_bytes] in elements {
        for field in [*flags, number(position), *key_bytes, *value_bytes] {
            table.extend_from_slice(&field.to_le_bytes());
        }
        position = position + *key_bytes as usize + *value_bytes as usize - ELEMENT_BYTES;
    }
}

/// A position or length in a page.
fn number(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("all but the last value of a page are within its fill")
}
