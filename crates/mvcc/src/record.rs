//! The index record of a key, and the chain from its newest version to any older one. On disk it is a row's tail.
//!
//! ```text
//! record   flags · create · newest.main − create · [newest.sub] · version · size · [lease] · [rank · digits…]
//! digits   the ancestors a new version's jump pointer may need, newest first, each as main, sub, rank
//! ```
//!
//! The versions of a key form a list with jump pointers (E. Myers, "An applicative random-access stack", 1983). A
//! version of rank r is the root of a run of 2^r − 1 versions, itself included. The digits are the roots after the
//! newest version. Two neighbours of equal rank merge under the next version, so there are O(log versions) digits, a
//! put computes its pointers without reading anything, and a reader skips a whole run with one pointer.

use types::{Revision, varint};

const DEAD: u8 = 1;
const HAS_SUB: u8 = 2;
const HAS_LEASE: u8 = 4;
const HAS_DIGITS: u8 = 8;
const EARLIER: u8 = 16;

/// The newest version of a key. If deleted, that is its tombstone, and `create` belongs to the life that ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) create: i64,
    pub(crate) newest: Revision,
    /// Its version number; for a tombstone, that of the version it deleted.
    pub(crate) version: i64,
    pub(crate) lease: i64,
    /// The length of the newest version's `KeyValue`, bytes.
    pub(crate) size: u32,
    pub(crate) dead: bool,
    /// Whether the key may have lived before `create`: its first version points to a tombstone.
    pub(crate) earlier: bool,
    pub(crate) rank: u8,
}

/// A root in the chain: a jump to it skips everything between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digit {
    pub(crate) revision: Revision,
    pub(crate) rank: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) head: Head,
    pub(crate) digits: Vec<Digit>,
}

pub(crate) fn is_live(record: &[u8]) -> bool {
    record.first().is_some_and(|flags| flags & DEAD == 0)
}

impl Head {
    pub(crate) fn parse(record: &[u8]) -> Option<Self> {
        parse(record).map(|(head, _)| head)
    }

    /// From the index, where records are well-formed.
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

    /// From the index, where records are well-formed.
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) rank: u8,
    /// The target of its jump pointer; `None` = the same as its predecessor.
    pub(crate) jump: Option<Revision>,
    pub(crate) digits: Vec<Digit>,
}

impl Link {
    pub(crate) fn first() -> Self {
        Self { rank: 1, jump: None, digits: Vec::new() }
    }

    /// The version after the record's newest. Those at or before `compacted` need no predecessor: digits beyond go.
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

/// The metadata of a live key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMeta {
    /// The main revision that last created the key.
    pub create_revision: i64,
    /// The main revision of its newest version.
    pub mod_revision: i64,
    /// The number of puts since it was created.
    pub version: i64,
    /// Its lease; 0 = none.
    pub lease: i64,
}

impl KeyMeta {
    pub(crate) fn of(head: &Head) -> Self {
        Self {
            create_revision: head.create,
            mod_revision: head.newest.main,
            version: head.version,
            lease: head.lease,
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
