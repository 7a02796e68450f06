//! The store's self-check: walks every row and reports each broken invariant of the crate.

use crate::keyvalue::KeyValue;
use crate::record::{self, Record};
use crate::row::{self, Counters, DEAD_END, DEAD_PREFIX, Tail, Version, broken, logical_len};
use crate::scan::try_scan;
use crate::store::Store;
use bytes::Bytes;
use engine::{Family, Fault};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use types::{KeyRange, Revision};

impl Store {
    /// Every broken invariant, in words; empty = none. Reads every row and holds every revision in memory: for tests.
    pub fn check(&self) -> Result<Vec<String>, Fault> {
        let mut check = Check { store: self, report: Vec::new() };
        self.index.check(&mut check.report);
        check.latest()?;
        check.dead()?;
        check.history()?;
        check.counters();
        Ok(check.report)
    }
}

struct Check<'s> {
    store: &'s Store,
    report: Vec<String>,
}

struct Row {
    key: Bytes,
    tombstone: bool,
    version: i64,
    size: usize,
}

/// A row by which only the revision was raised.
fn is_raise(kv: &KeyValue) -> bool {
    *kv == KeyValue::default()
}

impl Check<'_> {
    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.report.push(what());
        }
    }

    fn latest(&mut self) -> Result<(), Fault> {
        let (engine, mut rows) = (&*self.store.engine, 0);
        try_scan(engine, Family::Latest, &[], None, &mut |escaped, row| {
            let mut key = Vec::new();
            row::unescape(escaped, &mut key).ok_or_else(|| broken("Latest", escaped))?;
            let (kv, record) = row::split_latest(row).ok_or_else(|| broken("Latest", escaped))?;
            let kv =
                KeyValue::decode(&Bytes::copy_from_slice(kv)).ok_or_else(|| broken("Latest", escaped))?;
            let name = key.escape_ascii();
            self.require(self.store.index.get(&key) == Some(record), || {
                format!("latest {name}: not as indexed")
            });
            let head = Record::parse(record).ok_or_else(|| broken("Latest", escaped))?.head;
            let same = kv.key == key
                && (is_raise(&kv)
                    || (kv.create_revision, kv.mod_revision) == (head.create, head.newest.main))
                && (kv.version, kv.lease) == (head.version, head.lease)
                && kv.encoded_len() == head.size as usize;
            self.require(same && !head.dead, || {
                format!("latest {name}: {kv:?} but the record says {head:?}")
            });
            rows += 1;
            Ok(())
        })?;
        let live = self.store.index.count(&KeyRange::all());
        self.require(rows == live, || format!("{rows} rows of Latest, {live} live keys"));
        Ok(())
    }

    fn dead(&mut self) -> Result<(), Fault> {
        let (engine, mut rows) = (&*self.store.engine, 0);
        try_scan(engine, Family::Meta, DEAD_PREFIX, Some(DEAD_END), &mut |row_key, record| {
            let mut key = Vec::new();
            let escaped = row_key.strip_prefix(DEAD_PREFIX);
            escaped.and_then(|e| row::unescape(e, &mut key)).ok_or_else(|| broken("Meta", row_key))?;
            let same = self.store.index.get(&key) == Some(record) && !record::is_live(record);
            self.require(same, || format!("dead {}: not as indexed", key.escape_ascii()));
            rows += 1;
            Ok(())
        })?;
        let dead = self.store.index.len() - self.store.index.count(&KeyRange::all());
        self.require(rows == dead, || format!("{rows} rows of dead keys, {dead} dead keys"));
        Ok(())
    }

    fn history(&mut self) -> Result<(), Fault> {
        let mut rows: BTreeMap<Revision, Row> = BTreeMap::new();
        let mut newest: HashMap<Bytes, Revision> = HashMap::new();
        let (engine, mut bytes) = (&*self.store.engine, 0);
        try_scan(engine, Family::Revs, &[], None, &mut |row_key, value| {
            let at = Revision::decode(row_key).ok_or_else(|| broken("Revs", row_key))?;
            let Version { kv: encoded, tail } = Version::parse(at, &Bytes::copy_from_slice(value))?;
            let kv = KeyValue::decode(&encoded).ok_or_else(|| broken("Revs", row_key))?;
            bytes += logical_len(encoded.len(), tail.tombstone);
            self.contents(at, &tail, &kv);
            let before = newest.insert(kv.key.clone(), at);
            self.pointers(at, &tail, &kv, before.map(|before| (before, &rows[&before])));
            self.jump(at, &tail, &kv, &rows);
            let row =
                Row { key: kv.key, tombstone: tail.tombstone, version: kv.version, size: encoded.len() };
            rows.insert(at, row);
            Ok(())
        })?;
        let counted = self.store.state.bytes;
        self.require(bytes == counted, || format!("the history holds {bytes} bytes, {counted} counted"));
        self.keys(&rows, &newest);
        Ok(())
    }

    fn contents(&mut self, at: Revision, tail: &Tail, kv: &KeyValue) {
        let main = at.main;
        let revision = self.store.state.revision;
        self.require(main <= revision, || format!("a row at {at:?}, after the revision {revision}"));
        let right = if tail.tombstone {
            *kv == KeyValue { key: kv.key.clone(), ..KeyValue::default() }
        } else {
            is_raise(kv)
                || kv.mod_revision == main
                    && tail.create == (kv.version == 1)
                    && tail.create == (kv.create_revision == main)
                || (kv.mod_revision == main && kv.create_revision == main && kv.version > 1 && at.sub > 0)
        };
        self.require(right, || format!("the row at {at:?} says {kv:?} and {tail:?}"));
        let gone = tail.tombstone && self.passed(at, false);
        self.require(!gone, || format!("the tombstone at {at:?} outlived compaction"));
    }

    /// Whether compaction has processed this row; `inclusive`: also if the row is at the compaction's revision.
    fn passed(&self, at: Revision, inclusive: bool) -> bool {
        let Counters { finished, target, cursor, .. } = self.store.state;
        let last = i64::from(inclusive);
        at.main < finished + last || (target > finished && at < cursor && at.main < target + last)
    }

    fn pointers(&mut self, at: Revision, tail: &Tail, kv: &KeyValue, before: Option<(Revision, &Row)>) {
        match (tail.previous, before) {
            (None, None) => {
                self.require(tail.create, || format!("{at:?} has no predecessor but is no creation"));
            }
            // A creation has no pointer to a tombstone before the compaction, although that may still be stored.
            (None, Some((_, before))) => self.require(tail.create && before.tombstone, || {
                format!("{at:?} does not point to its predecessor")
            }),
            (Some(previous), Some((revision, row))) if previous.revision == revision => {
                let follows = previous.size as usize == row.size
                    && tail.create == row.tombstone
                    && (tail.tombstone || tail.create || is_raise(kv) || kv.version == row.version + 1);
                self.require(follows, || format!("{at:?} does not follow {revision:?}"));
                let gone = !row.tombstone && self.passed(at, true);
                self.require(!gone, || format!("{revision:?}, superseded at {at:?}, outlived compaction"));
            }
            (Some(previous), _) => {
                let before = previous.revision;
                let gone = if tail.create { self.passed(before, false) } else { self.passed(at, true) };
                self.require(gone && before < at, || {
                    format!("{at:?} points to {before:?}, which is missing")
                });
            }
        }
    }

    fn jump(&mut self, at: Revision, tail: &Tail, kv: &KeyValue, rows: &BTreeMap<Revision, Row>) {
        let Some(jump) = tail.jump else { return };
        let back = tail.previous.is_some_and(|previous| jump < previous.revision);
        self.require(back, || format!("{at:?} jumps to {jump:?}, not beyond its predecessor"));
        let known =
            jump.main <= self.store.state.compact || rows.get(&jump).is_some_and(|row| row.key == kv.key);
        self.require(known, || format!("{at:?} jumps to {jump:?}, which is missing or another key's"));
    }

    fn keys(&mut self, rows: &BTreeMap<Revision, Row>, newest: &HashMap<Bytes, Revision>) {
        let (store, mut indexed) = (self.store, 0);
        store.index.visit(&KeyRange::all(), &[], &mut |key, bytes| {
            indexed += 1;
            let record = Record::of(bytes);
            let (head, name) = (record.head, key.escape_ascii());
            let stored = newest.get(key).copied();
            self.require(stored == Some(head.newest), || format!("{name}: {head:?} but Revs has {stored:?}"));
            if let Some(row) = rows.get(&head.newest) {
                let same = row.tombstone == head.dead
                    && row.size == head.size as usize
                    && (head.dead || row.version == head.version);
                self.require(same, || format!("{name}: {head:?} is not as its row in Revs"));
            }
            for digit in &record.digits {
                let at = digit.revision;
                let known = at.main <= store.state.compact || rows.get(&at).is_some_and(|row| row.key == key);
                self.require(known && at < head.newest, || {
                    format!("{name}: the digit {at:?} is no version of it")
                });
            }
            ControlFlow::Continue(())
        });
        self.require(indexed == newest.len(), || format!("{indexed} keys indexed, {} in Revs", newest.len()));
    }

    fn counters(&mut self) {
        let Counters { revision, compact, finished, target, .. } = self.store.state;
        let ordered = finished <= target && target <= compact && compact <= revision && revision >= 1;
        self.require(ordered, || format!("counters out of order: {:?}", self.store.state));
    }
}
