//! The history as etcd stores it: bucket `key` of its database has the rows of Revs without their tails, and bucket
//! `meta` says how far compaction came (`server/storage/mvcc/kvstore.go`, `server/storage/schema`).

use crate::row::{Counters, STATE_KEY, Tail, broken};
use engine::{Family, Fault, Rows};
use types::Revision;

/// What follows the revision in the key of a tombstone.
pub(crate) const TOMBSTONE_MARK: &[u8] = b"t";

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
