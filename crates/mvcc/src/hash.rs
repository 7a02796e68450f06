//! `HashKV`: etcd's hash of the history, bit for bit (`server/storage/mvcc/hash.go`), for clusters of mixed members.
//!
//! CRC-32C over `key` (the name of etcd's bucket), then for every row with main ≤ revision, in order, the revision's
//! 17 bytes (plus `t` for a tombstone) and the encoded `KeyValue`. Excluded are
//! * rows at or before the compacted revision that are not the newest of a key alive at the *requested* revision,
//!   unless no key is alive then (to etcd, one deleted and put again at this very revision is not);
//! * tombstones exactly at the compacted revision, which the first rule covers: they are never of a live key.
//!
//! If no key is alive then, etcd hashes what its compaction has left so far; ours is what the finished one leaves.
//!
//! A hash that a finished compaction left at the revision ([`crate::hashing`]) precedes all that, even if the revision
//! is compacted by now (`hashStorage.HashByRev`); the previous compaction is its compacted revision.

use crate::backend::TOMBSTONE_MARK;
use crate::keyvalue::Fields;
use crate::query::{HashKv, ReadError};
use crate::read::Reader;
use crate::row::{Tail, broken};
use crate::scan::scan_while;
use crate::view::{Bounded, View};
use bytes::Bytes;
use engine::{Family, Fault};
use std::collections::HashSet;
use std::ops::ControlFlow;
use types::{KeyRange, Revision};

pub(crate) const BUCKET: &[u8] = b"key";
const FIRST: Revision = Revision::new(0, 0);

impl View {
    /// etcd's hash of the history up to a revision; 0 = the current one. The stored hash, if a compaction at it
    /// finished since the store was opened and is among the ten newest.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        hash_kv(self, self.reader(), revision)
    }

    /// The hash of the current history, ignoring stored hashes: a function of the applied entries, across restarts.
    pub fn hash_now(&self) -> Result<HashKv, ReadError> {
        hash_up_to(self, self.reader(), self.revision())
    }

    /// A hash over every stored row, like etcd's `Hash`: equal members may differ while a compaction runs.
    pub fn hash(&self) -> Result<u32, ReadError> {
        hash_rows(self.reader())
    }
}

impl Bounded<'_> {
    /// [`View::hash_kv`], within the budget.
    pub fn hash_kv(self, revision: i64) -> Result<HashKv, ReadError> {
        hash_kv(self.view(), self.reader(), revision)
    }

    /// [`View::hash`], within the budget.
    pub fn hash(self) -> Result<u32, ReadError> {
        hash_rows(self.reader())
    }
}

fn hash_kv(view: &View, reader: Reader<'_>, asked: i64) -> Result<HashKv, ReadError> {
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

fn hash_up_to(view: &View, reader: Reader<'_>, revision: i64) -> Result<HashKv, ReadError> {
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

fn hash_rows(reader: Reader<'_>) -> Result<u32, ReadError> {
    let mut hash = crc32c::crc32c(BUCKET);
    let end = Revision::new(reader.current + 1, 0);
    scan(reader, FIRST, end, &mut |at, tail, kv| {
        hash = append(hash, at, tail, kv);
        Ok(())
    })?;
    Ok(hash)
}

/// The rows at or before the compaction that count, ascending.
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

/// The keys deleted at a revision, whatever that transaction did later. Of a readable one all tombstones are stored.
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

pub(crate) fn append(hash: u32, at: Revision, tail: &Tail, kv: &[u8]) -> u32 {
    let hash = crc32c::crc32c_append(hash, &at.encode());
    let hash = if tail.tombstone { crc32c::crc32c_append(hash, TOMBSTONE_MARK) } else { hash };
    crc32c::crc32c_append(hash, kv)
}

pub(crate) fn row_len(tail: &Tail, kv: &[u8]) -> usize {
    Revision::ENCODED_LEN + if tail.tombstone { TOMBSTONE_MARK.len() } else { 0 } + kv.len()
}

pub(crate) type Visit<'a> = dyn FnMut(Revision, &Tail, &[u8]) -> Result<(), Fault> + 'a;

/// Visits the history from `start` (inclusive) to `end` (exclusive).
pub(crate) fn scan(
    reader: Reader<'_>,
    start: Revision,
    end: Revision,
    visit: &mut Visit<'_>,
) -> Result<(), ReadError> {
    scan_while(reader.engine, Family::Revs, &start.encode(), Some(&end.encode()), |key, row| {
        reader.spend(1, row.len())?;
        let at = Revision::decode(key).ok_or_else(|| broken("Revs", key))?;
        let (kv, tail) = Tail::split(at, row).ok_or_else(|| broken("Revs", key))?;
        Ok::<_, ReadError>(ControlFlow::Continue(visit(at, &tail, kv)?))
    })?;
    if reader.epoch.is_expired() { Err(ReadError::Compacted) } else { Ok(()) }
}
