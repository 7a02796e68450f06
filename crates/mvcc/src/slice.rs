//! Hashes of slices: of what a few revisions changed, or of a few keys, read from the engine as clients and watchers read
//! it. Members that hold the same answer the same, whatever is compacted at the moment: neither kind counts anything
//! that compaction removes.

use crate::hash;
use crate::query::{Query, ReadError};
use crate::view::Bounded;
use bytes::{BufMut, Bytes, BytesMut};
use types::{KeyRange, Revision};

/// The hash of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SliceHash {
    /// The CRC-32C of the rows.
    pub hash: u32,
    /// The number of rows in it.
    pub rows: u64,
}

impl Bounded<'_> {
    /// The hash of all changes after the revision `after`, up to and including `to`, tombstones too. `Compacted` if some
    /// of them may be gone.
    pub fn hash_changes(self, after: i64, to: i64) -> Result<SliceHash, ReadError> {
        let view = self.view();
        if after < view.compact_revision() {
            return Err(ReadError::Compacted);
        }
        if to > view.revision() {
            return Err(ReadError::FutureRevision);
        }
        let mut found = SliceHash { hash: 0, rows: 0 };
        let (start, end) = (Revision::new(after + 1, 0), Revision::new(to + 1, 0));
        hash::scan(self.reader(), start, end, &mut |at, tail, kv| {
            found = SliceHash { hash: hash::append(found.hash, at, tail, kv), rows: found.rows + 1 };
            Ok(())
        })?;
        Ok(found)
    }

    /// The hash of the keys of a range at a revision, of the first `limit` of them or fewer, if those are of `bytes`; and
    /// where the rest begins, if there is one.
    pub fn hash_keys(
        self,
        range: &KeyRange,
        revision: i64,
        limit: i64,
        bytes: usize,
    ) -> Result<(SliceHash, Option<Bytes>), ReadError> {
        let query = Query {
            range: range.clone(),
            revision,
            limit,
            max_bytes: bytes,
            uncounted: true,
            ..Query::default()
        };
        let answer = self.range(&query)?;
        let (mut found, mut encoded) = (SliceHash { hash: 0, rows: 0 }, BytesMut::new());
        for kv in &answer.kvs {
            encoded.clear();
            kv.encode_to(&mut encoded);
            found = SliceHash { hash: crc32c::crc32c_append(found.hash, &encoded), rows: found.rows + 1 };
        }
        let rest = answer.kvs.last().filter(|_| answer.more).map(|last| {
            let mut next = BytesMut::with_capacity(last.key.len() + 1);
            next.put_slice(&last.key);
            next.put_u8(0); // the smallest key after it
            next.freeze()
        });
        Ok((found, rest))
    }
}
