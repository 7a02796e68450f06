//! What the index remembers of a key, and the chain that leads from its newest version to any older one.
//!
//! ```text
//! record   flags · create · newest.main − create · [newest.sub] · version · size · [lease] · [rank · digits…]
//! digits   the ancestors a new version's jump pointer may need, newest first, each as main, sub, rank
//! ```
//!
//! Versions of a key form a list with jump pointers (E. Myers, "An applicative random-access stack", 1983). A version of
//! rank r is the root of a run of 2^r − 1 versions, itself included. The digits are the roots that follow the newest
//! version. Two neighbours of equal rank merge under the next version, so there are O(log versions) of them, a put
//! computes its pointers without reading anything, and a reader skips a whole run with one pointer.
//!
//! The same bytes stand in the index and, as a row's tail, on disk: opening the store copies them.

use crate::varint;
use types::Revision;

const DEAD: u8 = 1;
const HAS_SUB: u8 = 2;
const HAS_LEASE: u8 = 4;
const HAS_DIGITS: u8 = 8;
const EARLIER: u8 = 16;

/// The newest version of a key. For a deleted key that is its tombstone; `create` is then of the life that ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The main revision at which the key last came into being.
    pub(crate) create: i64,
    /// The newest version.
    pub(crate) newest: Revision,
    /// Its version number; of a tombstone, that of the version it ended.
    pub(crate) version: i64,
    /// The key's lease; 0 = none.
    pub(crate) lease: i64,
    /// The length of the newest version's `KeyValue`, in bytes.
    pub(crate) size: u32,
    /// Whether the newest version is a tombstone.
    pub(crate) dead: bool,
    /// Whether the key may have lived before `create`: its first version points to a tombstone.
    pub(crate) earlier: bool,
    /// The newest version's rank in the chain.
    pub(crate) rank: u8,
}

/// A root of the chain: skipping to it skips everything between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digit {
    pub(crate) revision: Revision,
    pub(crate) rank: u8,
}

/// A key's record, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) head: Head,
    pub(crate) digits: Vec<Digit>,
}

/// Whether the key lives, from its record alone.
pub(crate) fn is_live(record: &[u8]) -> bool {
    record.first().is_some_and(|flags| flags & DEAD == 0)
}

impl Head {
    /// Reads a record's head. `None`: not a record.
    pub(crate) fn parse(record: &[u8]) -> Option<Self> {
        parse(record).map(|(head, _)| head)
    }

    /// Reads the head of a record that the index holds.
    pub(crate) fn of(record: &[u8]) -> Self {
        Self::parse(record).expect("the index holds only records that were encoded here or checked on open")
    }
}

fn parse(record: &[u8]) -> Option<(Head, &[u8])> {
    let (&flags, mut rest) = record.split_first()?;
    let create = varint::take_i64(&mut rest)?;
    let main = create.checked_add(varint::take_i64(&mut rest)?)?;
    let sub = if flags & HAS_SUB == 0 { 0 } else { varint::take_i64(&mut rest)? };
    let version = varint::take_i64(&mut rest)?;
    let size = u32::try_from(varint::take(&mut rest)?).ok()?;
    let lease = if flags & HAS_LEASE == 0 { 0 } else { varint::take_i64(&mut rest)? };
    let rank = if flags & HAS_DIGITS == 0 { 1 } else { take_byte(&mut rest)? };
    let (dead, earlier) = (flags & DEAD != 0, flags & EARLIER != 0);
    Some((Head { create, newest: Revision::new(main, sub), version, lease, size, dead, earlier, rank }, rest))
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (&byte, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(byte)
}

impl Record {
    /// Reads a record. `None`: not a record.
    pub(crate) fn parse(record: &[u8]) -> Option<Self> {
        let (head, mut rest) = parse(record)?;
        let mut digits = Vec::new();
        let mut main = head.newest.main;
        while !rest.is_empty() {
            main = main.checked_sub(varint::take_i64(&mut rest)?)?;
            let sub = varint::take_i64(&mut rest)?;
            digits.push(Digit { revision: Revision::new(main, sub), rank: take_byte(&mut rest)? });
        }
        Some(Self { head, digits })
    }

    /// Reads a record that the index holds.
    pub(crate) fn of(record: &[u8]) -> Self {
        Self::parse(record).expect("the index holds only records that were encoded here or checked on open")
    }

    pub(crate) fn encode_to(&self, out: &mut Vec<u8>) {
        let head = &self.head;
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let has_digits = !self.digits.is_empty() || head.rank != 1;
        out.push(
            flag(head.dead, DEAD)
                | flag(head.newest.sub != 0, HAS_SUB)
                | flag(head.lease != 0, HAS_LEASE)
                | flag(has_digits, HAS_DIGITS)
                | flag(head.earlier, EARLIER),
        );
        let mut number = |n: i64| varint::put(out, n.cast_unsigned());
        number(head.create);
        number(head.newest.main - head.create);
        if head.newest.sub != 0 {
            number(head.newest.sub);
        }
        number(head.version);
        number(i64::from(head.size));
        if head.lease != 0 {
            number(head.lease);
        }
        if !has_digits {
            return;
        }
        out.push(head.rank);
        let mut main = head.newest.main;
        for digit in &self.digits {
            varint::put(out, (main - digit.revision.main).cast_unsigned());
            varint::put(out, digit.revision.sub.cast_unsigned());
            out.push(digit.rank);
            main = digit.revision.main;
        }
    }
}

/// Where a new version stands in its key's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) rank: u8,
    /// Where its jump pointer goes; `None` = no farther than its predecessor.
    pub(crate) jump: Option<Revision>,
    /// The digits of the key's next record.
    pub(crate) digits: Vec<Digit>,
}

impl Link {
    /// The first version of a chain.
    pub(crate) fn first() -> Self {
        Self { rank: 1, jump: None, digits: Vec::new() }
    }

    /// The version after the record's newest. No version at or before `compacted` needs a predecessor any more: digits
    /// beyond the first such are let go, so that the record stays short.
    pub(crate) fn after(record: Record, compacted: i64) -> Self {
        let newest = Digit { revision: record.head.newest, rank: record.head.rank };
        let mut digits = record.digits;
        digits.insert(0, newest);
        if let Some(last) = digits.iter().position(|digit| digit.revision.main <= compacted) {
            digits.truncate(last + 1);
        }
        match &digits[..] {
            [first, second, ..] if first.rank == second.rank => {
                let rank = first.rank + 1;
                digits.drain(..2);
                Self { rank, jump: digits.first().map(|digit| digit.revision), digits }
            }
            _ => Self { rank: 1, jump: None, digits },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(record: &Record) {
        let mut out = Vec::new();
        record.encode_to(&mut out);
        assert_eq!(Record::parse(&out).as_ref(), Some(record));
        assert_eq!(is_live(&out), !record.head.dead);
        for cut in 0..out.len() {
            assert_ne!(Record::parse(&out[..cut]).as_ref(), Some(record), "cut at {cut}");
        }
    }

    fn newest(main: i64) -> Head {
        Head { create: 2, newest: Revision::new(main, 0), version: 1, rank: 1, ..Head::default() }
    }

    #[test]
    fn records_come_back() {
        check(&Record { head: newest(2), digits: vec![] });
        let head = Head { lease: -7, dead: true, earlier: true, size: 70_000, rank: 3, ..newest(1 << 40) };
        let digit = |main, sub, rank| Digit { revision: Revision::new(main, sub), rank };
        check(&Record { head, digits: vec![digit(9, 7, 3), digit(3, 0, 4), digit(3, 0, 9)] });
    }

    #[test]
    fn a_million_versions_leave_a_short_record_and_jumps_never_go_forward() {
        let mut record = Record { head: newest(2), digits: vec![] };
        let mut longest = 0;
        for main in 3..1_000_000 {
            let previous = record.head.newest;
            let link = Link::after(record, -1);
            assert!(link.jump.is_none_or(|jump| jump < previous));
            longest = longest.max(link.digits.len());
            record = Record { head: Head { rank: link.rank, ..newest(main) }, digits: link.digits };
        }
        assert!(longest <= 20, "{longest} digits");
        let link = Link::after(record, 999_990);
        assert!(link.digits.len() <= 5, "{link:?}: what was compacted is let go");
    }
}
