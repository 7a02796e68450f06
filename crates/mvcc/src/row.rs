//! The rows on disk, byte by byte. docs/mvcc-format.md says the same in prose.
//!
//! ```text
//! Latest  escape(key)              → KeyValue · record · u16 length of the record
//! Meta    "mvcc/dead/" escape(key) → record                    a deleted key that compaction has not passed yet
//! Revs    main _ sub (17 bytes)    → KeyValue · tail · u8 length of the tail
//! Meta    "mvcc/state"             → Counters
//! ```

use crate::keyvalue::KeyValue;
use bytes::{BufMut, Bytes};
use engine::Fault;
use std::cmp::Ordering;
use types::{Revision, varint};

/// The prefix of every Meta row of this crate; reserved for it.
pub const META_PREFIX: &[u8] = b"mvcc/";
pub(crate) const STATE_KEY: &[u8] = b"mvcc/state";
pub(crate) const DEAD_PREFIX: &[u8] = b"mvcc/dead/";
/// The first key after all dead rows.
pub(crate) const DEAD_END: &[u8] = b"mvcc/dead0";

/// Appends the key in an order-preserving form, none a prefix of another: 00 becomes 00 FF, the end is 00 01.
pub(crate) fn escape(key: &[u8], out: &mut impl BufMut) {
    if key.contains(&0) {
        for part in key.split_inclusive(|&byte| byte == 0) {
            out.put_slice(part);
            if part.ends_with(&[0]) {
                out.put_u8(0xff);
            }
        }
    } else {
        out.put_slice(key);
    }
    out.put_slice(&[0, 1]);
}

pub(crate) fn escaped_len(key: &[u8]) -> usize {
    let zeros = if key.contains(&0) { key.iter().map(|&byte| usize::from(byte == 0)).sum() } else { 0 };
    key.len() + zeros + 2
}

/// Compares [`escape`] of the key with an escaped key, without making it: for every row of a list.
pub(crate) fn compare(mut key: &[u8], mut escaped: &[u8]) -> Ordering {
    /// Compares a part with the beginning of what is left.
    fn begins(escaped: &[u8], part: &[u8]) -> Ordering {
        part.cmp(&escaped[..part.len().min(escaped.len())])
    }
    // Looking for a place byte by byte costs more than looking whether there is one.
    while key.contains(&0)
        && let Some(zero) = key.iter().position(|&byte| byte == 0)
    {
        let order = begins(escaped, &key[..zero]).then_with(|| begins(&escaped[zero..], &[0, 0xff]));
        if order.is_ne() {
            return order;
        }
        (key, escaped) = (&key[zero + 1..], &escaped[zero + 2..]);
    }
    begins(escaped, key).then_with(|| [0, 1][..].cmp(&escaped[key.len()..]))
}

/// Decodes [`escape`] into `out`; `None` if malformed.
pub(crate) fn unescape(mut escaped: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.clear();
    loop {
        let zero = escaped.iter().position(|&byte| byte == 0)?;
        out.extend_from_slice(&escaped[..zero]);
        match escaped[zero + 1..] {
            [1] => return Some(()),
            [0xff, ..] => out.push(0),
            _ => return None,
        }
        escaped = &escaped[zero + 2..];
    }
}

pub(crate) fn split_latest(row: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, length) = row.split_last_chunk::<2>()?;
    rest.split_at_checked(rest.len().checked_sub(usize::from(u16::from_le_bytes(*length)))?)
}

pub(crate) fn put_latest_tail(record: &[u8], out: &mut impl BufMut) {
    let length = u16::try_from(record.len()).expect("a record has at most 64 digits of 21 bytes");
    out.put_slice(record);
    out.put_slice(&length.to_le_bytes());
}

const TOMBSTONE: u8 = 1;
const CREATE: u8 = 2;
const HAS_PREVIOUS: u8 = 4;
const HAS_JUMP: u8 = 8;

/// What a Revs row holds besides its `KeyValue`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) tombstone: bool,
    /// The key was created here: its predecessor, if any, is a tombstone.
    pub(crate) create: bool,
    pub(crate) previous: Option<Previous>,
    /// An older version of the key, many versions back.
    pub(crate) jump: Option<Revision>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Previous {
    pub(crate) revision: Revision,
    /// The length of its `KeyValue`, so that compaction can subtract it without reading it.
    pub(crate) size: u32,
}

impl Tail {
    /// Appends the tail of the row at `at`, then its length.
    pub(crate) fn put(&self, at: Revision, out: &mut Vec<u8>) {
        let start = out.len();
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        out.push(
            flag(self.tombstone, TOMBSTONE)
                | flag(self.create, CREATE)
                | flag(self.previous.is_some(), HAS_PREVIOUS)
                | flag(self.jump.is_some(), HAS_JUMP),
        );
        if let Some(previous) = self.previous {
            put_pointer(at, previous.revision, out);
            varint::put(out, u64::from(previous.size));
        }
        if let Some(jump) = self.jump {
            put_pointer(at, jump, out);
        }
        out.push(
            u8::try_from(out.len() - start).expect("one flag byte and five varints are at most 51 bytes"),
        );
    }

    /// Splits the row at `at` into `KeyValue` and tail.
    pub(crate) fn split(at: Revision, row: &[u8]) -> Option<(&[u8], Self)> {
        let (&length, rest) = row.split_last()?;
        let (kv, mut tail) = rest.split_at_checked(rest.len().checked_sub(usize::from(length))?)?;
        let (&flags, after) = tail.split_first()?;
        tail = after;
        let mut found =
            Self { tombstone: flags & TOMBSTONE != 0, create: flags & CREATE != 0, ..Self::default() };
        if flags & HAS_PREVIOUS != 0 {
            let revision = take_pointer(at, &mut tail)?;
            found.previous = Some(Previous { revision, size: u32::try_from(varint::take(&mut tail)?).ok()? });
        }
        if flags & HAS_JUMP != 0 {
            found.jump = Some(take_pointer(at, &mut tail)?);
        }
        tail.is_empty().then_some((kv, found))
    }
}

fn put_pointer(from: Revision, to: Revision, out: &mut Vec<u8>) {
    varint::put(out, (from.main - to.main).cast_unsigned());
    varint::put(out, to.sub.cast_unsigned());
}

fn take_pointer(from: Revision, tail: &mut &[u8]) -> Option<Revision> {
    let main = from.main.checked_sub(varint::take_i64(tail)?)?;
    Some(Revision::new(main, varint::take_i64(tail)?))
}

#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) kv: Bytes,
    pub(crate) tail: Tail,
}

impl Version {
    pub(crate) fn parse(at: Revision, row: &Bytes) -> Result<Self, Fault> {
        let (kv, tail) = Tail::split(at, row).ok_or_else(|| broken("Revs", &at.encode()))?;
        Ok(Self { kv: row.slice(..kv.len()), tail })
    }

    pub(crate) fn key_value(&self) -> Result<KeyValue, Fault> {
        KeyValue::decode(&self.kv).ok_or_else(|| broken("Revs", &self.kv))
    }
}

/// The size in etcd's backend, bytes: the revision (marked for a tombstone), the value, a leaf element of bbolt's page.
pub(crate) fn logical_len(kv_len: usize, tombstone: bool) -> i64 {
    const LEAF_ELEMENT: usize = 16;
    (Revision::ENCODED_LEN + usize::from(tombstone) + kv_len + LEAF_ELEMENT) as i64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) revision: i64,
    /// The oldest readable revision (etcd's scheduledCompactRev); −1 = never compacted.
    pub(crate) compact: i64,
    /// History before it is physically removed (etcd's finishedCompactRev).
    pub(crate) finished: i64,
    /// The target of the compaction in progress; equal to `finished` if none is.
    pub(crate) target: i64,
    /// The next row that the compaction will visit.
    pub(crate) cursor: Revision,
    /// The size of all Revs rows, by [`logical_len`].
    pub(crate) bytes: i64,
}

const STATE_FORMAT: u8 = 1;

impl Counters {
    pub(crate) const fn fresh() -> Self {
        Self { revision: 1, compact: -1, finished: -1, target: -1, cursor: Revision::new(0, 0), bytes: 0 }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let numbers = [
            self.revision,
            self.compact,
            self.finished,
            self.target,
            self.cursor.main,
            self.cursor.sub,
            self.bytes,
        ];
        std::iter::once(STATE_FORMAT).chain(numbers.into_iter().flat_map(i64::to_be_bytes)).collect()
    }

    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let (&format, rest) = row.split_first()?;
        let (numbers, rest) = rest.as_chunks::<8>();
        let numbers: Vec<i64> = numbers.iter().map(|&number| i64::from_be_bytes(number)).collect();
        let &[revision, compact, finished, target, main, sub, bytes] = &numbers[..] else { return None };
        let state = Self { revision, compact, finished, target, cursor: Revision::new(main, sub), bytes };
        (format == STATE_FORMAT && rest.is_empty()).then_some(state)
    }
}

/// The fault for a row that this crate cannot have written.
pub(crate) fn broken(family: &str, key: &[u8]) -> Fault {
    corrupt(format!("a row of {family} cannot be read: {}", key.escape_ascii()))
}

pub(crate) fn corrupt(what: String) -> Fault {
    Fault { context: "reading the key space", source: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(key: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        escape(key, &mut out);
        out
    }

    fn binary_key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, b'a', 0xfe, 0xff]), 0..6)
    }

    proptest! {
        #[test]
        fn escaping_keeps_the_order_and_comes_back(left in binary_key(), right in binary_key(), tail in binary_key()) {
            let longer = [&left[..], &tail].concat();
            for (a, b) in [(&left, &right), (&left, &longer), (&longer, &right)] {
                prop_assert_eq!(escaped(a).cmp(&escaped(b)), a.cmp(b));
                prop_assert_eq!(compare(a, &escaped(b)), a.cmp(b));
                prop_assert_eq!(compare(a, b), escaped(a)[..].cmp(b), "whatever is in the row's place");
                prop_assert!(a == b || !escaped(b).starts_with(&escaped(a)));
            }
            let mut back = Vec::new();
            prop_assert_eq!(unescape(&escaped(&longer), &mut back), Some(()));
            prop_assert_eq!(escaped_len(&longer), escaped(&longer).len());
            prop_assert_eq!(back, longer);
        }

        #[test]
        fn foreign_bytes_are_refused_not_misread(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut back = Vec::new();
            if unescape(&bytes, &mut back).is_some() {
                prop_assert_eq!(escaped(&back), bytes.clone());
            }
            let _ = (Tail::split(Revision::new(5, 0), &bytes), split_latest(&bytes), Counters::decode(&bytes));
        }
    }

    #[test]
    fn tails_come_back() {
        let at = Revision::new(900, 3);
        let previous = Previous { revision: Revision::new(900, 2), size: 70_000 };
        for tail in [
            Tail { create: true, ..Tail::default() },
            Tail { tombstone: true, previous: Some(previous), ..Tail::default() },
            Tail { previous: Some(previous), jump: Some(Revision::new(2, 9)), ..Tail::default() },
        ] {
            let mut row = b"value".to_vec();
            tail.put(at, &mut row);
            assert_eq!(Tail::split(at, &row), Some((&b"value"[..], tail)));
        }
    }

    #[test]
    fn the_state_comes_back() {
        let state = Counters { revision: 9, bytes: 77, cursor: Revision::new(4, 2), ..Counters::fresh() };
        assert_eq!(Counters::decode(&state.encode()), Some(state));
        assert_eq!(Counters::decode(&[STATE_FORMAT; 9]), None);
    }
}
