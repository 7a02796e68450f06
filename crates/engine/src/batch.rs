//! The write batch: rows that are written together.

use crate::Family;
use bytes::Bytes;

/// One change of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a row, replacing the old value.
    Put(Family, Bytes, Bytes),
    /// Removes a row, if it exists.
    Delete(Family, Bytes),
}

/// A write batch: changes applied atomically and in order, so a later change of a row wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes, in order.
    pub ops: Vec<Op>,
}

impl Batch {
    /// Adds a write of a row.
    pub fn put(&mut self, family: Family, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.ops.push(Op::Put(family, key.into(), value.into()));
    }

    /// Adds a removal of a row.
    pub fn delete(&mut self, family: Family, key: impl Into<Bytes>) {
        self.ops.push(Op::Delete(family, key.into()));
    }

    /// Whether the batch holds no change.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}
