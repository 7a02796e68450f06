//! A bucket's entries in order: one page of each level in memory.

use crate::page::Page;
use crate::source::{Claims, Source};
use crate::{Limits, ReadAt, ReadError};
use std::cmp::Ordering;

/// Where a bucket's entries are.
#[derive(Clone, Debug)]
pub(crate) enum Root {
    Page(u64),
    /// The image of a leaf, and the page that it lies in.
    Inline(u64, Vec<u8>),
}

/// What a key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Bytes, from none to [`crate::VALUE_BYTES_MAX`].
    Bytes(&'a [u8]),
    /// A bucket, which [`crate::Bucket::bucket`] opens.
    Bucket,
}

/// A key with what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// From 1 to [`crate::KEY_BYTES_MAX`] bytes.
    pub key: &'a [u8],
    /// Bytes or a bucket.
    pub value: Value<'a>,
}

/// Walks the entries of one bucket in order of their keys.
#[derive(Debug)]
pub struct Cursor<'r, R> {
    source: &'r Source<R>,
    claims: Claims,
    steps: Steps,
}

impl<'r, R: ReadAt> Cursor<'r, R> {
    pub(crate) fn new(source: &'r Source<R>, root: Root) -> Self {
        Self { source, claims: Claims::Count(0), steps: Steps::new(root) }
    }

    /// Moves to the next entry, at first to the first one; `None` at the end. After an error it returns
    /// [`ReadError::Failed`], until a seek.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        Ok(if self.steps.next(self.source, &mut self.claims)? { Some(self.steps.entry()) } else { None })
    }

    /// Moves to the first entry whose key is `key` or above; `None` if there is none.
    ///
    /// A branch's keys lead to it without the pages beside, so each must be the first key of its child, as bbolt writes
    /// it. [`Cursor::next_entry`] sees all keys, and asks only that they are in their branch's range.
    pub fn seek(&mut self, key: &[u8]) -> Result<Option<Entry<'_>>, ReadError> {
        self.claims = Claims::Count(0);
        let found = self.steps.seek(key, self.source, &mut self.claims)?;
        Ok(if found { Some(self.steps.entry()) } else { None })
    }
}

/// A cursor's position, without what it reads from.
#[derive(Debug)]
pub(crate) struct Steps {
    root: Root,
    at: At,
    /// From the root down to a leaf; of each page the element that is next or, in a branch, above the page below it.
    frames: Vec<Frame>,
    /// Pages whose buffers are used again.
    spare: Vec<Page>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    Entry,
    End,
    Failed,
}

#[derive(Debug)]
struct Frame {
    page: Page,
    at: usize,
}

/// What a child's first key must be, compared with its key in the branch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Equal,
    NotBelow,
}

impl Steps {
    pub(crate) fn new(root: Root) -> Self {
        Self { root, at: At::Start, frames: Vec::new(), spare: Vec::new() }
    }

    /// Moves to the next entry; returns whether there is one.
    pub(crate) fn next<R: ReadAt>(
        &mut self,
        source: &Source<R>,
        claims: &mut Claims,
    ) -> Result<bool, ReadError> {
        let moved = match self.at {
            At::Start => self.load_root(source, claims).and_then(|()| self.descend(source, claims)),
            At::Entry => {
                let leaf = self.frames.last_mut().expect("an entry is in a leaf");
                leaf.at += 1;
                if leaf.at < leaf.page.count {
                    return Ok(true);
                }
                self.next_leaf(source, claims)
            }
            At::End => return Ok(false),
            At::Failed => Err(ReadError::Failed),
        };
        self.settle(moved)
    }

    pub(crate) fn seek<R: ReadAt>(
        &mut self,
        key: &[u8],
        source: &Source<R>,
        claims: &mut Claims,
    ) -> Result<bool, ReadError> {
        let moved = self.load_root(source, claims).and_then(|()| self.descend_to(key, source, claims));
        self.settle(moved)
    }

    /// The entry at which it is, after a move to one.
    pub(crate) fn entry(&self) -> Entry<'_> {
        let leaf = self.frames.last().expect("an entry is in a leaf");
        let key = leaf.page.key(leaf.at);
        let is_bucket = leaf.page.is_bucket(leaf.at);
        Entry { key, value: if is_bucket { Value::Bucket } else { Value::Bytes(leaf.page.value(leaf.at)) } }
    }

    /// The page of that entry, and its value; of a bucket this is root, sequence and inline page.
    pub(crate) fn raw(&self) -> (u64, &[u8]) {
        let leaf = self.frames.last().expect("an entry is in a leaf");
        (leaf.page.id, leaf.page.value(leaf.at))
    }

    fn settle(&mut self, moved: Result<bool, ReadError>) -> Result<bool, ReadError> {
        self.at = match moved {
            Ok(true) => At::Entry,
            Ok(false) => At::End,
            Err(_) => At::Failed,
        };
        if self.at != At::Entry {
            self.frames.clear();
            self.spare.clear();
        }
        moved
    }

    fn load_root<R: ReadAt>(&mut self, source: &Source<R>, claims: &mut Claims) -> Result<(), ReadError> {
        while let Some(frame) = self.frames.pop() {
            self.spare.push(frame.page);
        }
        let mut page = self.spare.pop().unwrap_or_default();
        match &self.root {
            Root::Page(id) => source.load(*id, &mut page, claims)?,
            Root::Inline(id, image) => page = Page::inline(*id, image),
        }
        if page.count == 0 && !page.is_leaf {
            return Err(ReadError::corrupt(page.id, "it is a branch without children"));
        }
        self.frames.push(Frame { page, at: 0 });
        Ok(())
    }

    /// Goes down to the first leaf below the last frame; returns whether it has an entry. Only a root has none.
    fn descend<R: ReadAt>(&mut self, source: &Source<R>, claims: &mut Claims) -> Result<bool, ReadError> {
        loop {
            let last = self.frames.last().expect("the root was loaded");
            if last.page.is_leaf {
                return Ok(last.page.count > 0);
            }
            self.load_child(source, claims, First::NotBelow)?;
        }
    }

    /// Goes down to the leaf where `key` belongs, and to the first entry from it on.
    fn descend_to<R: ReadAt>(
        &mut self,
        key: &[u8],
        source: &Source<R>,
        claims: &mut Claims,
    ) -> Result<bool, ReadError> {
        loop {
            let last = self.frames.last_mut().expect("the root was loaded");
            if last.page.is_leaf {
                last.at = last.page.partition(|other| other < key);
                return if last.at < last.page.count { Ok(true) } else { self.next_leaf(source, claims) };
            }
            last.at = last.page.partition(|other| other <= key).saturating_sub(1);
            self.load_child(source, claims, First::Equal)?;
        }
    }

    /// Goes on from the end of a leaf to the first entry of the next one.
    fn next_leaf<R: ReadAt>(&mut self, source: &Source<R>, claims: &mut Claims) -> Result<bool, ReadError> {
        while let Some(done) = self.frames.pop() {
            self.spare.push(done.page);
            let Some(parent) = self.frames.last_mut() else { break };
            parent.at += 1;
            if parent.at < parent.page.count {
                return self.descend(source, claims);
            }
        }
        Ok(false)
    }

    /// Loads the page that the last frame, a branch, refers to, and checks that its keys are in their range.
    fn load_child<R: ReadAt>(
        &mut self,
        source: &Source<R>,
        claims: &mut Claims,
        first: First,
    ) -> Result<(), ReadError> {
        let Limits { depth_max, .. } = source.limits;
        let parent = self.frames.last().expect("a child has a parent");
        let id = parent.page.child(parent.at);
        if self.frames.len() >= depth_max {
            let what = format!("more than {depth_max} levels of pages");
            return Err(ReadError::Limit { page: id, what, limit: "depth_max" });
        }
        let mut page = self.spare.pop().unwrap_or_default();
        source.load(id, &mut page, claims)?;
        if page.count == 0 {
            return Err(ReadError::corrupt(id, "it is empty, and no bucket's root"));
        }
        let fits = match page.key(0).cmp(parent.page.key(parent.at)) {
            Ordering::Less => false,
            Ordering::Equal => true,
            Ordering::Greater => first == First::NotBelow,
        };
        if !fits {
            return Err(ReadError::corrupt(id, "its first key is not the one that its parent has for it"));
        }
        let above = self.frames.iter().rev().find(|frame| frame.at + 1 < frame.page.count);
        if above.is_some_and(|frame| page.key(page.count - 1) >= frame.page.key(frame.at + 1)) {
            return Err(ReadError::corrupt(id, "its last key is not below the page that follows it"));
        }
        self.frames.push(Frame { page, at: 0 });
        Ok(())
    }
}
