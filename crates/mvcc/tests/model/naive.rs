//! The key space as plainly as possible: a list of everything that happened.

use bytes::Bytes;
use mvcc::{Answer, HashKv, KeyMeta, KeyValue, Order, Query, SortBy};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::{KeyRange, Revision};

/// One change; `None` = the key was deleted.
type Change = (Revision, Bytes, Option<KeyValue>);

#[derive(Clone)]
pub(crate) struct Naive {
    pub(crate) revision: i64,
    pub(crate) compact: i64,
    changes: Vec<Change>,
    /// What etcd's backend would hold, compacted at once.
    rows: BTreeMap<Revision, (Bytes, Option<KeyValue>)>,
    /// Hashes of compactions that the store has still to do, and of its newest finished ones.
    pub(crate) queued: VecDeque<HashKv>,
    pub(crate) stored: VecDeque<HashKv>,
}

impl Default for Naive {
    fn default() -> Self {
        Self {
            revision: 1,
            compact: -1,
            changes: Vec::new(),
            rows: BTreeMap::new(),
            queued: VecDeque::new(),
            stored: VecDeque::new(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Compacted,
    Future,
}

impl Naive {
    pub(crate) fn at(&self, revision: i64) -> BTreeMap<Bytes, KeyValue> {
        let mut state = BTreeMap::new();
        for (at, key, kv) in self.changes.iter().filter(|(at, ..)| at.main <= revision) {
            let _ = at;
            match kv {
                Some(kv) => state.insert(key.clone(), kv.clone()),
                None => state.remove(key),
            };
        }
        state
    }

    pub(crate) fn meta(&self, key: &[u8]) -> Option<KeyMeta> {
        self.at(i64::MAX).get(key).map(|kv| KeyMeta {
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        })
    }

    pub(crate) fn put(&mut self, at: Revision, key: Bytes, value: Bytes, lease: i64) -> Option<KeyMeta> {
        let before = self.meta(&key);
        let kv = KeyValue {
            key: key.clone(),
            value,
            create_revision: before.map_or(at.main, |meta| meta.create_revision),
            mod_revision: at.main,
            version: before.map_or(1, |meta| meta.version + 1),
            lease,
        };
        self.record(at, key, Some(kv));
        before
    }

    pub(crate) fn delete(&mut self, main: i64, sub: &mut i64, range: &KeyRange) -> Vec<(Bytes, KeyMeta)> {
        let keys: Vec<Bytes> = self.at(i64::MAX).into_keys().filter(|key| range.contains(key)).collect();
        let mut deleted = Vec::new();
        for key in keys {
            deleted.push((key.clone(), self.meta(&key).expect("listed above")));
            self.record(Revision::new(main, *sub), key, None);
            *sub += 1;
        }
        deleted
    }

    fn record(&mut self, at: Revision, key: Bytes, kv: Option<KeyValue>) {
        self.changes.push((at, key.clone(), kv.clone()));
        self.rows.insert(at, (key, kv));
        self.revision = at.main;
    }

    pub(crate) fn compact(&mut self, revision: i64) {
        let newest = self.newest(revision);
        let mut keep: BTreeSet<Revision> = self.rows.keys().copied().collect();
        keep.retain(|at| {
            let live = self.rows[at].1.is_some();
            (newest.contains(at) && live) || (!live && at.main == revision)
        });
        let hash = self.hash(self.compact, revision, &keep);
        self.queued.push_back(HashKv { hash, compact_revision: self.compact, hash_revision: revision });
        self.compact = revision;
        self.rows.retain(|at, _| at.main > revision || keep.contains(at));
    }

    /// The store has finished its compactions up to a revision.
    pub(crate) fn compacted(&mut self, finished: i64) {
        while let Some(hash) = self.queued.pop_front_if(|hash| hash.hash_revision <= finished) {
            self.stored.push_back(hash);
            if self.stored.len() > 10 {
                self.stored.pop_front();
            }
        }
    }

    /// The store was reopened: its state in memory is gone.
    pub(crate) fn reopened(&mut self) {
        self.queued.clear();
        self.stored.clear();
    }

    /// The newest row of each key at or before a revision.
    fn newest(&self, revision: i64) -> BTreeSet<Revision> {
        let mut newest: BTreeMap<&Bytes, Revision> = BTreeMap::new();
        for (at, (key, _)) in self.rows.range(..Revision::new(revision + 1, 0)) {
            newest.insert(key, *at);
        }
        newest.into_values().collect()
    }

    /// `HashKV` by the rules in `hash.rs`. A key deleted and put again at this very revision is not alive then
    /// (etcd's `keyIndex.keep` stops at the first generation that ends at or after it).
    pub(crate) fn hash_kv(&self, revision: i64) -> HashKv {
        if let Some(stored) = self.stored.iter().find(|hash| hash.hash_revision == revision) {
            return *stored;
        }
        let now = self.rows.range(Revision::new(revision, 0)..Revision::new(revision + 1, 0));
        let deleted: BTreeSet<&Bytes> =
            now.filter(|(_, (_, kv))| kv.is_none()).map(|(_, (key, _))| key).collect();
        let mut keep = self.newest(revision);
        keep.retain(|at| {
            let (key, kv) = &self.rows[at];
            kv.is_some() && !deleted.contains(key)
        });
        let hash = self.hash(self.compact, revision, &keep);
        HashKv { hash, compact_revision: self.compact, hash_revision: revision }
    }

    /// etcd's `kvHasher`: the checksum of the rows to keep.
    fn hash(&self, compact: i64, revision: i64, keep: &BTreeSet<Revision>) -> u32 {
        let mut bytes = b"key".to_vec();
        for (at, (key, kv)) in &self.rows {
            let skipped = at.main > revision
                || (at.main <= compact && !keep.is_empty() && !keep.contains(at))
                || (at.main == compact && kv.is_none());
            if skipped {
                continue;
            }
            bytes.extend(at.encode());
            if kv.is_none() {
                bytes.push(b't');
            }
            let tombstone = KeyValue { key: key.clone(), ..KeyValue::default() };
            bytes.extend(kv.as_ref().unwrap_or(&tombstone).encode());
        }
        crc32c::crc32c(&bytes)
    }

    pub(crate) fn bytes(&self) -> i64 {
        let row = |(key, kv): &(Bytes, Option<KeyValue>)| match kv {
            Some(kv) => 17 + 16 + kv.encoded_len(),
            None => 18 + 16 + KeyValue { key: key.clone(), ..KeyValue::default() }.encoded_len(),
        };
        20 * 1024 + self.rows.values().map(row).sum::<usize>() as i64
    }

    /// The changes between two main revisions, inclusive: revision, whether a put, key.
    pub(crate) fn events(&self, from: i64, to: i64) -> Vec<(Revision, bool, Bytes)> {
        let between = self.changes.iter().filter(|(at, ..)| (from..=to).contains(&at.main));
        between.map(|(at, key, kv)| (*at, kv.is_some(), key.clone())).collect()
    }

    pub(crate) fn range(&self, query: &Query) -> Result<Answer, Refused> {
        let revision = if query.revision <= 0 { self.revision } else { query.revision };
        if revision > self.revision {
            return Err(Refused::Future);
        }
        if revision < self.compact {
            return Err(Refused::Compacted);
        }
        let mut kvs: Vec<KeyValue> =
            self.at(revision).into_values().filter(|kv| query.range.contains(&kv.key)).collect();
        let count = kvs.len() as i64;
        if query.count_only {
            return Ok(Answer { count, ..Answer::default() });
        }
        let holds = |bound: i64, ok: bool| bound == 0 || ok;
        let limit = usize::try_from(query.limit).unwrap_or(0);
        let filters = [
            query.min_mod_revision,
            query.max_mod_revision,
            query.min_create_revision,
            query.max_create_revision,
        ];
        if query.limit_first && query.limit > 0 && filters == [0; 4] {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| {
            holds(query.min_mod_revision, kv.mod_revision >= query.min_mod_revision)
                && holds(query.max_mod_revision, kv.mod_revision <= query.max_mod_revision)
                && holds(query.min_create_revision, kv.create_revision >= query.min_create_revision)
                && holds(query.max_create_revision, kv.create_revision <= query.max_create_revision)
        });
        if let Some((by, order)) = query.sort {
            kvs.sort_by(|a, b| {
                let (a, b) = if order == Order::Ascend { (a, b) } else { (b, a) };
                match by {
                    SortBy::Key => a.key.cmp(&b.key),
                    SortBy::Version => a.version.cmp(&b.version),
                    SortBy::Create => a.create_revision.cmp(&b.create_revision),
                    SortBy::Mod => a.mod_revision.cmp(&b.mod_revision),
                    SortBy::Value => a.value.cmp(&b.value),
                }
            });
        }
        let more = query.limit > 0 && kvs.len() as i64 > query.limit;
        if more {
            kvs.truncate(limit);
        }
        if query.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if !matches!(query.sort, Some((SortBy::Value, _))) {
                    kv.lease = 0;
                }
            }
        }
        Ok(Answer { kvs, count, more })
    }
}
