//! Events, what a watcher asks for, and the history that older events are read from.

use bytes::Bytes;
use std::ops::ControlFlow;
use types::{KeyRange, Revision};

/// One change of one key, with its bytes as sent to every watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision of the change.
    pub at: Revision,
    /// Whether the key was deleted.
    pub delete: bool,
    /// The key that changed.
    pub key: Bytes,
    /// The previous version, if watchers may see one: for [`History::with_previous`].
    pub previous: Option<Revision>,
    /// The event encoded as part of a response.
    pub bytes: Bytes,
}

/// What a watcher asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// The watched keys. An empty range is refused.
    pub range: KeyRange,
    /// Whether it wants puts.
    pub puts: bool,
    /// Whether it wants deletes.
    pub deletes: bool,
    /// Whether it wants the previous version with each event.
    pub previous: bool,
}

impl Spec {
    pub(crate) fn wants(&self, event: &Event) -> bool {
        if event.delete { self.deletes } else { self.puts }
    }
}

/// Why the history could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryError {
    /// The revision is compacted.
    Compacted,
    /// The store failed, for this reason.
    Failed(String),
}

/// The history as of one view.
pub trait History {
    /// The oldest revision at which a watcher may start; −1 before any compaction.
    fn compact_revision(&self) -> i64;

    /// Visits the events from one main revision to another, both inclusive, in order, until the visitor breaks.
    fn events(
        &self,
        from: i64,
        to: i64,
        visit: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(), HistoryError>;

    /// The event's bytes with the previous version, as etcd shows it: left out if it does not exist any more.
    fn with_previous(&self, event: &Event) -> Result<Bytes, HistoryError>;
}
