//! What happens, what a watcher wants of it, and where older events are read.

use bytes::Bytes;
use std::ops::ControlFlow;
use types::{KeyRange, Revision};

/// One change of one key, and its bytes as every watcher gets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where in the history.
    pub at: Revision,
    /// Whether the key was deleted.
    pub delete: bool,
    /// The key.
    pub key: Bytes,
    /// The version before, where there is one that a watcher may be shown: for [`History::with_previous`].
    pub previous: Option<Revision>,
    /// The event as it stands in a response.
    pub bytes: Bytes,
}

/// What a watcher wants to be told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// The keys. A range that can hold none is refused.
    pub range: KeyRange,
    /// Whether puts are wanted.
    pub puts: bool,
    /// Whether deletes are wanted.
    pub deletes: bool,
    /// Whether the version before is wanted with each event.
    pub previous: bool,
}

impl Spec {
    /// Whether an event of a key in the range is wanted.
    pub(crate) fn wants(&self, event: &Event) -> bool {
        if event.delete { self.deletes } else { self.puts }
    }
}

/// Why history could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It is compacted.
    Compacted,
    /// The store failed, with the reason.
    Failed(String),
}

/// The history, as some moment left it.
pub trait History {
    /// The oldest revision that a watcher may start at; −1 before any compaction.
    fn compact_revision(&self) -> i64;

    /// Visits the events from one main revision to another, both inclusive, in order, until the visitor breaks.
    fn events(&self, from: i64, to: i64, visit: &mut dyn FnMut(Event) -> ControlFlow<()>)
    -> Result<(), Gone>;

    /// The event's bytes with the version before it, as etcd shows it: left out where there is none any more.
    fn with_previous(&self, event: &Event) -> Result<Bytes, Gone>;
}
