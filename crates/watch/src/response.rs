//! What a stream is told, before it is written in anybody's wire format.

use crate::RESPONSE_BYTES;
use bytes::Bytes;

/// Why a watcher cannot be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The start revision is negative.
    NegativeStart,
    /// The range ends before it begins.
    EmptyRange,
    /// The stream has a watcher with this ID.
    DuplicateId,
}

/// One thing that a stream is told. Revisions are the hub's when it was queued, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A watcher exists from here on.
    Created {
        /// Its ID.
        id: i64,
        /// The newest revision.
        revision: i64,
    },
    /// A watcher was not created.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The newest revision.
        revision: i64,
    },
    /// A watcher was cancelled by its client.
    Canceled {
        /// Its ID, which is free again.
        id: i64,
        /// The newest revision.
        revision: i64,
    },
    /// A watcher needs history that is compacted, and has ended. Its ID stays in use until the client cancels it.
    Compacted {
        /// Its ID.
        id: i64,
        /// The oldest revision that it could have started at.
        compact_revision: i64,
    },
    /// All events up to the revision have been told.
    Progress {
        /// The watcher; `None` = all watchers of the stream.
        id: Option<i64>,
        /// The revision.
        revision: i64,
    },
    /// History cannot be read: the last thing that the stream is told.
    Failed {
        /// Why.
        reason: String,
    },
    /// Something happened.
    Events {
        /// The watcher.
        id: i64,
        /// All events of the watcher up to this revision have been told with these.
        revision: i64,
        /// Whether the response may be cut where it is very large.
        fragment: bool,
        /// How many events there are.
        count: usize,
        /// Their bytes, one after the other.
        events: Bytes,
    },
}

impl Response {
    /// What it takes in a queue, in bytes.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Self::Events { events, .. } => RESPONSE_BYTES + events.len(),
            _ => RESPONSE_BYTES,
        }
    }

    /// How many events it tells of.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Events { count, .. } => *count,
            _ => 0,
        }
    }
}
