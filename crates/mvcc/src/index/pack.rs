//! Byte strings laid end to end: what the nodes of the index are made of.
//!
//! A node's keys or records are two allocations, not one a key: small, and copied with two `memcpy`s.

/// An ordered list of byte strings. Holds at most 4 GiB; the tree splits its nodes long before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pack {
    /// Where each string ends in `bytes`, ascending.
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

/// Room left when a buffer grows, as a part of its length: doubling would waste a third of the index's memory.
const SLACK_DIVISOR: usize = 16;

impl Pack {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// What the pack holds in memory, in bytes.
    pub(crate) fn heap_len(&self) -> usize {
        self.ends.capacity() * size_of::<u32>() + self.bytes.capacity()
    }

    pub(crate) fn get(&self, at: usize) -> &[u8] {
        &self.bytes[self.start(at)..self.ends[at] as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// Where the string is, or where it belongs; the strings must be ascending.
    pub(crate) fn search(&self, wanted: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.get(middle).cmp(wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    pub(crate) fn insert(&mut self, at: usize, item: &[u8]) {
        let start = self.start(at);
        if self.ends.len() == self.ends.capacity() {
            self.ends.reserve_exact(1 + self.ends.len() / SLACK_DIVISOR);
        }
        self.ends.insert(at, offset(start));
        self.resize_item(at, item.len());
        self.bytes[start..start + item.len()].copy_from_slice(item);
    }

    pub(crate) fn push(&mut self, item: &[u8]) {
        self.insert(self.len(), item);
    }

    pub(crate) fn replace(&mut self, at: usize, item: &[u8]) {
        self.resize_item(at, item.len());
        let start = self.start(at);
        self.bytes[start..start + item.len()].copy_from_slice(item);
    }

    pub(crate) fn remove(&mut self, at: usize) {
        self.resize_item(at, 0);
        self.ends.remove(at);
    }

    /// Keeps the first `at` strings and returns the others.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let start = self.start(at);
        let bytes = self.bytes.split_off(start);
        let ends = self.ends.split_off(at).into_iter().map(|end| end - offset(start)).collect();
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
        Self { ends, bytes }
    }

    pub(crate) fn append(&mut self, other: &Self) {
        let start = offset(self.bytes.len());
        self.ends.reserve_exact(other.len());
        self.bytes.reserve_exact(other.bytes.len());
        self.ends.extend(other.ends.iter().map(|end| start + end));
        self.bytes.extend_from_slice(&other.bytes);
    }

    fn start(&self, at: usize) -> usize {
        if at == 0 { 0 } else { self.ends[at - 1] as usize }
    }

    /// Gives the string at `at` this length; what its bytes are afterwards is the caller's business.
    fn resize_item(&mut self, at: usize, length: usize) {
        let (start, end, total) = (self.start(at), self.ends[at] as usize, self.bytes.len());
        let new_end = start + length;
        if new_end > end {
            let more = new_end - end;
            if total + more > self.bytes.capacity() {
                self.bytes.reserve_exact(more + total / SLACK_DIVISOR);
            }
            self.bytes.resize(total + more, 0);
            self.bytes.copy_within(end..total, new_end);
        } else if new_end < end {
            self.bytes.copy_within(end..total, new_end);
            self.bytes.truncate(total - (end - new_end));
        }
        if new_end != end {
            let (old, new) = (offset(end), offset(new_end));
            for later in &mut self.ends[at..] {
                *later = *later - old + new;
            }
        }
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at)
        .expect("a node is split long before it holds 4 GiB: keys are bounded by the request size")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pack_behaves_as_a_vector(ops in prop::collection::vec((0u8..5, 0usize..64, prop::collection::vec(any::<u8>(), 0..9)), 0..60)) {
            let (mut pack, mut model) = (Pack::default(), Vec::<Vec<u8>>::new());
            for (op, at, item) in ops {
                match (op, model.len()) {
                    (0 | 1, n) => { pack.insert(at % (n + 1), &item); model.insert(at % (n + 1), item); }
                    (2, n) if n > 0 => { pack.remove(at % n); model.remove(at % n); }
                    (3, n) if n > 0 => { pack.replace(at % n, &item); model[at % n] = item; }
                    (4, n) => {
                        let right = pack.split_off(at % (n + 1));
                        prop_assert_eq!(right.iter().collect::<Vec<_>>(), model[at % (n + 1)..].iter().collect::<Vec<_>>());
                        pack.append(&right);
                    }
                    _ => {}
                }
                prop_assert_eq!(pack.iter().collect::<Vec<_>>(), model.iter().collect::<Vec<_>>());
            }
        }
    }
}
