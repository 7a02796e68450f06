//! The first keys of a sorted answer: holds only as many as the answer may need, however long the range is.

use crate::KeyValue;
use crate::query::{Order, Query, SortBy};
use crate::record::Head;
use bytes::Bytes;
use std::cmp::Ordering;
use types::Revision;

/// Keys held beyond the wanted ones before they are sorted: bounds both memory and the number of sorts.
const GATHERED_MIN: usize = 64;

/// A version found by a query, its value not read yet.
pub(crate) struct Found {
    pub(crate) key: Bytes,
    pub(crate) at: Revision,
    pub(crate) create: i64,
    pub(crate) version: i64,
    /// The length of its `KeyValue`, bytes.
    pub(crate) size: u32,
    /// The version itself, if finding it meant reading it.
    pub(crate) kv: Option<KeyValue>,
}

impl Found {
    pub(crate) fn newest(key: &[u8], head: &Head) -> Self {
        Self {
            key: Bytes::copy_from_slice(key),
            at: head.newest,
            create: head.create,
            version: head.version,
            size: head.size,
            kv: None,
        }
    }

    fn value(&self) -> Option<&Bytes> {
        self.kv.as_ref().map(|kv| &kv.value)
    }
}

/// Receives keys in key order and keeps the first ones of the order asked for. Ties stay in key order.
pub(crate) struct Top {
    by: SortBy,
    order: Order,
    /// The limit plus one, which tells whether there are more.
    wanted: usize,
    found: Vec<Found>,
    /// The worst number among the wanted ones, once there are enough: a later key must beat it.
    bar: Option<i64>,
}

impl Top {
    pub(crate) fn new(query: &Query) -> Self {
        let (by, order) = query.sort.unwrap_or((SortBy::Key, Order::Ascend));
        let wanted = query.limit().map_or(usize::MAX, |limit| limit.saturating_add(1));
        Self { by, order, wanted, found: Vec::new(), bar: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether the walk may end before the range does: keys come in the order asked for, and not all are wanted.
    pub(crate) fn ends_early(&self) -> bool {
        (self.by, self.order) == (SortBy::Key, Order::Ascend) && self.wanted < usize::MAX
    }

    pub(crate) fn is_full(&self) -> bool {
        self.ends_early() && self.found.len() >= self.wanted
    }

    /// Whether the newest version of a later key may still matter, judging by its index record.
    pub(crate) fn admits(&self, head: &Head) -> bool {
        let Some(bar) = self.bar else { return true };
        let number = match self.by {
            SortBy::Version => head.version,
            SortBy::Create => head.create,
            SortBy::Mod => head.newest.main,
            SortBy::Key | SortBy::Value => return true,
        };
        match self.order {
            Order::Ascend => number < bar,
            Order::Descend => number > bar,
        }
    }

    pub(crate) fn push(&mut self, found: Found) {
        self.found.push(found);
        if self.found.len() >= self.wanted.saturating_mul(2).max(GATHERED_MIN) {
            self.cut();
        }
    }

    pub(crate) fn finish(mut self) -> Vec<Found> {
        self.cut();
        self.found
    }

    fn cut(&mut self) {
        let by = self.by;
        match self.order {
            Order::Ascend => self.found.sort_by(|a, b| compare(by, a, b)),
            Order::Descend => self.found.sort_by(|a, b| compare(by, b, a)),
        }
        self.found.truncate(self.wanted);
        let Some(last) = self.found.last().filter(|_| self.found.len() == self.wanted) else { return };
        self.bar = match by {
            SortBy::Version => Some(last.version),
            SortBy::Create => Some(last.create),
            SortBy::Mod => Some(last.at.main),
            SortBy::Key | SortBy::Value => None,
        };
    }
}

fn compare(by: SortBy, a: &Found, b: &Found) -> Ordering {
    match by {
        SortBy::Key => a.key.cmp(&b.key),
        SortBy::Version => a.version.cmp(&b.version),
        SortBy::Create => a.create.cmp(&b.create),
        SortBy::Mod => a.at.main.cmp(&b.at.main),
        SortBy::Value => a.value().cmp(&b.value()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(number: i64) -> Head {
        Head { create: number, newest: Revision::new(number, 0), version: number, ..Head::default() }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_sorting_everything_gives(
            numbers in prop::collection::vec(0i64..40, 0..400),
            limit in 0i64..9,
            by in prop::sample::select(vec![SortBy::Key, SortBy::Version, SortBy::Create, SortBy::Mod]),
            order in prop::sample::select(vec![Order::Ascend, Order::Descend]),
        ) {
            let query = Query { sort: Some((by, order)), limit, ..Query::default() };
            let mut top = Top::new(&query);
            let mut all = Vec::new();
            let mut most = 0;
            for (at, number) in numbers.iter().enumerate() {
                let key = format!("{at:04}");
                all.push((key.clone(), *number));
                if top.admits(&head(*number)) {
                    top.push(Found::newest(key.as_bytes(), &head(*number)));
                }
                most = most.max(top.len());
            }
            let number_of = |entry: &(String, i64)| if by == SortBy::Key { 0 } else { entry.1 };
            match (by, order) {
                (SortBy::Key, Order::Descend) => all.reverse(),
                (_, Order::Ascend) => all.sort_by_key(number_of),
                (_, Order::Descend) => all.sort_by_key(|entry| -number_of(entry)),
            }
            if limit > 0 {
                all.truncate(usize::try_from(limit).expect("small") + 1);
                prop_assert!(most <= GATHERED_MIN, "{most} held");
            }
            let kept: Vec<_> = top.finish().into_iter().map(|found| (found.key, found.create)).collect();
            let all: Vec<_> = all.into_iter().map(|(key, number)| (Bytes::from(key), number)).collect();
            prop_assert_eq!(kept, all);
        }
    }
}
