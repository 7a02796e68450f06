//! Reading: one index, one engine, one revision window; the same for Views and inside a group.

use crate::KeyValue;
use crate::index::Index;
use crate::keyvalue::Fields;
use crate::query::{Answer, Order, Query, ReadError, SortBy};
use crate::record::{self, Digit, Head, Record};
use crate::row::{self, Version, broken, corrupt};
use crate::view::Epoch;
use bytes::{Bytes, BytesMut};
use engine::{Engine, Family, Fault};
use std::ops::ControlFlow;
use types::{KeyRange, Revision};

/// Rows fetched with exact gets rather than a scan: a seek costs as much as eight gets.
const GETS_MAX: usize = 8;
/// Keys taken from the index at a time, so that a long list holds no second copy of all its keys.
const PAGE_KEYS: usize = 1024;
/// Values of a list share buffers of this size, in bytes: one allocation for hundreds of rows.
const BUFFER_BYTES: usize = 64 * 1024;

/// What a read needs. `overlay` holds the Revs rows of a group that is not written yet, ascending.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) index: &'a Index,
    pub(crate) engine: &'a dyn Engine,
    pub(crate) overlay: &'a [(Revision, Bytes)],
    pub(crate) current: i64,
    pub(crate) compact: i64,
    pub(crate) epoch: &'a Epoch,
}

/// A version that a query found, before its value is read.
struct Found {
    key: Bytes,
    at: Revision,
    create: i64,
    version: i64,
    /// The version itself where finding it took reading it.
    kv: Option<KeyValue>,
}

impl Reader<'_> {
    /// The revision a query reads at, if it may.
    pub(crate) fn revision_of(&self, asked: i64) -> Result<i64, ReadError> {
        match asked {
            _ if asked > self.current => Err(ReadError::FutureRevision),
            ..=0 => Ok(self.current),
            _ if asked < self.compact => Err(ReadError::Compacted),
            _ => Ok(asked),
        }
    }

    pub(crate) fn range(&self, query: &Query) -> Result<Answer, ReadError> {
        let revision = self.revision_of(query.revision)?;
        if query.count_only {
            return Ok(Answer { count: self.count(&query.range, revision)?, ..Answer::default() });
        }
        if revision == self.current { self.range_now(query) } else { self.range_then(query, revision) }
    }

    pub(crate) fn count(&self, range: &KeyRange, revision: i64) -> Result<i64, ReadError> {
        if revision == self.current {
            return Ok(self.index.count(range).cast_signed());
        }
        let mut count = 0;
        self.try_visit(range, |key, record| {
            count += i64::from(self.lives_at(key, record, revision)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(count)
    }

    fn range_now(&self, query: &Query) -> Result<Answer, ReadError> {
        if query.range.is_point() {
            return self.point_now(query);
        }
        let count = self.index.count(&query.range);
        let by_value = matches!(query.sort, Some((SortBy::Value, _)));
        let fast_keys = query.keys_only && !by_value;
        let mut answer = Answer { count: count.cast_signed(), ..Answer::default() };
        if query.is_plain() {
            let limit = query.limit().unwrap_or(usize::MAX);
            answer.more = count > limit as u64;
            let wanted = usize::try_from(count).unwrap_or(usize::MAX).min(limit);
            answer.kvs = self.plain(&query.range, wanted, fast_keys)?;
        } else {
            let mut found = self.live(&query.range, query.enough());
            found.retain(|found| query.keeps(found.create, found.at.main));
            (answer.kvs, answer.more) = self.settle(query, found)?;
        }
        strip_values(query, &mut answer.kvs);
        Ok(answer)
    }

    fn point_now(&self, query: &Query) -> Result<Answer, ReadError> {
        let key = &query.range.start;
        let live = self.index.get(key).filter(|record| record::is_live(record));
        let Some(head) = live.map(Head::of) else { return Ok(Answer::default()) };
        let mut answer = Answer { count: 1, ..Answer::default() };
        if query.keeps(head.create, head.newest.main) {
            let by_value = matches!(query.sort, Some((SortBy::Value, _)));
            answer.kvs.push(if query.keys_only && !by_value {
                key_only(key.clone(), &head)
            } else {
                self.value(key, head.newest)?
            });
            strip_values(query, &mut answer.kvs);
        }
        Ok(answer)
    }

    /// The first `wanted` live keys of the range, in order.
    fn plain(&self, range: &KeyRange, wanted: usize, fast_keys: bool) -> Result<Vec<KeyValue>, ReadError> {
        let mut kvs = Vec::with_capacity(wanted);
        let mut from = Vec::new();
        while kvs.len() < wanted {
            let page_keys = PAGE_KEYS.min(wanted - kvs.len());
            let mut page: Vec<(Bytes, Head)> = Vec::with_capacity(page_keys);
            self.index.visit(range, &from, &mut |key, record| {
                if record::is_live(record) {
                    page.push((Bytes::copy_from_slice(key), Head::of(record)));
                }
                if page.len() == page_keys { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            let Some((last, _)) = page.last() else { break };
            from.clear();
            from.extend_from_slice(last);
            from.push(0);
            if fast_keys {
                kvs.extend(page.into_iter().map(|(key, head)| key_only(key, &head)));
            } else if page.len() <= GETS_MAX {
                for (key, head) in &page {
                    kvs.push(self.value(key, head.newest)?);
                }
            } else {
                self.scan_page(&page, &mut kvs)?;
            }
        }
        Ok(kvs)
    }

    /// Reads the values of neighbouring keys in one pass over Latest. Rows that are not the View's are read from Revs.
    fn scan_page(&self, page: &[(Bytes, Head)], kvs: &mut Vec<KeyValue>) -> Result<(), ReadError> {
        let escaped = |key: &[u8]| {
            let mut out = Vec::with_capacity(row::escaped_len(key));
            row::escape(key, &mut out);
            out
        };
        let (first, last) = (&page[0].0, &page[page.len() - 1].0);
        let mut end = escaped(last);
        end.push(0);
        let (mut wanted, mut at) = (escaped(first), 0);
        let mut buffer = BytesMut::new();
        let mut failed = None;
        let mut step =
            |key: &[u8], row: &[u8], kvs: &mut Vec<KeyValue>| -> Result<ControlFlow<()>, ReadError> {
                while at < page.len() && wanted[..] <= *key {
                    let (user_key, head) = &page[at];
                    let matching = wanted[..] == *key;
                    let current = if matching { current_in(row, head.newest, &mut buffer)? } else { None };
                    kvs.push(match current {
                        Some(kv) => kv,
                        None => self.value_of_row(user_key, head.newest)?,
                    });
                    at += 1;
                    if let Some((next, _)) = page.get(at) {
                        wanted.clear();
                        row::escape(next, &mut wanted);
                    }
                    if matching {
                        break;
                    }
                }
                Ok(if at == page.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            };
        self.engine.scan(Family::Latest, &escaped(first), Some(&end), &mut |key, row| {
            step(key, row, kvs).unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            })
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        for (key, head) in &page[at..] {
            kvs.push(self.value_of_row(key, head.newest)?);
        }
        Ok(())
    }

    /// The first live keys of the range, at most `enough`.
    fn live(&self, range: &KeyRange, enough: usize) -> Vec<Found> {
        let mut found = Vec::new();
        self.index.visit(range, &[], &mut |key, record| {
            if record::is_live(record) {
                let head = Head::of(record);
                let key = Bytes::copy_from_slice(key);
                found.push(Found {
                    key,
                    at: head.newest,
                    create: head.create,
                    version: head.version,
                    kv: None,
                });
            }
            if found.len() >= enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found
    }

    fn range_then(&self, query: &Query, revision: i64) -> Result<Answer, ReadError> {
        let enough = query.enough();
        let (mut found, mut count) = (Vec::new(), 0);
        self.try_visit(&query.range, |key, record| {
            if found.len() >= enough {
                count += i64::from(self.lives_at(key, record, revision)?);
            } else if let Some(version) = self.found_at(key, record, revision)? {
                count += 1;
                if query.keeps(version.create, version.at.main) {
                    found.push(version);
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let (kvs, more) = self.settle(query, found)?;
        let mut answer = Answer { kvs, count, more };
        strip_values(query, &mut answer.kvs);
        Ok(answer)
    }

    /// Sorts, cuts and reads the values.
    fn settle(&self, query: &Query, mut found: Vec<Found>) -> Result<(Vec<KeyValue>, bool), ReadError> {
        let (by, order) = query.sort.unwrap_or((SortBy::Key, Order::Ascend));
        let fast_keys = query.keys_only && by != SortBy::Value;
        if by == SortBy::Value {
            for found in &mut found {
                if found.kv.is_none() {
                    found.kv = Some(self.value(&found.key, found.at)?);
                }
            }
        }
        sort(&mut found, by, order);
        let limit = query.limit().unwrap_or(usize::MAX);
        let more = found.len() > limit;
        found.truncate(limit);
        let read = |found: Found| match (found.kv, fast_keys) {
            (_, true) => Ok(KeyValue {
                key: found.key,
                create_revision: found.create,
                mod_revision: found.at.main,
                version: found.version,
                ..KeyValue::default()
            }),
            (Some(kv), false) => Ok(kv),
            (None, false) => self.value(&found.key, found.at),
        };
        Ok((found.into_iter().map(read).collect::<Result<_, ReadError>>()?, more))
    }

    fn try_visit(
        &self,
        range: &KeyRange,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, ReadError>,
    ) -> Result<(), ReadError> {
        let mut failed = None;
        self.index.visit(range, &[], &mut |key, record| {
            visit(key, record).unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            })
        });
        failed.map_or(Ok(()), Err)
    }

    /// The newest version of a key, wherever it is.
    fn value(&self, key: &Bytes, newest: Revision) -> Result<KeyValue, ReadError> {
        if self.overlay.first().is_none_or(|(first, _)| newest < *first) {
            let mut escaped = Vec::with_capacity(row::escaped_len(key));
            row::escape(key, &mut escaped);
            if let Some(row) = self.engine.get(Family::Latest, &escaped)? {
                let (kv, _) = row::split_latest(&row).ok_or_else(|| broken("Latest", key))?;
                let kv = KeyValue::decode(&row.slice(..kv.len())).ok_or_else(|| broken("Latest", key))?;
                if kv.mod_revision == newest.main {
                    return Ok(kv);
                }
            }
        }
        self.value_of_row(key, newest)
    }

    fn value_of_row(&self, key: &[u8], at: Revision) -> Result<KeyValue, ReadError> {
        let kv = self.version(at)?.key_value()?;
        if kv.key != key || kv.mod_revision != at.main {
            return Err(corrupt(format!("the version at {at:?} is not of key {}", key.escape_ascii())).into());
        }
        Ok(kv)
    }

    /// The Revs row at exactly this revision, which must be there.
    pub(crate) fn version(&self, at: Revision) -> Result<Version, ReadError> {
        if let Ok(found) = self.overlay.binary_search_by_key(&at, |(revision, _)| *revision) {
            return Ok(Version::parse(at, &self.overlay[found].1)?);
        }
        match self.engine.get(Family::Revs, &at.encode())? {
            Some(row) => Ok(Version::parse(at, &row)?),
            // Only an expired View can have lost it: compaction waits for all others.
            None if self.epoch.is_expired() => Err(ReadError::Compacted),
            None => Err(corrupt(format!("the version at {at:?} is missing")).into()),
        }
    }

    /// Whether the key lives at a revision that is not compacted; reads only where an earlier life is in question.
    fn lives_at(&self, key: &[u8], record: &[u8], revision: i64) -> Result<bool, ReadError> {
        let head = Head::of(record);
        if head.newest.main <= revision {
            return Ok(!head.dead);
        }
        if head.create <= revision || !head.earlier {
            return Ok(head.create <= revision);
        }
        Ok(self.found_at(key, record, revision)?.is_some())
    }

    fn found_at(&self, key: &[u8], record: &[u8], revision: i64) -> Result<Option<Found>, ReadError> {
        let head = Head::of(record);
        let key = Bytes::copy_from_slice(key);
        if head.newest.main <= revision {
            let found = Found { key, at: head.newest, create: head.create, version: head.version, kv: None };
            return Ok((!head.dead).then_some(found));
        }
        let Some((at, kv)) = self.before_newest(&head, record, revision)? else { return Ok(None) };
        Ok(Some(Found { key, at, create: kv.create_revision, version: kv.version, kv: Some(kv) }))
    }

    /// Where the version stands that a key had at `revision`, if it lived then.
    pub(crate) fn live_revision(&self, record: &[u8], revision: i64) -> Result<Option<Revision>, ReadError> {
        let head = Head::of(record);
        if head.newest.main <= revision {
            return Ok((!head.dead).then_some(head.newest));
        }
        Ok(self.before_newest(&head, record, revision)?.map(|(at, _)| at))
    }

    fn before_newest(
        &self,
        head: &Head,
        record: &[u8],
        revision: i64,
    ) -> Result<Option<(Revision, KeyValue)>, ReadError> {
        if head.create > revision && !head.earlier {
            return Ok(None);
        }
        self.version_before(&Record::of(record), revision)
    }

    /// The key's version at `revision`, which is before its newest: down the chain, a whole run at a step.
    fn version_before(
        &self,
        record: &Record,
        revision: i64,
    ) -> Result<Option<(Revision, KeyValue)>, ReadError> {
        let newer = |digit: &&Digit| digit.revision.main > revision;
        let mut at =
            record.digits.iter().take_while(newer).last().map_or(record.head.newest, |digit| digit.revision);
        loop {
            let version = self.version(at)?;
            let tail = version.tail;
            at = match (tail.jump, tail.previous) {
                (Some(jump), _) if jump.main > revision => jump,
                (_, None) => return Ok(None),
                (_, Some(previous)) if previous.revision.main > revision => previous.revision,
                // What a creation follows is a tombstone: the key was not there.
                (_, Some(_)) if tail.create => return Ok(None),
                (_, Some(previous)) => {
                    return Ok(Some((previous.revision, self.version(previous.revision)?.key_value()?)));
                }
            };
        }
    }
}

/// The row's `KeyValue`, copied into the shared buffer, if it is of the revision wanted.
fn current_in(row: &[u8], newest: Revision, buffer: &mut BytesMut) -> Result<Option<KeyValue>, Fault> {
    let unreadable = || corrupt(format!("a row of Latest cannot be read: {}", row.escape_ascii()));
    let (kv, _) = row::split_latest(row).ok_or_else(unreadable)?;
    let fields = Fields::parse(kv).ok_or_else(unreadable)?;
    if fields.mod_revision != newest.main {
        return Ok(None);
    }
    if buffer.capacity() < kv.len() {
        *buffer = BytesMut::with_capacity(BUFFER_BYTES.max(kv.len()));
    }
    buffer.extend_from_slice(kv);
    let bytes = buffer.split().freeze();
    Ok(Some(KeyValue {
        key: bytes.slice(fields.key),
        value: bytes.slice(fields.value),
        create_revision: fields.create_revision,
        mod_revision: fields.mod_revision,
        version: fields.version,
        lease: fields.lease,
    }))
}

/// A key as etcd's index answers it: no value, no lease.
fn key_only(key: Bytes, head: &Head) -> KeyValue {
    KeyValue {
        key,
        create_revision: head.create,
        mod_revision: head.newest.main,
        version: head.version,
        ..KeyValue::default()
    }
}

fn strip_values(query: &Query, kvs: &mut [KeyValue]) {
    if query.keys_only {
        for kv in kvs {
            kv.value = Bytes::new();
        }
    }
}

/// Sorts stably, either way; keys come in ascending, so ties keep that order.
fn sort(found: &mut [Found], by: SortBy, order: Order) {
    let compare = |a: &Found, b: &Found| match by {
        SortBy::Key => a.key.cmp(&b.key),
        SortBy::Version => a.version.cmp(&b.version),
        SortBy::Create => a.create.cmp(&b.create),
        SortBy::Mod => a.at.main.cmp(&b.at.main),
        SortBy::Value => value_of(a).cmp(&value_of(b)),
    };
    match order {
        Order::Ascend => found.sort_by(compare),
        Order::Descend => found.sort_by(|a, b| compare(b, a)),
    }
}

fn value_of(found: &Found) -> Option<&Bytes> {
    found.kv.as_ref().map(|kv| &kv.value)
}
