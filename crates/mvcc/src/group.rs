//! The write path: a group of transactions becomes one batch.

use crate::index::Index;
use crate::query::{Answer, Query, ReadError};
use crate::read::Reader;
use crate::record::{self, Head, KeyMeta, Link, Record};
use crate::row::{self, Counters, DEAD_PREFIX, Previous, Tail, logical_len};
use crate::store::Store;
use crate::tally::Tally;
use crate::view::View;
use crate::{Effort, KeyValue};
use bytes::{BufMut, Bytes, BytesMut};
use engine::{Batch, Family, Fault};
use std::ops::ControlFlow;
use std::sync::Arc;
use types::{KeyRange, Revision};

/// Rows are built in buffers of this size, bytes: one allocation serves dozens of puts.
const BUFFER_BYTES: usize = 16 * 1024;

/// Why a revision cannot be compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// The revision is already compacted.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision does not exist yet.
    #[error("required revision is a future revision")]
    FutureRevision,
}

/// Transactions applied together. Later ones see earlier ones; readers see all or none.
pub struct Group<'s> {
    store: &'s mut Store,
    batch: Batch,
    index: Index,
    state: Counters,
    tally: Tally,
    /// The compacted revisions, ascending, each with whether it is to leave a hash.
    compacted: Vec<(i64, bool)>,
    /// The Revs rows written so far, ascending: not yet in the engine.
    overlay: Vec<(Revision, Bytes)>,
    record: Vec<u8>,
    tail: Vec<u8>,
}

impl Store {
    /// Begins a group. Dropping it without a commit undoes it.
    pub fn begin(&mut self) -> Group<'_> {
        Group::new(self)
    }
}

impl<'s> Group<'s> {
    fn new(store: &'s mut Store) -> Self {
        let (index, state, tally) = (store.index.clone(), store.state, store.tally);
        Self {
            store,
            tally,
            batch: Batch::default(),
            index,
            state,
            compacted: Vec::new(),
            overlay: Vec::new(),
            record: Vec::new(),
            tail: Vec::new(),
        }
    }

    /// The newest main revision, including this group's.
    pub fn revision(&self) -> i64 {
        self.state.revision
    }

    /// The oldest readable revision; −1 before any compaction.
    pub fn compact_revision(&self) -> i64 {
        self.state.compact
    }

    /// Visits the keys of a range, dead ones too if not yet forgotten, with the size in bytes of each newest version.
    pub fn visit(&self, range: &KeyRange, visit: &mut dyn FnMut(u32) -> ControlFlow<()>) {
        self.index.visit(range, &[], &mut |_, record| visit(Head::of(record).size));
    }

    /// Begins a transaction: all its writes share one main revision.
    pub fn txn(&mut self) -> Txn<'_, 's> {
        let begin = self.state.revision;
        Txn { group: self, begin, subs: 0 }
    }

    /// Makes everything before the revision unreadable, at once. [`Store::compact_step`] removes it over time.
    pub fn compact(&mut self, revision: i64) -> Result<(), CompactError> {
        self.compact_to(revision, true)
    }

    /// [`Group::compact`] during replay: it leaves no hash, since etcd's hashes do not survive a restart.
    pub fn compact_again(&mut self, revision: i64) -> Result<(), CompactError> {
        self.compact_to(revision, false)
    }

    fn compact_to(&mut self, revision: i64, hashed: bool) -> Result<(), CompactError> {
        if revision <= self.state.compact {
            return Err(CompactError::Compacted);
        }
        if revision > self.state.revision {
            return Err(CompactError::FutureRevision);
        }
        self.state.compact = revision;
        self.compacted.push((revision, hashed));
        Ok(())
    }

    /// The batch, for rows of other crates; their keys in Meta must not start with [`crate::META_PREFIX`].
    pub fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// Writes the batch and publishes the new view.
    pub fn commit(self) -> Result<Arc<View>, Fault> {
        let Self { store, batch, index, state, tally, compacted, overlay, .. } = self;
        store.tally = tally;
        let view = store.publish(batch, index, state)?;
        store.feed.push(overlay);
        for (revision, hashed) in compacted {
            store.compactions.add(revision, hashed);
        }
        Ok(view)
    }

    fn reader<'r>(&'r self, current: i64, effort: Option<&'r Effort<'r>>) -> Reader<'r> {
        Reader {
            index: &self.index,
            engine: &*self.store.engine,
            overlay: &self.overlay,
            current,
            compact: self.state.compact,
            epoch: &self.store.epoch,
            options: &self.store.options,
            replaced_from: self.overlay.first().map_or(i64::MAX, |(first, _)| first.main),
            effort,
        }
    }

    fn put(&mut self, at: Revision, key: &Bytes, value: &Bytes, lease: i64) -> Option<KeyMeta> {
        let compact = self.state.compact;
        let mut kv = KeyValue { mod_revision: at.main, lease, ..KeyValue::default() };
        (kv.key, kv.value) = (key.clone(), value.clone());
        let (mut before, mut tail, mut was_dead) = (None, Tail::default(), false);
        self.index.update(key, &mut self.record, &mut |bytes, out| {
            was_dead = bytes.is_some_and(|bytes| !record::is_live(bytes));
            let known = bytes.map(Record::of).filter(|record| is_known(&record.head, compact));
            before = known.as_ref().map(|record| record.head);
            let lived = before.filter(|head| !head.dead);
            (kv.create_revision, kv.version) =
                lived.map_or((at.main, 1), |head| (head.create, head.version + 1));
            let link = known.map_or_else(Link::first, |record| Link::after(record, compact));
            (tail.create, tail.jump) = (lived.is_none(), link.jump);
            let head = Head {
                create: kv.create_revision,
                newest: at,
                version: kv.version,
                lease,
                size: size_of_row(kv.encoded_len()),
                dead: false,
                earlier: lived.map_or(before.is_some(), |head| head.earlier),
                rank: link.rank,
            };
            Record { head, digits: link.digits }.encode_to(out);
        });
        tail.previous = before.map(|head| Previous { revision: head.newest, size: head.size });
        self.write_version(at, &kv, tail);
        self.write_latest(&kv);
        if was_dead {
            let row = self.dead_key(key);
            self.batch.delete(Family::Meta, row);
        }
        before.filter(|head| !head.dead).map(|head| KeyMeta::of(&head))
    }

    fn delete(&mut self, at: Revision, key: &Bytes) -> KeyMeta {
        let kv = KeyValue { key: key.clone(), ..KeyValue::default() };
        let (size, compact) = (size_of_row(kv.encoded_len()), self.state.compact);
        let (mut before, mut jump) = (Head::default(), None);
        self.index.update(key, &mut self.record, &mut |bytes, out| {
            let record = bytes.map(Record::of).expect("the caller found the key in this index");
            before = record.head;
            let link = Link::after(record, compact);
            jump = link.jump;
            let head = Head { newest: at, lease: 0, size, dead: true, rank: link.rank, ..before };
            Record { head, digits: link.digits }.encode_to(out);
        });
        let previous = Some(Previous { revision: before.newest, size: before.size });
        self.write_version(at, &kv, Tail { tombstone: true, create: false, previous, jump });
        let latest = self.escaped(key, &[]);
        self.batch.delete(Family::Latest, latest);
        let dead = self.dead_key(key);
        let record = self.copied(self.record.len(), |record, out| out.put_slice(record));
        self.batch.put(Family::Meta, dead, record);
        KeyMeta::of(&before)
    }

    fn write_version(&mut self, at: Revision, kv: &KeyValue, tail: Tail) {
        self.tail.clear();
        tail.put(at, &mut self.tail);
        let kv_len = kv.encoded_len();
        let tail_bytes = std::mem::take(&mut self.tail);
        let key = self.copied(Revision::ENCODED_LEN, |_, out| out.put_slice(&at.encode()));
        let row = self.copied(kv_len + tail_bytes.len(), |_, out| {
            kv.encode_to(out);
            out.put_slice(&tail_bytes);
        });
        self.tail = tail_bytes;
        self.overlay.push((at, row.clone()));
        self.batch.put(Family::Revs, key, row);
        self.state.bytes += logical_len(kv_len, tail.tombstone);
    }

    fn write_latest(&mut self, kv: &KeyValue) {
        let key = self.escaped(&kv.key, &[]);
        let row = self.copied(kv.encoded_len() + self.record.len() + 2, |record, out| {
            kv.encode_to(out);
            row::put_latest_tail(record, out);
        });
        self.batch.put(Family::Latest, key, row);
    }

    fn dead_key(&mut self, key: &[u8]) -> Bytes {
        self.escaped(key, DEAD_PREFIX)
    }

    fn escaped(&mut self, key: &[u8], prefix: &[u8]) -> Bytes {
        self.copied(prefix.len() + row::escaped_len(key), |_, out| {
            out.put_slice(prefix);
            row::escape(key, out);
        })
    }

    /// Bytes built in the store's buffer; `build` is also given the scratch record.
    fn copied(&mut self, length: usize, build: impl FnOnce(&[u8], &mut BytesMut)) -> Bytes {
        let buffer = &mut self.store.buffer;
        if buffer.capacity() < length {
            *buffer = BytesMut::with_capacity(BUFFER_BYTES.max(length));
        }
        build(&self.record, buffer);
        buffer.split().freeze()
    }
}

/// Whether the key may be known. A tombstone before the compaction is forgotten at once, so that rows do not depend
/// on the progress of physical compaction.
fn is_known(head: &Head, compact: i64) -> bool {
    !head.dead || head.newest.main >= compact
}

fn size_of_row(length: usize) -> u32 {
    u32::try_from(length).expect("a value is bounded by the request size, far below 4 GiB")
}

/// One transaction. Its writes share the main revision after the one at its start.
pub struct Txn<'g, 's> {
    group: &'g mut Group<'s>,
    begin: i64,
    subs: i64,
}

impl Txn<'_, '_> {
    /// The revision for a response header: the one at the start, plus one after a write.
    pub fn revision(&self) -> i64 {
        self.begin + i64::from(self.subs > 0)
    }

    /// Answers a query; sees this transaction's writes.
    pub fn range(&self, query: &Query) -> Result<Answer, ReadError> {
        self.group.reader(self.revision(), None).range(query)
    }

    /// [`Txn::range`] within a budget; ends as [`ReadError::GivenUp`] beyond it.
    pub fn range_within(&self, query: &Query, effort: &Effort<'_>) -> Result<Answer, ReadError> {
        self.group.reader(self.revision(), Some(effort)).range(query)
    }

    /// A view of this point, with this transaction's writes so far. Read it only once the group is committed.
    pub fn view(&self) -> View {
        let Group { store, state, index, tally, .. } = &*self.group;
        let replaced_from = if self.subs > 0 { self.revision() } else { i64::MAX };
        View { replaced_from, ..store.view_of(index.clone(), *state, *tally) }
    }

    /// The metadata of a live key, without reading its value.
    pub fn meta(&self, key: &[u8]) -> Option<KeyMeta> {
        let record = self.group.index.get(key).filter(|record| record::is_live(record))?;
        Some(KeyMeta::of(&Head::of(record)))
    }

    /// Visits the metadata of the live keys of a range, in order, without reading values.
    pub fn metas(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], KeyMeta) -> ControlFlow<()>) {
        self.group.index.visit(range, &[], &mut |key, record| {
            if !record::is_live(record) {
                return ControlFlow::Continue(());
            }
            visit(key, KeyMeta::of(&Head::of(record)))
        });
    }

    /// Puts a key; returns the metadata of the previous version. Reads nothing from the engine.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "what is stored is built from it; the caller is done with it"
    )]
    pub fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> Result<Option<KeyMeta>, Fault> {
        let tally = &mut self.group.tally;
        tally.puts += 1;
        tally.put_bytes += (key.len() + value.len()) as u64;
        let at = self.next();
        Ok(self.group.put(at, &key, &value, lease))
    }

    /// Deletes the live keys of a range, in key order, and returns them. Reads nothing from the engine.
    pub fn delete(&mut self, range: &KeyRange) -> Result<Vec<(Bytes, KeyMeta)>, Fault> {
        self.group.tally.deletes += 1;
        let mut keys = Vec::new();
        self.group.index.visit(range, &[], &mut |key, record| {
            if record::is_live(record) {
                keys.push(Bytes::copy_from_slice(key));
            }
            ControlFlow::Continue(())
        });
        let deleted = keys.into_iter().map(|key| {
            let at = self.next();
            let meta = self.group.delete(at, &key);
            (key, meta)
        });
        Ok(deleted.collect())
    }

    /// Ends the transaction, as dropping it does; returns the revision for its header.
    pub fn end(self) -> i64 {
        self.revision()
    }

    fn next(&mut self) -> Revision {
        let at = Revision::new(self.begin + 1, self.subs);
        self.subs += 1;
        self.group.state.revision = at.main;
        at
    }
}
