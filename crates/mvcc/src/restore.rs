//! The key space as plain rows: how to continue from a copy without reusing a revision.

use crate::import::{self, escaped};
use crate::record::Record;
use crate::row::{self, Counters, STATE_KEY, broken};
use engine::{Batch, Engine, Family, Fault};

/// Why the revision was not raised.
#[derive(Debug, thiserror::Error)]
pub enum BumpError {
    /// The engine failed to read or decode.
    #[error(transparent)]
    Engine(#[from] Fault),
    /// The new revision would exceed the maximum.
    #[error("revision {from} cannot be raised by {by}: revisions end at {}", i64::MAX)]
    TooFar {
        /// The newest revision now.
        from: i64,
        /// The increment asked for.
        by: u64,
    },
}

/// Raises the newest revision by `by`, compacts there, and returns it; as `etcdutl snapshot restore --bump-revision
/// --mark-compacted`: clients see no revision twice, and old watchers get `compacted`. Only for rows not in use.
pub fn bump(engine: &dyn Engine, batch: &mut Batch, by: u64) -> Result<i64, BumpError> {
    let mut state = match engine.get(Family::Meta, STATE_KEY)? {
        Some(row) => Counters::decode(&row).ok_or_else(|| broken("Meta", STATE_KEY))?,
        None => Counters::fresh(),
    };
    let from = state.revision;
    let raised = i64::try_from(by).ok().and_then(|by| from.checked_add(by)).filter(|to| *to < i64::MAX);
    state.revision = raised.ok_or(BumpError::TooFar { from, by })?;
    let before = match engine.get(Family::Latest, &escaped(&[], &[]))? {
        Some(row) => {
            let record = row::split_latest(&row).and_then(|(_, record)| Record::parse(record));
            Some(record.ok_or_else(|| broken("Latest", &[]))?)
        }
        None => None,
    };
    let mut state = import::raise(state, before, batch);
    // A compaction under way continues; the rest happens when the store is opened.
    state.compact = state.revision;
    batch.put(Family::Meta, STATE_KEY, state.encode());
    Ok(state.revision)
}
