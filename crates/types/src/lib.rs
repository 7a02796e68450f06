//! The words every layer shares: keys, ranges, revisions and identities.
//!
//! Nothing here knows a wire format, a disk or a clock. Wire quirks (`range_end = "\0"`) become [`KeyRange`] once,
//! at the edge; below it a range is a range.

mod ident;
mod log;
mod range;
mod revision;

pub use ident::{ClusterId, Index, LeaseId, MemberId, Term};
pub use log::{ConfState, Entry, EntryKind, HardState};
pub use range::{KeyRange, RangeEnd};
pub use revision::Revision;
