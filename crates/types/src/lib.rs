//! Shared value types: keys, ranges, revisions, log entries, members. No wire format, no disk, no clock.
//! Quirks of the wire (`range_end = "\0"`) are translated into [`KeyRange`] once, at the edge.

mod ident;
mod log;
mod member;
pub mod mutant;
mod range;
mod ranges;
mod revision;
mod sync;
pub mod varint;
mod version;

pub use ident::{Index, LeaseId, MemberId, Term};
pub use log::{ConfState, Entry, EntryKind, HardState};
pub use member::Member;
pub use range::{KeyRange, RangeEnd};
pub use ranges::{KeyRanges, Upper};
pub use revision::Revision;
pub use sync::lock;
pub use version::Version;
