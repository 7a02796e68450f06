//! etcd's hash of the history, bit for bit (`server/storage/mvcc/hash.go`), so that members of a mixed cluster agree.
//!
//! CRC-32C over `key` (the name of etcd's bucket), then for every row with main ≤ revision, in order, the revision's 17
//! bytes (and `t` for a tombstone) and the marshalled `KeyValue`. Left out are
//! * rows at or before the compacted revision that are not the newest of a key that lives at the *requested* revision,
//!   unless no key lives then (one that was deleted and put again at this very revision does not, to etcd);
//! * tombstones exactly at the compacted revision. (No tombstone is of a key that lives, so the first rule covers them.)
//!
//! Where no key lives at the requested revision etcd hashes what its compaction has left, so its answer moves while one
//! is under way. Ours is always what a finished compaction leaves.
//!
//! Before all that: a revision of which a finished compaction has left its hash ([`crate::hashing`]) is answered with
//! that, over another part of the history and with the compaction before as the compacted revision, even once it is
//! itself compacted (`hashStorage.HashByRev`).

use crate::keyvalue::Fields;
use crate::query::ReadError;
use crate::read::Reader;
use crate::row::{Tail, broken};
use crate::view::View;
use bytes::Bytes;
use engine::{Family, Fault};
use std::collections::HashSet;
use std::ops::ControlFlow;
use types::{KeyRange, Revision};

pub(crate) const BUCKET: &[u8] = b"key";
/// Where the history begins.
const FIRST: Revision = Revision::new(0, 0);
const TOMBSTONE_MARK: &[u8] = b"t";

/// A hash of the history, and what it was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The hash.
    pub hash: u32,
    /// The compacted revision it was taken with; −1 = none. Only hashes with equal ones compare.
    pub compact_revision: i64,
    /// The revision it goes up to.
    pub hash_revision: i64,
}

pub(crate) fn hash_kv(view: &View, reader: Reader<'_>, asked: i64) -> Result<HashKv, ReadError> {
    if let Some(kept) = view.hashes.iter().find(|hash| hash.hash_revision == asked) {
        return Ok(*kept);
    }
    let compact = view.compact_revision();
    if asked > 0 && asked < compact {
        return Err(ReadError::Compacted);
    }
    if asked > view.revision() {
        return Err(ReadError::FutureRevision);
    }
    hash_up_to(view, reader, if asked == 0 { view.revision() } else { asked })
}

pub(crate) fn hash_up_to(view: &View, reader: Reader<'_>, revision: i64) -> Result<HashKv, ReadError> {
    let compact = view.compact_revision();
    let keep = kept(reader, revision)?;
    let mut keep = keep.iter().copied().peekable();
    let mut hash = crc32c::crc32c(BUCKET);
    let end = Revision::new(revision.max(-1) + 1, 0);
    scan(reader, FIRST, end, &mut |at, tail, kv| {
        while keep.next_if(|kept| *kept < at).is_some() {}
        let compacted = at.main <= compact && keep.next_if_eq(&at).is_none();
        if !compacted {
            hash = append(hash, at, tail, kv);
        }
        Ok(())
    })?;
    Ok(HashKv { hash, compact_revision: compact, hash_revision: revision })
}

pub(crate) fn hash_rows(reader: Reader<'_>) -> Result<u32, ReadError> {
    let mut hash = crc32c::crc32c(BUCKET);
    let end = Revision::new(reader.current + 1, 0);
    scan(reader, FIRST, end, &mut |at, tail, kv| {
        hash = append(hash, at, tail, kv);
        Ok(())
    })?;
    Ok(hash)
}

/// Which rows at or before the compaction count, ascending.
fn kept(reader: Reader<'_>, revision: i64) -> Result<Vec<Revision>, ReadError> {
    let compact = reader.compact;
    if compact < 0 {
        return Ok(Vec::new());
    }
    let live_at = |revision: i64, gone: &HashSet<Bytes>| {
        let (mut kept, mut any) = (Vec::new(), false);
        reader.visit(&KeyRange::all(), &[], |key, record| {
            let found = reader.live_revision(record, revision)?;
            let found = found.filter(|at| at.main < revision || !gone.contains(key));
            any |= found.is_some();
            kept.extend(found.filter(|at| at.main <= compact));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok::<_, ReadError>((kept, any))
    };
    let (mut kept, any) = live_at(revision, &deleted_at(reader, revision)?)?;
    if !any {
        kept = live_at(compact, &HashSet::new())?.0;
    }
    kept.sort_unstable();
    Ok(kept)
}

/// The keys that the transaction at a revision deleted, whatever it did to them after. The tombstones of a revision that may
/// be asked for are all there, while of its puts a compaction leaves only the newest.
fn deleted_at(reader: Reader<'_>, revision: i64) -> Result<HashSet<Bytes>, ReadError> {
    let mut keys = HashSet::new();
    let (start, end) = (Revision::new(revision, 0), Revision::new(revision + 1, 0));
    scan(reader, start, end, &mut |_, tail, kv| {
        if tail.tombstone {
            let key = Fields::parse(kv).ok_or_else(|| broken("Revs", kv))?.key;
            keys.insert(Bytes::copy_from_slice(&kv[key]));
        }
        Ok(())
    })?;
    Ok(keys)
}

/// Adds a row.
pub(crate) fn append(hash: u32, at: Revision, tail: &Tail, kv: &[u8]) -> u32 {
    let hash = crc32c::crc32c_append(hash, &at.encode());
    let hash = if tail.tombstone { crc32c::crc32c_append(hash, TOMBSTONE_MARK) } else { hash };
    crc32c::crc32c_append(hash, kv)
}

/// How many bytes [`append`] adds.
pub(crate) fn row_len(tail: &Tail, kv: &[u8]) -> usize {
    Revision::ENCODED_LEN + if tail.tombstone { TOMBSTONE_MARK.len() } else { 0 } + kv.len()
}

type Visit<'a> = dyn FnMut(Revision, &Tail, &[u8]) -> Result<(), Fault> + 'a;

/// Visits the history from `start` to before `end`.
fn scan(reader: Reader<'_>, start: Revision, end: Revision, visit: &mut Visit<'_>) -> Result<(), ReadError> {
    let (start, end, mut failed) = (start.encode(), end.encode(), None);
    let mut step = |key: &[u8], row: &[u8]| {
        reader.spend(1, row.len())?;
        let at = Revision::decode(key).ok_or_else(|| broken("Revs", key))?;
        let (kv, tail) = Tail::split(at, row).ok_or_else(|| broken("Revs", key))?;
        Ok::<_, ReadError>(visit(at, &tail, kv)?)
    };
    reader.engine.scan(Family::Revs, &start, Some(&end), &mut |key, row| match step(key, row) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    match failed {
        Some(error) => Err(error),
        None if reader.epoch.is_expired() => Err(ReadError::Compacted),
        None => Ok(()),
    }
}
