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
//! Limits: a stream's queue holds [`STREAM_BYTES_MAX`] and one response more; the ring [`RING_BYTES_MAX`], or what is
//! still to be told if that is more, up to twice as much; a step of telling costs what 512 told watchers do; a round reads
//! [`ROUND_ROWS_MAX`] rows or [`ROUND_BYTES_MAX`] of matching events, and the rest of a revision. Who does not read
//! keeps its cursor and its place, and delays nobody.
//!
//! What it does not do: no clock (who sends progress in intervals has one), no threads, no wire types, no fragments of
//! responses (cutting bytes is the sender's business), no permissions.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod event;
mod hub;
mod index;
mod response;
mod ring;
mod round;

pub use event::{Event, Gone, History, Spec};
pub use hub::{Counts, Create, Hub, Step, StreamKey};
pub use response::{Refusal, Response};
pub use round::{Chunk, Round};

/// What may wait in a stream's queue, in bytes of events, before its watchers are held back: four frames of HTTP/2, so
/// that a client that reads never waits for us; every stream whose client does not read holds as much.
pub const STREAM_BYTES_MAX: usize = 64 << 10;

/// What a response counts in the queue besides its events, in bytes: about what it takes in memory.
const RESPONSE_BYTES: usize = 64;

/// Watchers of a stream that are tried again when its queue has room, in watchers: about as many as fill it.
const UNBLOCK_MAX: usize = 64;

/// The newest events kept, in bytes: some seconds of full load, so that who is a little late needs no read of the store.
pub const RING_BYTES_MAX: usize = 4 << 20;

/// The newest events that wait to be told to synced watchers, in bytes: what the store's tap keeps. When there are more,
/// those watchers fall behind.
const UNTOLD_BYTES_MAX: usize = 8 << 20;

/// Events of the ring that one step looks at, in events: some tens of microseconds.
const RING_STEP_EVENTS: usize = 512;

/// What one step of telling costs, in watchers that are told of an event: some tens of microseconds.
const TELL_COST_MAX: usize = 512;

/// What reading a version before from the store costs, in watchers told or events looked at: two or three microseconds.
const READ_COST: usize = 25;

/// What joining the bytes of events costs: as much as telling a watcher, for so many bytes.
const JOIN_BYTES: usize = 1 << 10;

/// Matches of events and topics after which a batch ends with its revision, in matches: they wait in memory for the batch
/// to be told.
const BATCH_MATCHES_MAX: usize = 16 << 10;

/// Rows of history that a round looks at, in rows: some milliseconds of a thread that is not the runtime's.
pub const ROUND_ROWS_MAX: usize = 10_000;

/// Events that a round finds, in bytes: what a queue may hold above its limit.
pub const ROUND_BYTES_MAX: usize = 128 << 10;

/// Watchers that one round serves, in watchers: etcd's `maxWatchersPerSync`.
const ROUND_WATCHERS_MAX: usize = 512;

/// Events in one response, in bytes, when it holds more than one revision.
const RESPONSE_BYTES_MAX: usize = ROUND_BYTES_MAX;
