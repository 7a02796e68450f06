//! The place and term of every live entry, in twelve bytes each: offset and length of its frame, and the running crc
//! before it, so that one entry can be read and verified alone.
//!
//! ```text
//! base (index, term) │ slot base+1 │ slot base+2 │ …          base: known by its term only
//! runs               │ term 2 from base+1 … │ term 5 from … │
//! segments           │ seq 7 from base+1 …        │ seq 8 from … │
//! ```

use std::collections::VecDeque;
use types::{Index, Term};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
    /// The running crc before the entry's record.
    pub(crate) seed: u32,
}

/// The index of the live log: consecutive entries above a base.
#[derive(Debug, Default)]
pub struct LogIndex {
    base_index: Index,
    base_term: Term,
    slots: VecDeque<Slot>,
    /// (first index, term), both ascending; the first run starts at the first slot.
    runs: VecDeque<(Index, Term)>,
    /// (first index, segment's sequence number), both ascending; the first stretch starts at the first slot.
    stretches: VecDeque<(Index, u64)>,
}

impl LogIndex {
    /// The first entry; in an empty log, the last index plus one.
    pub fn first(&self) -> Index {
        self.base_index + 1
    }

    /// The last entry; in an empty log, the first index minus one.
    pub fn last(&self) -> Index {
        self.base_index + self.slots.len() as u64
    }

    /// The term of an entry, or of the one before the first.
    pub fn term(&self, index: Index) -> Option<Term> {
        if index == self.base_index {
            return Some(self.base_term);
        }
        if index < self.base_index || index > self.last() {
            return None;
        }
        let run = self.runs.partition_point(|&(first, _)| first <= index);
        Some(self.runs[run.checked_sub(1).expect("the first run begins at the first slot")].1)
    }

    pub(crate) fn locate(&self, index: Index) -> Option<(u64, Slot)> {
        let position = usize::try_from(index.checked_sub(self.first())?).ok()?;
        let slot = *self.slots.get(position)?;
        let stretch = self.stretches.partition_point(|&(first, _)| first <= index);
        Some((
            self.stretches[stretch.checked_sub(1).expect("the first stretch begins at the first slot")].1,
            slot,
        ))
    }

    /// Appends an entry, or replaces one and drops those after it.
    pub(crate) fn put(&mut self, index: Index, term: Term, seq: u64, slot: Slot) {
        assert!(index >= self.first() && index <= self.last() + 1, "entries are consecutive");
        self.truncate(index);
        self.slots.push_back(slot);
        if self.runs.back().is_none_or(|&(_, last)| last != term) {
            self.runs.push_back((index, term));
        }
        if self.stretches.back().is_none_or(|&(_, last)| last != seq) {
            self.stretches.push_back((index, seq));
        }
    }

    fn truncate(&mut self, index: Index) {
        if index > self.last() {
            return;
        }
        let kept = index.saturating_sub(self.first());
        self.slots.truncate(usize::try_from(kept).expect("an index into memory"));
        while self.runs.back().is_some_and(|&(first, _)| first >= index) {
            self.runs.pop_back();
        }
        while self.stretches.back().is_some_and(|&(first, _)| first >= index) {
            self.stretches.pop_back();
        }
    }

    /// Drops the entries up to `index`, which becomes the base.
    pub(crate) fn release(&mut self, index: Index) {
        let Some(term) = self.term(index) else { return };
        let gone = usize::try_from(index - self.base_index).expect("an index into memory");
        self.slots.drain(..gone);
        drop_before(&mut self.runs, index + 1, self.slots.is_empty());
        drop_before(&mut self.stretches, index + 1, self.slots.is_empty());
        (self.base_index, self.base_term) = (index, term);
    }

    pub(crate) fn reset(&mut self, index: Index, term: Term) {
        self.slots.clear();
        self.runs.clear();
        self.stretches.clear();
        (self.base_index, self.base_term) = (index, term);
    }

    pub(crate) fn first_of(&self, seq: u64) -> Option<Index> {
        self.stretches.iter().find(|&&(_, s)| s == seq).map(|&(first, _)| first)
    }
}

fn drop_before<T: Copy>(runs: &mut VecDeque<(Index, T)>, index: Index, empty: bool) {
    if empty {
        runs.clear();
        return;
    }
    while runs.get(1).is_some_and(|&(first, _)| first <= index) {
        runs.pop_front();
    }
    if let Some(run) = runs.front_mut() {
        run.0 = run.0.max(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn slot(n: u32) -> Slot {
        Slot { offset: n, bytes: n + 1, seed: n + 2 }
    }

    proptest! {
        #[test]
        fn the_index_answers_as_a_plain_map_does(steps in proptest::collection::vec((0_u8..10, 0_u64..8, 0_u64..3), 1..200)) {
            let mut index = LogIndex::default();
            let mut naive: BTreeMap<Index, (Term, u64, Slot)> = BTreeMap::new();
            let (mut base, mut term, mut seq) = ((0, 0), 1, 0);
            for (n, (what, back, more)) in (0_u32..).zip(steps) {
                let last = naive.keys().last().copied().unwrap_or(base.0);
                term += more / 2;
                match what {
                    0 => seq += 1,
                    1 => {
                        let to = last.saturating_sub(back).max(base.0);
                        base = naive.get(&to).map_or(base, |&(term, _, _)| (to, term));
                        naive = naive.split_off(&(to + 1));
                        index.release(to);
                    }
                    2 if more == 0 => {
                        base = (last + back, term);
                        naive.clear();
                        index.reset(base.0, base.1);
                    }
                    _ => {
                        let at = (last + 1).saturating_sub(back * u64::from(what == 3)).max(base.0 + 1);
                        naive.split_off(&at);
                        naive.insert(at, (term, seq, slot(n)));
                        index.put(at, term, seq, slot(n));
                    }
                }
                prop_assert_eq!(index.first(), base.0 + 1);
                prop_assert_eq!(index.last(), naive.keys().last().copied().unwrap_or(base.0));
                prop_assert_eq!(index.term(base.0), Some(base.1));
                prop_assert_eq!(index.locate(base.0), None);
                for i in base.0 + 1..index.last() + 2 {
                    let want = naive.get(&i);
                    prop_assert_eq!(index.term(i), want.map(|w| w.0));
                    prop_assert_eq!(index.locate(i), want.map(|w| (w.1, w.2)));
                }
                let of_seq = naive.iter().find(|(_, w)| w.1 == seq).map(|(&i, _)| i);
                prop_assert_eq!(index.first_of(seq), of_seq);
            }
        }
    }
}
