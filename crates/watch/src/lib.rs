//! # Watching: dispatches events to watchers, in order
//!
//! A watcher is a cursor into the history. Those that have seen everything ("synced") cost nothing until one of their
//! keys changes; those that lag are caught up from memory, or in rounds from the store. All steps are bounded.
//!
//! ```text
//!   applied events ─▶ Hub::publish ─▶ ring (newest events)
//!                                      ▼
//!   Hub::step ─┬─ what is new: ring ─▶ index: key → topics ─▶ synced watchers ──▶ stream's queue ─▶ Hub::pop
//!              └─ who is behind: ring, or Round::read ─▶ Hub::finish ────────────▶ ▲       │
//!                     ▲                  (off the thread, on a History)                    │
//!                     └──────────── blocked: no room in the stream's queue ◀───────────────┘
//! ```
//!
//! * [`Hub`]: the state machine; it has one owner. A topic is what watchers with the same range, filters and wish for
//!   previous versions share: events are matched once per topic, and their bytes are shared.
//! * [`Round`]: a bounded piece of history, read for many watchers at once, on any thread.
//! * [`Response`]: one message of a stream. The hub never looks into the events' bytes.
//!
//! Guarantees for each watcher (checked by the model test and the simulator):
//! * ordered: events come in the order of their revisions; unique: none comes twice; reliable: none between two that
//!   come, and none after the start, is left out;
//! * atomic: all events of one revision come in one response;
//! * resumable: a watcher that starts at the revision after the last it saw sees what it would have seen;
//! * bookmarkable: after progress at a revision was announced, no event up to it comes.
//!
//! Bounds ([`Limits`]): a stream's queue may exceed its own by one response, the ring up to twice for undispatched
//! events, a round by the rest of a revision. A client that does not read keeps its cursor and its place, and delays
//! nobody.
//!
//! Not here: clocks (the owner triggers periodic progress), threads, wire types, fragmentation, permissions.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod event;
mod hub;
mod index;
mod limits;
mod response;
mod ring;
mod round;

pub use event::{Event, History, HistoryError, Spec};
pub use hub::{Counts, Create, Hub, Step, StreamKey};
pub use limits::Limits;
pub use response::{Refusal, Response};
pub use round::{Chunk, Round};

/// What a response counts in the queue besides its events, bytes: roughly its memory.
const RESPONSE_BYTES: usize = 64;

/// The cost of reading a previous version from the store, in watchers served or events matched: 2 to 3 µs.
const READ_COST: usize = 25;
