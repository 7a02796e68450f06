//! Ascending keys without their common prefix: the suffixes fill a few cache lines, so comparing rarely misses them.

use super::pack::Pack;
use std::ops::Range;

/// Ascending keys. Item 0 of the pack (empty without keys) is a common prefix, if not the longest; then the suffixes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    pack: Pack,
}

impl Keys {
    pub(crate) fn len(&self) -> usize {
        self.pack.len().saturating_sub(1)
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.pack.byte_len()
    }

    /// What [`Keys::byte_len`] would be with this key added.
    pub(crate) fn byte_len_with(&self, key: &[u8]) -> usize {
        let (prefix, keys) = (self.prefix(), self.len());
        let common = if keys == 0 { 0 } else { common_len(prefix, key) };
        self.byte_len() + keys * (prefix.len() - common) + key.len()
    }

    pub(crate) fn heap_len(&self) -> usize {
        self.pack.heap_len()
    }

    pub(crate) fn prefix(&self) -> &[u8] {
        if self.pack.len() == 0 { &[] } else { self.pack.get(0) }
    }

    pub(crate) fn suffix(&self, at: usize) -> &[u8] {
        self.pack.get(at + 1)
    }

    pub(crate) fn get(&self, at: usize) -> Vec<u8> {
        [self.prefix(), self.suffix(at)].concat()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Vec<u8>> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// The position of the key (`Ok`), or where to insert it (`Err`).
    pub(crate) fn search(&self, wanted: &[u8]) -> Result<usize, usize> {
        let prefix = self.prefix();
        match wanted.strip_prefix(prefix) {
            Some(rest) if self.pack.len() > 0 => match self.pack.search(1, rest) {
                Ok(at) => Ok(at - 1),
                Err(at) => Err(at - 1),
            },
            None if wanted > prefix => Err(self.len()),
            Some(_) | None => Err(0),
        }
    }

    pub(crate) fn insert(&mut self, at: usize, key: &[u8]) {
        if self.len() == 0 {
            self.pack = Pack::default();
            self.pack.push(key);
            self.pack.push(&[]);
            return;
        }
        let common = common_len(self.prefix(), key);
        if common < self.prefix().len() {
            *self = Self::gathered(&[(self, 0..self.len())], common);
        }
        self.pack.insert(at + 1, &key[common..]);
    }

    pub(crate) fn push(&mut self, key: &[u8]) {
        self.insert(self.len(), key);
    }

    pub(crate) fn remove(&mut self, at: usize) {
        self.pack.remove(at + 1);
    }

    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let right = Self::of(&[(self, at..self.len())]);
        *self = Self::of(&[(self, 0..at)]);
        right
    }

    /// Appends keys that are all greater than these.
    pub(crate) fn append(&mut self, other: &Self) {
        *self = Self::of(&[(self, 0..self.len()), (other, 0..other.len())]);
    }

    /// The keys of all parts, in order, with the longest common prefix.
    fn of(parts: &[(&Self, Range<usize>)]) -> Self {
        let mut filled = parts.iter().filter(|(_, range)| !range.is_empty());
        let Some((first, from)) = filled.next() else { return Self::default() };
        let (last, to) = filled.next_back().unwrap_or(&(first, from.clone())).clone();
        let common = common_len(&first.get(from.start), &last.get(to.end - 1));
        Self::gathered(parts, common)
    }

    /// The keys of all parts, in order, given the length of their common prefix.
    fn gathered(parts: &[(&Self, Range<usize>)], common: usize) -> Self {
        let (mut ends, mut strings) = (Vec::new(), Vec::new());
        for (keys, range) in parts {
            let prefix = keys.prefix();
            for at in range.clone() {
                let suffix = keys.suffix(at);
                if ends.is_empty() {
                    strings.extend(prefix.iter().chain(suffix).take(common));
                    ends.push(strings.len());
                }
                strings.extend_from_slice(prefix.get(common..).unwrap_or_default());
                strings.extend_from_slice(&suffix[common.saturating_sub(prefix.len())..]);
                ends.push(strings.len());
            }
        }
        Self { pack: Pack::of(&ends, &strings) }
    }
}

pub(super) fn common_len(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(a, b)| a == b).count()
}
