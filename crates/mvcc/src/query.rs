//! Queries and their answers: etcd's range request without its wire format.

use crate::{GivenUp, KeyValue};
use bytes::Bytes;
use engine::Fault;
use types::KeyRange;

/// What an answer is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// By the key's bytes.
    Key,
    /// By the key's version.
    Version,
    /// By the create revision.
    Create,
    /// By the mod revision.
    Mod,
    /// By the value's bytes.
    Value,
}

/// The direction of a sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the smallest to the largest.
    Ascend,
    /// From the largest to the smallest.
    Descend,
}

/// A hash of the history, and the range of revisions it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The CRC-32C of the rows.
    pub hash: u32,
    /// The compacted revision at the time; −1 = none. Only hashes with the same one are comparable.
    pub compact_revision: i64,
    /// The last revision that it covers.
    pub hash_revision: i64,
}

/// A read of a range of keys at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "flags of etcd's range request, each on its own")]
pub struct Query {
    /// The keys asked for; every key by default.
    pub range: KeyRange,
    /// The revision to read at; 0 or less = the current one.
    pub revision: i64,
    /// The maximum number of keys to return; 0 or less = all.
    pub limit: i64,
    /// The sort order; `None` = by key.
    pub sort: Option<(SortBy, Order)>,
    /// Without filters, cut at the limit (plus one) before sorting: what etcd does for a sort target without an order.
    pub limit_first: bool,
    /// Leave out values, and lease, as etcd 3.7 answering from its index does, unless sorting by value.
    pub keys_only: bool,
    /// Return only the count.
    pub count_only: bool,
    /// End with the key that reaches this many bytes, with `more` set if others follow; 0 = no such end. Only for
    /// unfiltered queries in key order.
    pub max_bytes: usize,
    /// The caller knows the count: if counting takes a walk, it is skipped and 0.
    pub uncounted: bool,
    /// Keep keys modified at or after this revision; 0 = all.
    pub min_mod_revision: i64,
    /// Keep keys modified at or before this revision; 0 = all.
    pub max_mod_revision: i64,
    /// Keep keys created at or after this revision; 0 = all.
    pub min_create_revision: i64,
    /// Keep keys created at or before this revision; 0 = all.
    pub max_create_revision: i64,
}

impl Query {
    /// A query for every key of the range at the current revision.
    pub fn of(range: KeyRange) -> Self {
        Self { range, ..Self::default() }
    }

    pub(crate) fn limit(&self) -> Option<usize> {
        usize::try_from(self.limit).ok().filter(|&limit| limit > 0)
    }

    /// Whether keys come in ascending key order, so that a limit ends the walk.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.sort, None | Some((SortBy::Key, Order::Ascend))) && !self.has_filter()
    }

    pub(crate) fn enough_bytes(&self) -> usize {
        if self.max_bytes > 0 && self.is_plain() { self.max_bytes } else { usize::MAX }
    }

    pub(crate) fn is_of_index(&self) -> bool {
        self.keys_only && !self.by_value()
    }

    pub(crate) fn by_value(&self) -> bool {
        matches!(self.sort, Some((SortBy::Value, _)))
    }

    /// How many keys of the range, in key order, suffice to answer.
    pub(crate) fn enough(&self) -> usize {
        let cut = self.is_plain() || (self.limit_first && !self.has_filter());
        self.limit().filter(|_| cut).map_or(usize::MAX, |limit| limit.saturating_add(1))
    }

    fn has_filter(&self) -> bool {
        [self.min_mod_revision, self.max_mod_revision, self.min_create_revision, self.max_create_revision]
            .iter()
            .any(|&bound| bound != 0)
    }

    /// Whether a version passes the filters; as in etcd, a bound of 0 does not filter.
    pub(crate) fn keeps(&self, create: i64, modified: i64) -> bool {
        let holds = |bound: i64, ok: bool| bound == 0 || ok;
        holds(self.min_mod_revision, modified >= self.min_mod_revision)
            && holds(self.max_mod_revision, modified <= self.max_mod_revision)
            && holds(self.min_create_revision, create >= self.min_create_revision)
            && holds(self.max_create_revision, create <= self.max_create_revision)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    Nothing,
    Value,
    ValueAndLease,
}

impl Hidden {
    pub(crate) fn of(query: &Query) -> Self {
        match (query.keys_only, query.is_of_index()) {
            (false, _) => Self::Nothing,
            (true, false) => Self::Value,
            (true, true) => Self::ValueAndLease,
        }
    }

    pub(crate) fn hide(self, kv: &mut KeyValue) {
        if self != Self::Nothing {
            kv.value = Bytes::new();
        }
        if self == Self::ValueAndLease {
            kv.lease = 0;
        }
    }
}

/// The answer to a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The keys, in the order asked for.
    pub kvs: Vec<KeyValue>,
    /// The number of keys in the range at the revision, whatever the limit and the filters.
    pub count: i64,
    /// Whether the limit cut off keys.
    pub more: bool,
}

/// Why a read was not answered. The first two go to the client, the third to the owner of the [`crate::Effort`]; a
/// fault stops the process.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The revision is before the last compaction.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision does not exist yet.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// The reader's budget or cancellation ended it.
    #[error(transparent)]
    GivenUp(#[from] GivenUp),
    /// The engine failed, or its rows are damaged.
    #[error(transparent)]
    Fault(#[from] Fault),
}
