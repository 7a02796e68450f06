//! Hashes of this member's own slices, for itself and for the others who ask.

use super::limits::Limits;
use bytes::Bytes;
use machine::Shared;
use mvcc::{Cost, Effort, GivenUp, ReadError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use transport::{HashError, Slice, SliceHash, SliceQuestion};
use types::{KeyRange, RangeEnd};

/// What is said of a slice beyond the limits.
pub(crate) const TOO_LARGE: &str = "the slice is too large";

pub(crate) struct Slices {
    shared: Arc<Shared>,
    /// Turns at what peers may ask.
    work: Arc<api::Pool>,
    limits: Limits,
    /// Changes never change: each slice of them is hashed once, whoever asks.
    remembered: Mutex<VecDeque<(Slice, SliceHash)>>,
}

impl Slices {
    pub(crate) fn new(shared: Arc<Shared>, work: Arc<api::Pool>, limits: Limits) -> Arc<Self> {
        Arc::new(Self { shared, work, limits, remembered: Mutex::default() })
    }

    /// The hash of a slice, read on a thread of its own.
    pub(crate) async fn hash(self: Arc<Self>, question: SliceQuestion) -> Result<SliceHash, HashError> {
        let SliceQuestion { slice, anew } = question;
        if !anew && let Some(known) = self.recall(&slice) {
            return Ok(known);
        }
        let (shared, budget, read) = (Arc::clone(&self.shared), self.budget(), slice.clone());
        let found = self.work.run(api::Lane::Short, move |gone| {
            let (view, effort) = (shared.view(), Effort::within(budget).unless(gone));
            match read {
                Slice::Changes(after, to) => view.bounded(&effort).hash_changes(after, to),
                Slice::Keys { revision, from, to, rows } => {
                    let end = to.map_or(RangeEnd::Open, RangeEnd::Before);
                    let limit = i64::try_from(rows.saturating_add(1)).unwrap_or(i64::MAX);
                    let range = KeyRange { start: from, end };
                    view.bounded(&effort).hash_keys(&range, revision, limit, 0).map(|(hash, _)| hash)
                }
            }
        });
        let hash = wired(found.await.map_err(|error| HashError::Other(error.to_string()))?.map_err(refusal)?);
        self.remember(slice, hash);
        Ok(hash)
    }

    /// The hash of the first keys from this one on, and where the rest begins.
    pub(crate) async fn first_keys(
        &self,
        from: Bytes,
        revision: i64,
        limits: &Limits,
    ) -> Result<(SliceHash, Option<Bytes>), HashError> {
        let (shared, budget) = (Arc::clone(&self.shared), self.budget());
        let (keys, bytes) = (limits.keys, limits.keys_bytes);
        let found = self.work.run(api::Lane::Short, move |gone| {
            let (view, effort) = (shared.view(), Effort::within(budget).unless(gone));
            let range = KeyRange { start: from, end: RangeEnd::Open };
            view.bounded(&effort).hash_keys(&range, revision, keys, bytes)
        });
        let found = found.await.map_err(|error| HashError::Other(error.to_string()))?;
        found.map(|(hash, rest)| (wired(hash), rest)).map_err(refusal)
    }

    fn budget(&self) -> Cost {
        Cost { rows: self.limits.slice_rows, bytes: self.limits.slice_bytes }
    }

    fn recall(&self, slice: &Slice) -> Option<SliceHash> {
        let remembered = types::lock(&self.remembered);
        remembered.iter().find(|(known, _)| known == slice).map(|(_, hash)| *hash)
    }

    fn remember(&self, slice: Slice, hash: SliceHash) {
        if !matches!(slice, Slice::Changes(..)) {
            return;
        }
        let mut remembered = types::lock(&self.remembered);
        remembered.retain(|(known, _)| *known != slice);
        remembered.push_back((slice, hash));
        while remembered.len() > self.limits.remembered {
            remembered.pop_front();
        }
    }
}

fn wired(found: mvcc::SliceHash) -> SliceHash {
    SliceHash { hash: found.hash, rows: found.rows }
}

fn refusal(error: ReadError) -> HashError {
    match error {
        ReadError::Compacted => HashError::Compacted,
        ReadError::FutureRevision => HashError::Future,
        ReadError::GivenUp(GivenUp::Spent) => HashError::Other(TOO_LARGE.to_owned()),
        error => HashError::Other(error.to_string()),
    }
}
