//! The key space as rows alone: what a copy of them says of itself, and how it goes on elsewhere without ever giving a
//! revision twice.

use crate::row::{STATE_KEY, State, broken};
use engine::{Batch, Engine, Family, Fault};

/// How far a copied key space reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The newest main revision; 1 in a fresh store.
    pub revision: i64,
    /// The oldest revision that may be read; −1 = never compacted.
    pub compact_revision: i64,
}

impl Extent {
    /// Of a store that was never written to.
    pub const FRESH: Self = Self { revision: 1, compact_revision: -1 };

    /// What this row says of the key space's extent; `None` for every row but one.
    pub fn of_row(family: Family, key: &[u8], row: &[u8]) -> Option<Result<Self, Fault>> {
        (family == Family::Meta && key == STATE_KEY).then(|| {
            let state = State::decode(row).ok_or_else(|| broken("Meta", key))?;
            Ok(Self { revision: state.revision, compact_revision: state.compact })
        })
    }
}

/// Why a key space did not go on later.
#[derive(Debug, thiserror::Error)]
pub enum BumpError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] Fault),
    /// There are no such revisions.
    #[error("revision {from} cannot be raised by {by}: revisions end at {}", i64::MAX)]
    TooFar {
        /// Where the key space is.
        from: i64,
        /// How far it was to go.
        by: u64,
    },
}

/// Raises the newest revision by `by` and makes it the compacted one, as `etcdutl snapshot restore --bump-revision
/// --mark-compacted` does: no client that saw later revisions than these rows hold sees one of them again, and who watches
/// from before is told so. Returns the new revision. For rows that no store is open on.
pub fn bump(engine: &dyn Engine, batch: &mut Batch, by: u64) -> Result<i64, BumpError> {
    let mut state = match engine.get(Family::Meta, STATE_KEY)? {
        Some(row) => State::decode(&row).ok_or_else(|| broken("Meta", STATE_KEY))?,
        None => State::fresh(),
    };
    let from = state.revision;
    let raised = i64::try_from(by).ok().and_then(|by| from.checked_add(by)).filter(|to| *to < i64::MAX);
    state.revision = raised.ok_or(BumpError::TooFar { from, by })?;
    // What was being removed goes on; the rest is compacted when the store is opened.
    state.compact = state.revision;
    batch.put(Family::Meta, STATE_KEY, state.encode());
    Ok(state.revision)
}
