//! Snapshots between members: the leader's database is made of its engine's rows; the other member makes an engine of it.
//!
//! ```text
//! raft: MsgSnap ─▶ transport ─▶ outgoing: engine's snapshot ─ measure, export ─▶ pieces ─▶ POST /raft/snapshot
//! POST ─▶ transport ─▶ incoming: a file, synced as it grows ─ import ─▶ an engine beside the current one ─ opened ─▶
//!         a second machine ─▶ Handle::install ─▶ the log ─▶ the member goes on from it ─▶ the old engine is removed
//! ```
//!
//! Each has a thread, of low priority: neither the runtime nor consensus waits for it.

mod engines;
mod incoming;
mod outgoing;

pub(crate) use engines::{Engines, is_any, make_first, open_first};
pub(crate) use incoming::Incoming;
pub(crate) use outgoing::outgoing;
