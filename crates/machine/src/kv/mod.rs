//! # The key-value semantics
//!
//! What a put, a delete, a range and a transaction mean, once, for entries of the log and for reads alike. The rules are
//! those of etcd's `server/etcdserver/txn`; where they look odd, the odd thing is etcd's and named so.
//!
//! ```text
//! apply ─▶ Writing (one mvcc transaction + leases) ─┐
//!                                                    ├─ trait Space ─▶ range · put · delete · compare · txn
//! reads ─▶ Reading (one View, refuses writes) ──────┘
//! ```

mod compare;
mod delete;
mod deleted;
mod put;
mod range;
mod space;
mod txn;

pub use txn::{is_read_only, is_serializable};

pub(crate) use delete::{delete_key, delete_range};
pub(crate) use put::put;
pub(crate) use range::{outline as outline_range, range};
pub(crate) use space::{Leases, Reading, Reads, Writing, attach_keys};
pub(crate) use txn::{txn, unread as unread_txn};

use proto::etcdserverpb::ResponseHeader;
use proto::mvccpb;

/// A header that says the revision; the API fills in the rest.
#[expect(clippy::unnecessary_wraps, reason = "the wire's headers are optional")]
pub(crate) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

/// A key and its value in the wire's type.
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
