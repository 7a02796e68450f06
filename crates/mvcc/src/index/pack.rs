//! Byte strings stored end to end, of which the index's nodes are made: small, and copied with one `memcpy`.

/// An ordered list of byte strings, at most 4 GiB: the end of each (relative to the first's start), then the strings.
/// One allocation, because a walk down the tree pays for each memory page it touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pack {
    data: Vec<u8>,
    count: usize,
}

/// Spare room when a buffer grows, as a fraction of its length: doubling would waste a third of the index's memory.
const SLACK_DIVISOR: usize = 16;
const END: usize = size_of::<u32>();

impl Pack {
    pub(crate) fn of(ends: &[usize], strings: &[u8]) -> Self {
        let mut data = Vec::with_capacity(ends.len() * END + strings.len());
        data.extend(ends.iter().flat_map(|&end| offset(end).to_le_bytes()));
        data.extend_from_slice(strings);
        Self { data, count: ends.len() }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.data.len() - self.count * END
    }

    pub(crate) fn heap_len(&self) -> usize {
        self.data.capacity()
    }

    pub(crate) fn get(&self, at: usize) -> &[u8] {
        let base = self.count * END;
        &self.data[base + self.start(at)..base + self.end(at)]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// The position of the string, searched from `low` on, or where to insert it; the strings from there on ascend.
    pub(crate) fn search(&self, mut low: usize, wanted: &[u8]) -> Result<usize, usize> {
        let (ends, strings) = self.data.split_at(self.count * END);
        let (ends, _) = ends.as_chunks::<END>();
        let end = |at: usize| u32::from_le_bytes(ends[at]) as usize;
        let mut high = self.count;
        while low < high {
            let middle = usize::midpoint(low, high);
            let start = if middle == 0 { 0 } else { end(middle - 1) };
            match strings[start..end(middle)].cmp(wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    pub(crate) fn insert(&mut self, at: usize, item: &[u8]) {
        let (start, base, total) = (self.start(at), self.count * END, self.data.len());
        self.grow(END + item.len());
        self.data.copy_within(base + start..total, base + END + start + item.len());
        self.data.copy_within(at * END..base + start, at * END + END);
        self.count += 1;
        self.set_end(at, start);
        self.move_ends(at, start, start + item.len());
        let place = base + END + start;
        self.data[place..place + item.len()].copy_from_slice(item);
    }

    pub(crate) fn push(&mut self, item: &[u8]) {
        self.insert(self.len(), item);
    }

    pub(crate) fn replace(&mut self, at: usize, item: &[u8]) {
        let (start, end, base, total) = (self.start(at), self.end(at), self.count * END, self.data.len());
        let new_end = start + item.len();
        if new_end > end {
            self.grow(new_end - end);
        }
        self.data.copy_within(base + end..total, base + new_end);
        self.data.truncate(total + new_end - end);
        self.move_ends(at, end, new_end);
        self.data[base + start..base + new_end].copy_from_slice(item);
    }

    pub(crate) fn remove(&mut self, at: usize) {
        self.replace(at, &[]);
        self.data.drain(at * END..(at + 1) * END);
        self.count -= 1;
    }

    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let (left, right) = (self.part(0, at), self.part(at, self.count));
        *self = left;
        right
    }

    pub(crate) fn append(&mut self, other: &Self) {
        let start = self.byte_len();
        let ends =
            (0..self.count).map(|at| self.end(at)).chain((0..other.count).map(|at| start + other.end(at)));
        let mut data = Vec::with_capacity(self.data.len() + other.data.len());
        data.extend(ends.flat_map(|end| offset(end).to_le_bytes()));
        data.extend_from_slice(&self.data[self.count * END..]);
        data.extend_from_slice(&other.data[other.count * END..]);
        *self = Self { data, count: self.count + other.count };
    }

    fn part(&self, from: usize, to: usize) -> Self {
        let (base, start) = (self.count * END, self.start(from));
        let strings = &self.data[base + start..base + self.start(to)];
        let mut data = Vec::with_capacity((to - from) * END + strings.len());
        data.extend((from..to).flat_map(|at| offset(self.end(at) - start).to_le_bytes()));
        data.extend_from_slice(strings);
        Self { data, count: to - from }
    }

    fn start(&self, at: usize) -> usize {
        if at == 0 { 0 } else { self.end(at - 1) }
    }

    fn end(&self, at: usize) -> usize {
        let (ends, _) = self.data[..self.count * END].as_chunks::<END>();
        u32::from_le_bytes(ends[at]) as usize
    }

    fn set_end(&mut self, at: usize, end: usize) {
        self.data[at * END..(at + 1) * END].copy_from_slice(&offset(end).to_le_bytes());
    }

    fn move_ends(&mut self, at: usize, old: usize, new: usize) {
        let (old, new) = (offset(old), offset(new));
        let (ends, _) = self.data[at * END..self.count * END].as_chunks_mut::<END>();
        for end in ends.iter_mut().filter(|_| old != new) {
            *end = (u32::from_le_bytes(*end) - old + new).to_le_bytes();
        }
    }

    fn grow(&mut self, more: usize) {
        let total = self.data.len() + more;
        if total > self.data.capacity() {
            self.data.reserve_exact(more + total / SLACK_DIVISOR);
        }
        self.data.resize(total, 0);
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
