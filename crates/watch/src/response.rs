//! Responses of a watch stream, independent of the wire format.

use crate::RESPONSE_BYTES;
use bytes::Bytes;

/// Why a watcher was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The start revision is negative.
    NegativeStart,
    /// The range is empty.
    EmptyRange,
    /// The stream has a watcher with this ID.
    DuplicateId,
}

/// One message of a stream. Revisions are the hub's when it was queued, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A watcher was created.
    Created {
        /// The ID of the watcher.
        id: i64,
        /// The newest revision then.
        revision: i64,
    },
    /// A watcher was not created.
    Refused {
        /// The reason for the refusal.
        refusal: Refusal,
        /// The newest revision then.
        revision: i64,
    },
    /// A watcher was cancelled by its client.
    Canceled {
        /// Its ID, free again.
        id: i64,
        /// The newest revision then.
        revision: i64,
    },
    /// A watcher ended because it needs compacted history. Its ID stays in use until the client cancels it.
    Compacted {
        /// The ID of the watcher.
        id: i64,
        /// The oldest revision at which it could have started.
        compact_revision: i64,
    },
    /// All events up to the revision were sent.
    Progress {
        /// The watcher; `None` = all of the stream.
        id: Option<i64>,
        /// The revision up to which that holds.
        revision: i64,
    },
    /// The history cannot be read: the stream's last message.
    Failed {
        /// A description of the failure.
        reason: String,
    },
    /// Events of one watcher.
    Events {
        /// The ID of the watcher.
        id: i64,
        /// With these, all events of the watcher up to this revision were sent.
        revision: i64,
        /// Whether a large response may be fragmented.
        fragment: bool,
        /// The number of events.
        count: usize,
        /// The encoded events, concatenated.
        events: Bytes,
    },
}

impl Response {
    pub(crate) fn cost(&self) -> usize {
        match self {
            Self::Events { events, .. } => RESPONSE_BYTES + events.len(),
            _ => RESPONSE_BYTES,
        }
    }

    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Events { count, .. } => *count,
            _ => 0,
        }
    }
}
