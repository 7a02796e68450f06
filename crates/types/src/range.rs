//! Key ranges, parsed once from `key` and `range_end` of a request.

use bytes::{BufMut, Bytes, BytesMut};

/// Where a range of keys ends. Of ranges with one start, the greater end is the further one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RangeEnd {
    /// The start key alone.
    Point,
    /// Every key from the start to this one, exclusive.
    Before(Bytes),
    /// Every key from the start on.
    #[default]
    Open,
}

/// A contiguous set of keys. May be empty (`start ≥ end`): etcd answers such a range with nothing, not an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key, inclusive.
    pub start: Bytes,
    /// Where the range ends.
    pub end: RangeEnd,
}

impl KeyRange {
    /// The range of exactly this key.
    pub fn point(key: impl Into<Bytes>) -> Self {
        Self { start: key.into(), end: RangeEnd::Point }
    }

    /// The range of every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// From the wire: an empty `range_end` means a single key, `"\0"` every key from `key` on.
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        let end = match &range_end[..] {
            [] => RangeEnd::Point,
            [0] => RangeEnd::Open,
            _ => RangeEnd::Before(range_end),
        };
        Self { start: key, end }
    }

    /// Whether the key is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            RangeEnd::Point => key == &self.start[..],
            RangeEnd::Open => key >= &self.start[..],
            RangeEnd::Before(end) => key >= &self.start[..] && key < &end[..],
        }
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, RangeEnd::Before(end) if self.start >= end)
    }

    /// The part of the range after `key`, which must be in it.
    #[must_use]
    pub fn after(&self, key: &[u8]) -> Self {
        let mut start = BytesMut::with_capacity(key.len() + 1);
        start.put_slice(key);
        start.put_u8(0); // the smallest key after it
        let start = start.freeze();
        let end = match &self.end {
            // Nothing follows a single key.
            RangeEnd::Point => RangeEnd::Before(start.clone()),
            other => other.clone(),
        };
        Self { start, end }
    }

    /// Whether the range is a single key.
    pub fn is_point(&self) -> bool {
        self.end == RangeEnd::Point
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &'static str, end: &'static str, holds: &[&str], lacks: &[&str]) {
        let range =
            KeyRange::from_wire(Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()));
        assert!(holds.iter().all(|k| range.contains(k.as_bytes())), "{range:?} should hold {holds:?}");
        assert!(!lacks.iter().any(|k| range.contains(k.as_bytes())), "{range:?} should lack {lacks:?}");
    }

    #[test]
    fn wire_forms_mean_what_etcd_says() {
        check("b", "", &["b"], &["a", "ba", "c"]);
        check("b", "\0", &["b", "ba", "z"], &["a"]);
        check("b", "d", &["b", "c", "cz"], &["a", "d"]);
        check("d", "b", &[], &["b", "c", "d"]);
        check("\0", "\0", &["\0", "a"], &[]);
    }

    #[test]
    fn what_is_behind_a_key_begins_with_the_next_one() {
        let behind = KeyRange::from_wire("b".into(), "d".into()).after(b"b");
        assert!(behind.contains(b"b\0") && behind.contains(b"c"));
        assert!(!behind.contains(b"b") && !behind.contains(b"d"));
        assert!(KeyRange::point("b").after(b"b").is_empty());
        assert!(KeyRange::all().after(b"b").contains(b"z"));
    }
}
