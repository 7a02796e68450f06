//! Rows made of the history as etcd stores it: one walk over bucket `key`, in order.
//!
//! What etcd's own compaction would still remove is left out, so the rows are those of a finished compaction. Chains
//! begin with the first version of each key that is there: its predecessor, if it had one, is before the compacted
//! revision, where nobody looks.

use crate::backend::{BackendRow, Compacted};
use crate::index::Index;
use crate::keyvalue::KeyValue;
use crate::options::Shape;
use crate::record::{Head, Link, Record};
use crate::row::{self, Counters, DEAD_PREFIX, Previous, STATE_KEY, Tail, logical_len};
use bytes::Bytes;
use engine::{Batch, Family};
use types::Revision;

/// The predecessor of a version whose predecessor was compacted: no row is at the revision of an empty store.
const FORGOTTEN: Previous = Previous { revision: Revision::new(1, 0), size: 0 };

/// Why a history is refused. Nobody may use what was written of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the history is damaged at the key {at}: {what}")]
pub struct ImportError {
    /// The row's key in the bucket, escaped.
    pub at: String,
    /// What is wrong with it.
    pub what: &'static str,
}

/// A key space in the making. It holds the index of all keys, as a store does.
#[derive(Debug)]
pub struct Import {
    state: Counters,
    index: Index,
    last: Revision,
    record: Vec<u8>,
}

impl Import {
    /// Begins an empty key space in which this much is compacted.
    pub fn new(compacted: Compacted) -> Self {
        let compact = compacted.scheduled.max(compacted.finished).unwrap_or(-1);
        let mut state = Counters::fresh();
        (state.compact, state.finished, state.target) = (compact, compact, compact);
        (state.cursor, state.revision) = (Revision::new(compact.max(0), 0), compact.max(1));
        let index = Index::build(Shape::default(), |_| Ok::<_, std::convert::Infallible>(()));
        let index = index.unwrap_or_else(|never| match never {});
        Self { state, index, last: Revision::new(0, 0), record: Vec::new() }
    }

    /// Adds a row of the bucket `key`; they ascend. The batch goes into an engine that held no rows of a key space.
    pub fn row(&mut self, key: &[u8], value: &[u8], batch: &mut Batch) -> Result<(), ImportError> {
        self.add(key, value, batch).map_err(|what| ImportError { at: key.escape_ascii().to_string(), what })
    }

    /// Ends the key space, and returns its newest revision.
    pub fn finish(self, batch: &mut Batch) -> i64 {
        // As a store writes it: not before its first change.
        if self.state != Counters::fresh() {
            batch.put(Family::Meta, STATE_KEY, self.state.encode());
        }
        self.state.revision
    }

    fn add(&mut self, key: &[u8], value: &[u8], batch: &mut Batch) -> Result<(), &'static str> {
        let BackendRow { at, tombstone, .. } = BackendRow::parse(key, value)?;
        if at <= self.last {
            return Err("its revision is not above the one before it");
        }
        self.last = at;
        self.state.revision = self.state.revision.max(at.main);
        let bytes = Bytes::copy_from_slice(value);
        let kv = KeyValue::decode(&bytes).ok_or("its value is no KeyValue")?;
        if kv.encode() != bytes {
            return Err("its value is not written as etcd writes a KeyValue");
        }
        let before = self.index.get(&kv.key).map(Record::of);
        // What came before the first row of a key can only have gone with a compaction.
        let may_follow_nothing = at.main <= self.state.compact;
        if tombstone {
            check_tombstone(&kv, before.as_ref(), may_follow_nothing)?;
            self.tombstone(at, &kv, value, before, batch);
            return Ok(());
        }
        if !kv.key.is_empty() {
            check_put(at, &kv, before.as_ref(), may_follow_nothing)?;
        }
        self.put(at, &kv, value, before, batch);
        Ok(())
    }

    fn put(&mut self, at: Revision, kv: &KeyValue, value: &[u8], before: Option<Record>, batch: &mut Batch) {
        let previous = before.as_ref().map(|record| record.head);
        self.supersede(at, previous, batch);
        // The first row that raises the revision has nothing before it, which compaction would remove.
        let create = kv.version == 1 || kv.key.is_empty() && before.is_none();
        let (tail, link) = self.chain(before, create, false);
        let head = Head {
            create: kv.create_revision,
            newest: at,
            version: kv.version,
            lease: kv.lease,
            size: size_of(value),
            dead: false,
            earlier: previous.is_some_and(|head| head.dead || head.earlier),
            rank: link.rank,
        };
        self.index_as(&kv.key, &Record { head, digits: link.digits });
        self.write_version(at, value, &tail, batch);
        let mut latest = Vec::with_capacity(value.len() + self.record.len() + 2);
        latest.extend_from_slice(value);
        row::put_latest_tail(&self.record, &mut latest);
        batch.put(Family::Latest, escaped(&kv.key, &[]), latest);
        if previous.is_some_and(|head| head.dead) {
            batch.delete(Family::Meta, escaped(&kv.key, DEAD_PREFIX));
        }
    }

    fn tombstone(
        &mut self,
        at: Revision,
        kv: &KeyValue,
        value: &[u8],
        before: Option<Record>,
        batch: &mut Batch,
    ) {
        let previous = before.as_ref().map(|record| record.head);
        self.supersede(at, previous, batch);
        if previous.is_some() {
            batch.delete(Family::Latest, escaped(&kv.key, &[]));
        }
        if at.main < self.state.compact {
            self.index.remove(&kv.key);
            return;
        }
        let (tail, link) = self.chain(before, false, true);
        // Nobody asks for the life of which only the end is left.
        let life = previous.unwrap_or(Head { create: at.main, version: 1, ..Head::default() });
        let head = Head { newest: at, lease: 0, size: size_of(value), dead: true, rank: link.rank, ..life };
        self.index_as(&kv.key, &Record { head, digits: link.digits });
        self.write_version(at, value, &tail, batch);
        batch.put(Family::Meta, escaped(&kv.key, DEAD_PREFIX), self.record.clone());
    }

    /// Removes the version before this one, if nobody can read it.
    fn supersede(&mut self, at: Revision, before: Option<Head>, batch: &mut Batch) {
        let Some(before) = before.filter(|head| !head.dead && at.main <= self.state.compact) else { return };
        batch.delete(Family::Revs, before.newest.encode().to_vec());
        self.state.bytes -= logical_len(before.size as usize, false);
    }

    /// Of what a transaction did to a key at the compacted revision, its deletions and the last change are left: what was
    /// between them is forgotten.
    fn chain(&self, before: Option<Record>, create: bool, tombstone: bool) -> (Tail, Link) {
        let before = before.filter(|record| create || !record.head.dead);
        let previous = before.as_ref().map(|record| record.head);
        let link = before.map_or_else(Link::first, |record| Link::after(record, self.state.compact));
        let previous = match previous {
            Some(head) => Some(Previous { revision: head.newest, size: head.size }),
            None => Some(FORGOTTEN).filter(|_| !create),
        };
        (Tail { tombstone, create, previous, jump: link.jump }, link)
    }

    fn index_as(&mut self, key: &[u8], record: &Record) {
        self.index.update(key, &mut self.record, &mut |_, out| record.encode_to(out));
    }

    fn write_version(&mut self, at: Revision, value: &[u8], tail: &Tail, batch: &mut Batch) {
        let mut row = value.to_vec();
        self.state.bytes += logical_len(row.len(), tail.tombstone);
        tail.put(at, &mut row);
        batch.put(Family::Revs, at.encode().to_vec(), row);
    }
}

/// Adds the row with which etcd's restore raises the revision to what it is in `state`; `before`: the record of the row
/// that did so before, if there is one.
pub(crate) fn raise(state: Counters, before: Option<Record>, batch: &mut Batch) -> Counters {
    let at = Revision::new(state.revision, 0);
    let mut import = Import::new(Compacted::default());
    import.state = state;
    import.put(at, &KeyValue::default(), &[], before, batch);
    import.state
}

fn check_tombstone(
    kv: &KeyValue,
    before: Option<&Record>,
    may_follow_nothing: bool,
) -> Result<(), &'static str> {
    if *kv != (KeyValue { key: kv.key.clone(), ..KeyValue::default() }) {
        return Err("a deletion has more than a key");
    }
    match before {
        Some(record) if record.head.dead && !may_follow_nothing => Err("it deletes a deleted key"),
        None if !may_follow_nothing => Err("it deletes a key that does not exist"),
        _ => Ok(()),
    }
}

fn check_put(
    at: Revision,
    kv: &KeyValue,
    before: Option<&Record>,
    may_follow_nothing: bool,
) -> Result<(), &'static str> {
    if kv.mod_revision != at.main || !(2..=at.main).contains(&kv.create_revision) || kv.version < 1 {
        return Err("its numbers do not fit its revision");
    }
    let creates = kv.version == 1 && kv.create_revision == at.main;
    match before.map(|record| record.head) {
        Some(head) if !head.dead => {
            let continues =
                head.version.checked_add(1) == Some(kv.version) && head.create == kv.create_revision;
            if continues { Ok(()) } else { Err("it does not continue the version before it") }
        }
        // At the compacted revision a deletion may be left of what a transaction did to the key before.
        _ if may_follow_nothing && kv.version > 1 => Ok(()),
        _ if creates => Ok(()),
        _ => Err("the versions before it are missing"),
    }
}

fn size_of(value: &[u8]) -> u32 {
    u32::try_from(value.len()).expect("a value in etcd's database has less than 2 GiB")
}

pub(crate) fn escaped(key: &[u8], prefix: &[u8]) -> Vec<u8> {
    let mut out = prefix.to_vec();
    row::escape(key, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Engine as _, MemoryEngine};
    use std::sync::Arc;

    type Row = (Vec<u8>, Vec<u8>);

    fn put(main: i64, create: i64, version: i64, key: &'static str) -> Row {
        let kv = KeyValue {
            key: key.into(),
            value: "v".into(),
            create_revision: create,
            mod_revision: main,
            version,
            lease: 0,
        };
        (Revision::new(main, 0).encode().to_vec(), kv.encode().to_vec())
    }

    fn del(main: i64, key: &'static str) -> Row {
        let kv = KeyValue { key: key.into(), ..KeyValue::default() };
        ([&Revision::new(main, 0).encode()[..], b"t"].concat(), kv.encode().to_vec())
    }

    fn imported(compact: i64, rows: &[Row]) -> Result<crate::Store, ImportError> {
        let (engine, mut batch) = (Arc::new(MemoryEngine::new()), Batch::default());
        let scheduled = Some(compact).filter(|compact| *compact >= 0);
        let mut import = Import::new(Compacted { scheduled, finished: None });
        for (key, value) in rows {
            import.row(key, value, &mut batch)?;
        }
        import.finish(&mut batch);
        engine.write(batch).expect("memory does not fail");
        Ok(crate::Store::open(engine).expect("its own rows"))
    }

    fn check(compact: i64, rows: &[Row]) {
        let mut store = imported(compact, rows).expect("a valid history");
        assert_eq!(store.check().expect("readable"), Vec::<String>::new(), "{compact}");
        let last = store.view().revision();
        let mut group = store.begin();
        group.compact(last).map_or_else(|error| assert_eq!(compact, last, "{error}"), |()| ());
        group.commit().expect("memory does not fail");
        while store.compact_step(3).expect("memory does not fail") {}
        assert_eq!(store.check().expect("readable"), Vec::<String>::new(), "{compact}, compacted");
    }

    #[test]
    fn any_point_of_compaction_gives_a_sound_store() {
        let rows = [
            put(2, 2, 1, "a"),
            put(3, 3, 1, "b"),
            put(4, 2, 2, "a"),
            del(5, "b"),
            put(6, 6, 1, "b"),
            put(7, 2, 3, "a"),
            del(8, "a"),
            put(9, 6, 2, "b"),
        ];
        for compact in [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
            check(compact, &rows);
        }
        // What compactions leave: nothing before the first version that is there.
        check(7, &[put(6, 6, 1, "b"), put(7, 2, 3, "a"), del(8, "a"), put(9, 6, 2, "b")]);
        check(8, &[put(6, 6, 1, "b"), del(8, "a"), put(9, 6, 2, "b")]);
        check(9, &[put(9, 6, 2, "b")]);
    }

    /// As etcd's restore writes it: nobody can ask for it, but `HashKV` and every later database have it.
    #[test]
    fn a_raised_revision_is_a_row_of_its_own() {
        let raised = |main| (Revision::new(main, 0).encode().to_vec(), Vec::new());
        check(1_002, &[put(2, 2, 1, "a"), raised(1_002)]);
        let rows =
            [put(2, 2, 1, "a"), raised(1_002), put(1_003, 2, 2, "a"), raised(2_003), put(2_004, 2, 3, "a")];
        for compact in [1_002, 1_003, 2_003, 2_004] {
            check(compact, &rows);
        }
        // Raised by ourselves, twice: the same rows.
        let store = imported(-1, &[put(2, 2, 1, "a")]).expect("a valid history");
        for by in [1_000, 1_001] {
            let mut batch = Batch::default();
            crate::bump(&*store.engine, &mut batch, by).expect("it is raised");
            store.engine.write(batch).expect("memory does not fail");
        }
        let mut store = crate::Store::open(store.engine.clone()).expect("its own rows");
        while store.compact_step(3).expect("memory does not fail") {}
        assert_eq!(store.check().expect("readable"), Vec::<String>::new());
        let theirs =
            imported(2_003, &[put(2, 2, 1, "a"), raised(1_002), raised(2_003)]).expect("valid").view();
        assert_eq!(store.view().hash_now().expect("readable"), theirs.hash_now().expect("readable"));
        let view = imported(1_002, &rows[..2]).expect("a valid history").view();
        assert_eq!((view.revision(), view.compact_revision()), (1_002, 1_002));
        let mut hash = crc32c::crc32c(crate::hash::BUCKET);
        for (key, value) in &rows[..2] {
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value);
        }
        assert_eq!(view.hash_now().expect("readable").hash, hash, "both are alive at the compacted revision");
    }

    #[test]
    fn a_key_deleted_and_put_again_in_the_compacted_revision_goes_on_from_its_deletion() {
        let (_, again) = put(3, 3, 2, "a");
        let again = (Revision::new(3, 2).encode().to_vec(), again);
        check(3, &[del(3, "a"), again.clone()]);
        check(3, &[del(3, "a"), again.clone(), put(4, 3, 3, "a"), put(5, 5, 1, "b")]);
        let (_, deletion) = del(3, "a");
        let deleted_again = ([&Revision::new(3, 4).encode()[..], b"t"].concat(), deletion);
        check(3, &[del(3, "a"), deleted_again.clone(), put(4, 4, 1, "a"), put(5, 5, 1, "b")]);
        check(3, &[del(3, "a"), again.clone(), deleted_again, put(5, 5, 1, "b")]);
        let later = [del(3, "a"), again];
        let refused = imported(2, &later).expect_err("what came before it was not compacted");
        assert_eq!(refused.what, "it deletes a key that does not exist");
    }

    #[test]
    fn histories_that_cannot_be_are_refused() {
        let what = |compact, rows: &[Row]| imported(compact, rows).expect_err("no history").what;
        assert_eq!(what(-1, &[put(2, 2, 2, "a")]), "the versions before it are missing");
        assert_eq!(what(1, &[put(3, 2, 2, "a")]), "the versions before it are missing");
        assert_eq!(what(-1, &[put(2, 1, 1, "a")]), "its numbers do not fit its revision");
        assert_eq!(what(-1, &[put(2, 3, 1, "a")]), "its numbers do not fit its revision");
        let again = "it does not continue the version before it";
        assert_eq!(what(-1, &[put(2, 2, 1, "a"), put(3, 3, 1, "a")]), again);
        assert_eq!(what(-1, &[put(2, 2, 1, "a"), put(3, 2, 3, "a")]), again);
        assert_eq!(what(-1, &[del(2, "a")]), "it deletes a key that does not exist");
        let twice = [put(2, 2, 1, "a"), del(3, "a"), del(4, "a")];
        assert_eq!(what(-1, &twice), "it deletes a deleted key");
        let same = [put(2, 2, 1, "a"), put(2, 2, 1, "b")];
        assert_eq!(what(-1, &same), "its revision is not above the one before it");
        assert_eq!(what(-1, &[(b"short".to_vec(), Vec::new())]), "it is no revision");
        let mut longer = put(2, 2, 1, "a");
        longer.1.extend([0x30, 0]);
        assert_eq!(what(-1, &[longer]), "its value is not written as etcd writes a KeyValue");
        let mut full = del(3, "a");
        full.1 = put(3, 2, 2, "a").1;
        assert_eq!(what(-1, &[put(2, 2, 1, "a"), full]), "a deletion has more than a key");
    }
}
