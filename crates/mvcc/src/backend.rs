//! The history as etcd stores it: bucket `key` of its database has the rows of Revs without their tails, and bucket
//! `meta` says how far compaction came (`server/storage/mvcc/kvstore.go`, `server/storage/schema`).

use crate::keyvalue::Fields;
use crate::row::{Counters, STATE_KEY, Tail, broken};
use engine::{Family, Fault, Rows};
use types::Revision;

/// What follows the revision in the key of a tombstone.
pub(crate) const TOMBSTONE_MARK: &[u8] = b"t";

/// The revision of the first change.
const FIRST: i64 = 2;

/// Turns a row of Revs into etcd's: puts its key into `out`, and returns its `KeyValue`.
pub fn backend_row<'r>(key: &[u8], row: &'r [u8], out: &mut Vec<u8>) -> Result<&'r [u8], Fault> {
    let at = Revision::decode(key).ok_or_else(|| broken("Revs", key))?;
    let (kv, tail) = Tail::split(at, row).ok_or_else(|| broken("Revs", key))?;
    out.clear();
    out.extend_from_slice(key);
    if tail.tombstone {
        out.extend_from_slice(TOMBSTONE_MARK);
    }
    Ok(kv)
}

/// How far compaction came, in main revisions; `None` before the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// The oldest readable revision (etcd's `scheduledCompactRev`).
    pub scheduled: Option<i64>,
    /// What lies before it was removed (etcd's `finishedCompactRev`).
    pub finished: Option<i64>,
}

impl Compacted {
    /// Reads etcd's two marks, `scheduledCompactRev` and `finishedCompactRev`; `None` if one is no revision.
    pub fn of_marks(scheduled: Option<&[u8]>, finished: Option<&[u8]>) -> Option<Self> {
        let main = |mark: Option<&[u8]>| match mark {
            None => Some(None),
            Some(mark) => {
                let at = Revision::decode(mark)?;
                (0..i64::MAX).contains(&at.main).then_some(Some(at.main))
            }
        };
        Some(Self { scheduled: main(scheduled)?, finished: main(finished)? })
    }

    /// Reads it from the rows of a key space.
    pub fn of(rows: &dyn Rows) -> Result<Self, Fault> {
        let state = match rows.get(Family::Meta, STATE_KEY)? {
            Some(row) => Counters::decode(&row).ok_or_else(|| broken("Meta", STATE_KEY))?,
            None => Counters::fresh(),
        };
        let known = |revision: i64| Some(revision).filter(|revision| *revision >= 0);
        Ok(Self { scheduled: known(state.compact), finished: known(state.finished) })
    }
}

/// A row of etcd's bucket `key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendRow<'r> {
    /// The revision that the row's key holds.
    pub at: Revision,
    /// Whether the key was deleted here.
    pub tombstone: bool,
    /// The key that the client gave; empty where only the revision was raised.
    pub key: &'r [u8],
}

impl<'r> BackendRow<'r> {
    /// Reads a row's key and its `KeyValue`; returns what is wrong with them.
    pub fn parse(key: &[u8], value: &'r [u8]) -> Result<Self, &'static str> {
        let tombstone = key.len() > Revision::ENCODED_LEN;
        let revision = if tombstone { key.strip_suffix(TOMBSTONE_MARK).unwrap_or(key) } else { key };
        let at = Revision::decode(revision).ok_or("it is no revision")?;
        if !(FIRST..i64::MAX).contains(&at.main) || !(0..i64::MAX).contains(&at.sub) {
            return Err("no change has this revision");
        }
        let fields = Fields::parse(value).ok_or("its value is no KeyValue")?;
        let user_key = &value[fields.key];
        // An empty row is `etcdutl snapshot restore --bump-revision`'s: to etcd a version of the empty key.
        if user_key.is_empty() && (tombstone || !value.is_empty()) {
            return Err("its value has no key");
        }
        Ok(Self { at, tombstone, key: user_key })
    }
}
