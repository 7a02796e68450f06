//! Writing: a group of transactions, one batch.

use crate::index::Index;
use crate::query::{Answer, Query, ReadError};
use crate::read::Reader;
use crate::record::{self, Head, Link, Record};
use crate::row::{self, DEAD_PREFIX, Previous, State, Tail, logical_len};
use crate::store::Store;
use crate::tally::Tally;
use crate::view::View;
use crate::{Effort, KeyValue};
use bytes::{BufMut, Bytes, BytesMut};
use engine::{Batch, Family, Fault};
use std::ops::ControlFlow;
use std::sync::Arc;
use types::{KeyRange, Revision};

/// Rows are built in buffers of this size, in bytes: one allocation for dozens of puts.
const BUFFER_BYTES: usize = 16 * 1024;

/// Why a revision cannot be compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// It already is.
    #[error("required revision has been compacted")]
    Compacted,
    /// It is not there yet.
    #[error("required revision is a future revision")]
    FutureRevision,
}

/// What is known of a live key without reading its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMeta {
    /// The main revision at which the key last came into being.
    pub create_revision: i64,
    /// The main revision of its newest version.
    pub mod_revision: i64,
    /// How many times it was put since it came into being.
    pub version: i64,
    /// Its lease; 0 = none.
    pub lease: i64,
}

impl KeyMeta {
    pub(crate) fn of(head: &Head) -> Self {
        Self {
            create_revision: head.create,
            mod_revision: head.newest.main,
            version: head.version,
            lease: head.lease,
        }
    }
}

/// Calls that are applied together. Later ones see earlier ones; readers see all of them or none.
pub struct Group<'s> {
    store: &'s mut Store,
    batch: Batch,
    index: Index,
    state: State,
    tally: Tally,
    /// The revisions compacted, ascending, and whether each is to leave a hash.
    compacted: Vec<(i64, bool)>,
    /// The Revs rows written so far, ascending: the engine does not have them yet.
    overlay: Vec<(Revision, Bytes)>,
    /// Scratch for records.
    record: Vec<u8>,
    /// Scratch for the tails of Revs rows.
    tail: Vec<u8>,
}

impl<'s> Group<'s> {
    pub(crate) fn new(store: &'s mut Store) -> Self {
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

    /// The newest main revision, this group's included.
    pub fn revision(&self) -> i64 {
        self.state.revision
    }

    /// The oldest revision that may be read; −1 before any compaction.
    pub fn compact_revision(&self) -> i64 {
        self.state.compact
    }

    /// Visits the keys of a range as they are now, deleted ones too as long as they are remembered, with the bytes of their
    /// newest records.
    pub fn visit(&self, range: &KeyRange, visit: &mut dyn FnMut(u32) -> ControlFlow<()>) {
        self.index.visit(range, &[], &mut |_, record| visit(Head::of(record).size));
    }

    /// Begins a transaction: all it writes has one main revision.
    pub fn txn(&mut self) -> Txn<'_, 's> {
        let begin = self.state.revision;
        Txn { group: self, begin, subs: 0 }
    }

    /// Makes everything before the revision unreadable, at once. [`Store::compact_step`] removes it in time.
    pub fn compact(&mut self, revision: i64) -> Result<(), CompactError> {
        self.compact_to(revision, true)
    }

    /// As [`Group::compact`], where an earlier process may have begun it, or more: it leaves no hash for
    /// [`View::hash_kv`], as etcd's hashes do not outlive the process.
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

    /// The batch, for rows of others; their keys in Meta do not begin with [`crate::META_PREFIX`].
    pub fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// Writes the batch and publishes what readers see from now on.
    pub fn commit(self) -> Result<Arc<View>, Fault> {
        let Self { store, batch, index, state, tally, compacted, overlay, .. } = self;
        store.tally = tally;
        let view = store.publish(batch, index, state)?;
        store.tap.push(overlay);
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

    /// Deletes a live key.
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

/// Whether anything may be known of the key any more: a tombstone before the compaction is forgotten at once, whether
/// or not compaction has passed it, so that rows do not depend on how far that is.
fn is_known(head: &Head, compact: i64) -> bool {
    !head.dead || head.newest.main >= compact
}

fn size_of_row(length: usize) -> u32 {
    u32::try_from(length).expect("a value is bounded by the request size, far below 4 GiB")
}

/// One transaction. Its writes share the main revision after the one it began at.
pub struct Txn<'g, 's> {
    group: &'g mut Group<'s>,
    begin: i64,
    /// Writes so far: the next one's sub-revision.
    subs: i64,
}

impl Txn<'_, '_> {
    /// What a header says now: the revision it began at, one more once it has written.
    pub fn revision(&self) -> i64 {
        self.begin + i64::from(self.subs > 0)
    }

    /// Answers a query; sees this transaction's writes.
    pub fn range(&self, query: &Query) -> Result<Answer, ReadError> {
        self.group.reader(self.revision(), None).range(query)
    }

    /// The same, or ends as [`ReadError::GivenUp`] where it costs more than it may.
    pub fn range_within(&self, query: &Query, effort: &Effort<'_>) -> Result<Answer, ReadError> {
        self.group.reader(self.revision(), Some(effort)).range(query)
    }

    /// The key space at this point, with this transaction's writes up to here. It is read once the group is committed: the
    /// engine does not have them before.
    pub fn view(&self) -> View {
        let Group { store, state, index, tally, .. } = &*self.group;
        View {
            state: *state,
            index: index.clone(),
            engine: Arc::clone(&store.engine),
            epoch: Arc::clone(&store.epoch),
            hashes: store.compactions.hashes(),
            tally: *tally,
            options: store.options,
            replaced_from: if self.subs > 0 { self.revision() } else { i64::MAX },
        }
    }

    /// What is known of a live key without reading its value.
    pub fn meta(&self, key: &[u8]) -> Option<KeyMeta> {
        let record = self.group.index.get(key).filter(|record| record::is_live(record))?;
        Some(KeyMeta::of(&Head::of(record)))
    }

    /// Visits what is known of the live keys of a range, in order, without reading values.
    pub fn metas(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], KeyMeta) -> ControlFlow<()>) {
        self.group.index.visit(range, &[], &mut |key, record| {
            if !record::is_live(record) {
                return ControlFlow::Continue(());
            }
            visit(key, KeyMeta::of(&Head::of(record)))
        });
    }

    /// Puts a key; returns what was there. Reads nothing from the engine.
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

    /// Deletes the live keys of a range, in key order; returns them. Reads nothing from the engine.
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

    /// Ends the transaction; returns the revision its header says. Dropping it is the same.
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
