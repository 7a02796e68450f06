//! # The key-value semantics
//!
//! What a put, delete, range and transaction mean, for log entries and reads alike, by etcd's `server/etcdserver/txn`.
//! Oddities are etcd's, and marked as such.
//!
//! ```text
//! apply ─▶ Writing (one mvcc transaction + leases) ─┐
//!                                                    ├─ trait Space ─▶ range · put · delete · compare · txn
//! reads ─▶ Reading (one View, refuses writes) ──────┘
//! ```

mod compare;
mod delete;
mod deleted;
mod later;
mod put;
mod range;
mod space;
mod txn;

pub use later::Later;
pub use txn::{is_read_only, is_serializable};

pub(crate) use delete::{delete_key, delete_range};
pub(crate) use put::put;
pub(crate) use range::{outline as outline_range, range};
pub(crate) use space::{LeaseTable, Reading, Reads, Writing, attach_keys};
pub(crate) use txn::{txn, unread as unread_txn};

use proto::etcdserverpb::ResponseHeader;
use proto::mvccpb;

/// A header with the revision; the API adds the rest.
#[expect(clippy::unnecessary_wraps, reason = "the wire's headers are optional")]
pub(crate) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

/// A key and its value in the wire type.
pub fn wire(kv: mvcc::KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}
