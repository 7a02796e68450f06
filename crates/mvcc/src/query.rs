//! Questions about the key space, and their answers: etcd's range request without its wire form.

use crate::{GivenUp, KeyValue};
use bytes::Bytes;
use engine::Fault;
use types::KeyRange;

/// What an answer is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// The key.
    Key,
    /// The version.
    Version,
    /// The create revision.
    Create,
    /// The mod revision.
    Mod,
    /// The value.
    Value,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// A read of a range of keys at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "flags of etcd's range request, each on its own")]
pub struct Query {
    /// The keys asked for.
    pub range: KeyRange,
    /// The revision to read at; 0 or less = the current one.
    pub revision: i64,
    /// The most keys to return; 0 or less = all.
    pub limit: i64,
    /// The order; `None` = by key.
    pub sort: Option<(SortBy, Order)>,
    /// Without filters, cut at the limit (and one more) before sorting: what etcd does with a sort target and no order.
    pub limit_first: bool,
    /// Leave the values out. Then the lease is 0 too, as in etcd 3.7, which answers from its index, unless the sort is
    /// by value.
    pub keys_only: bool,
    /// Return only the count.
    pub count_only: bool,
    /// End the answer with the key that brings it to this many bytes, with `more` where others follow; 0 = no such end.
    /// Only where keys come in their own order and unfiltered.
    pub max_bytes: usize,
    /// Whoever asks knows the count: where counting takes a walk it is left out, and 0.
    pub uncounted: bool,
    /// Keep keys modified at this revision or later; 0 = all.
    pub min_mod_revision: i64,
    /// Keep keys modified at this revision or before; 0 = all.
    pub max_mod_revision: i64,
    /// Keep keys created at this revision or later; 0 = all.
    pub min_create_revision: i64,
    /// Keep keys created at this revision or before; 0 = all.
    pub max_create_revision: i64,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            range: KeyRange::all(),
            revision: 0,
            limit: 0,
            sort: None,
            limit_first: false,
            keys_only: false,
            count_only: false,
            max_bytes: 0,
            uncounted: false,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        }
    }
}

impl Query {
    /// Every key of the range, at the current revision.
    pub fn of(range: KeyRange) -> Self {
        Self { range, ..Self::default() }
    }

    /// The most keys to return, if there is such a number.
    pub(crate) fn limit(&self) -> Option<usize> {
        usize::try_from(self.limit).ok().filter(|&limit| limit > 0)
    }

    /// Whether the keys come in their own order, ascending, so that a limit ends the walk.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.sort, None | Some((SortBy::Key, Order::Ascend))) && !self.has_filter()
    }

    /// How many bytes end the answer.
    pub(crate) fn enough_bytes(&self) -> usize {
        if self.max_bytes > 0 && self.is_plain() { self.max_bytes } else { usize::MAX }
    }

    /// Whether an answer shows only what the index knows.
    pub(crate) fn is_of_index(&self) -> bool {
        self.keys_only && !self.by_value()
    }

    /// Whether every value is compared.
    pub(crate) fn by_value(&self) -> bool {
        matches!(self.sort, Some((SortBy::Value, _)))
    }

    /// How many keys of the range, in key order, are enough to answer.
    pub(crate) fn enough(&self) -> usize {
        let cut = self.is_plain() || (self.limit_first && !self.has_filter());
        self.limit().filter(|_| cut).map_or(usize::MAX, |limit| limit.saturating_add(1))
    }

    fn has_filter(&self) -> bool {
        [self.min_mod_revision, self.max_mod_revision, self.min_create_revision, self.max_create_revision]
            .iter()
            .any(|&bound| bound != 0)
    }

    /// Whether a version passes the filters; a bound of 0 is none, as etcd has it.
    pub(crate) fn keeps(&self, create: i64, modified: i64) -> bool {
        let holds = |bound: i64, ok: bool| bound == 0 || ok;
        holds(self.min_mod_revision, modified >= self.min_mod_revision)
            && holds(self.max_mod_revision, modified <= self.max_mod_revision)
            && holds(self.min_create_revision, create >= self.min_create_revision)
            && holds(self.max_create_revision, create <= self.max_create_revision)
    }
}

/// What an answer leaves out of its rows.
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

/// The keys found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The keys, in the order asked for.
    pub kvs: Vec<KeyValue>,
    /// How many keys the range holds at the revision, whatever the limit and the filters.
    pub count: i64,
    /// Whether the limit cut keys off.
    pub more: bool,
}

/// Why a read was not answered. The first two are for the client, the third for whoever gave the read its
/// [`crate::Effort`]; a fault is this process's end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The revision is before the last compaction.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision is not there yet.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// Whoever asked has ended it.
    #[error(transparent)]
    GivenUp(#[from] GivenUp),
    /// The store cannot be read.
    #[error(transparent)]
    Fault(#[from] Fault),
}
