//! # Watching: who is told of what happened, when, and in which order
//!
//! Watchers are cursors into one history. Those that have seen everything ("synced") cost nothing until a key of theirs
//! changes; those behind are caught up from memory, or in rounds from the store. All of it is done by bounded steps,
//! however many watch a key.
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
//! * [`Hub`]: the state machine; one owner. A topic is what watchers of the same range, filters and wish for previous
//!   versions share: an event is matched once a topic and its bytes are shared by all watchers of it.
//! * [`Round`]: a bounded piece of history read for many watchers at once, on any thread.
//! * [`Response`]: what a stream is told. The bytes of events are whoever feeds the hub's; it never looks into them.
//!
//! Promises, each for one watcher (the model test and the simulator check them):
//! * ordered: events come in the order of their revisions; unique: none comes twice; reliable: none between two that
//!   come, and none after the start, is left out;
//! * atomic: all events of one revision come in one response;
//! * resumable: a watcher that starts at the revision after the last it saw sees what it would have seen;
//! * bookmarkable: after progress at a revision was announced, no event up to it comes.
//!
//! [`Limits`]: a stream's queue holds so many bytes and one response more; the ring its own, or what is still to be told if
//! that is more, up to twice as much; a step of telling costs what so many told watchers do; a round reads so many rows or
//! bytes of matching events, and the rest of a revision. Who does not read keeps its cursor and its place, and delays
//! nobody.
//!
//! What it does not do: no clock (who sends progress in intervals has one), no threads, no wire types, no fragments of
//! responses (cutting bytes is the sender's business), no permissions.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod event;
mod hub;
mod index;
mod limits;
mod response;
mod ring;
mod round;

pub use event::{Event, Gone, History, Spec};
pub use hub::{Counts, Create, Hub, Step, StreamKey};
pub use limits::Limits;
pub use response::{Refusal, Response};
pub use round::{Chunk, Round};

/// What a response counts in the queue besides its events, in bytes: about what it takes in memory.
const RESPONSE_BYTES: usize = 64;

/// What reading a version before from the store costs, in watchers told or events looked at: two or three microseconds.
const READ_COST: usize = 25;
