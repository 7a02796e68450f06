//! Reads: one index, one engine, one revision; the same code for views and inside a group. With an [`Effort`], every
//! step counts its cost beforehand: a key visited or a row scanned is one row, a get [`GET_ROWS`].

use crate::KeyValue;
use crate::effort::{Effort, GET_ROWS};
use crate::epoch::Epoch;
use crate::index::Index;
use crate::keyvalue::Fields;
use crate::options::Options;
use crate::query::{Answer, Hidden, Query, ReadError};
use crate::record::{self, Digit, Head, KeyMeta, Record};
use crate::row::{self, Version, broken, corrupt};
use crate::scan::scan_while;
use crate::top::{Found, Top};
use bytes::{Bytes, BytesMut};
use engine::{Engine, Family, Fault};
use std::ops::ControlFlow;
use types::{KeyRange, Revision};

/// Up to this many rows are fetched with gets rather than a scan: one seek costs as much as eight gets.
const GETS_MAX: usize = 8;
/// Values of a list share buffers of this size, bytes: one allocation for hundreds of rows.
const BUFFER_BYTES: usize = 64 * 1024;
/// Upper bound for a key without its value, besides the key itself, bytes: a length, and three numbers below 2^49.
const KEY_ONLY_BYTES: usize = 28;

/// Everything a read needs. `overlay` holds the Revs rows of an uncommitted group, ascending.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) index: &'a Index,
    pub(crate) engine: &'a dyn Engine,
    pub(crate) overlay: &'a [(Revision, Bytes)],
    pub(crate) current: i64,
    pub(crate) compact: i64,
    pub(crate) epoch: &'a Epoch,
    pub(crate) options: &'a Options,
    /// Versions from this main revision on are read from Revs alone: either Latest lacks them, or its row of the same
    /// revision is from a later write of the same transaction.
    pub(crate) replaced_from: i64,
    /// The budget; `None` = unlimited.
    pub(crate) effort: Option<&'a Effort<'a>>,
}

pub(crate) struct FoundAtRevision {
    pub(crate) found: Vec<Found>,
    pub(crate) count: i64,
    /// Whether the bytes ended it before the keys did.
    pub(crate) is_cut: bool,
}

impl Reader<'_> {
    pub(crate) fn spend(&self, rows: u64, bytes: usize) -> Result<(), ReadError> {
        Ok(self.effort.map_or(Ok(()), |effort| effort.spend(rows, bytes as u64))?)
    }

    /// Refuses at once a read that will count this many rows but may not.
    fn foresee(&self, rows: u64) -> Result<(), ReadError> {
        Ok(self.effort.map_or(Ok(()), |effort| effort.foresee(rows))?)
    }

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
        self.visit(range, &[], |key, record| {
            count += i64::from(self.lives_at(key, record, revision)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(count)
    }

    /// The metadata of a live key, without reading its value.
    pub(crate) fn meta(&self, key: &[u8]) -> Result<Option<KeyMeta>, ReadError> {
        self.spend(1, key.len())?;
        let record = self.index.get(key).filter(|record| record::is_live(record));
        Ok(record.map(|record| KeyMeta::of(&Head::of(record))))
    }

    /// Visits the metadata of the live keys of a range, in order, without reading values.
    pub(crate) fn metas(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(&[u8], KeyMeta) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        self.visit(range, &[], |key, record| {
            let is_live = record::is_live(record);
            Ok(if is_live { visit(key, KeyMeta::of(&Head::of(record))) } else { ControlFlow::Continue(()) })
        })
    }

    fn range_now(&self, query: &Query) -> Result<Answer, ReadError> {
        if query.range.is_point() {
            return self.point_now(query);
        }
        let count = self.index.count(&query.range);
        let mut answer = Answer { count: count.cast_signed(), ..Answer::default() };
        if query.is_plain() {
            let limit = query.limit().unwrap_or(usize::MAX);
            let wanted = usize::try_from(count).unwrap_or(usize::MAX).min(limit);
            answer.kvs = self.plain(query, wanted)?;
            answer.more = count > answer.kvs.len() as u64;
        } else {
            let found = self.sorted(query, count)?;
            (answer.kvs, answer.more) = self.settle(query, found)?;
        }
        strip_values(query, &mut answer.kvs);
        Ok(answer)
    }

    fn point_now(&self, query: &Query) -> Result<Answer, ReadError> {
        let key = &query.range.start;
        self.spend(1, key.len())?;
        let live = self.index.get(key).filter(|record| record::is_live(record));
        let Some(head) = live.map(Head::of) else { return Ok(Answer::default()) };
        let mut answer = Answer { count: 1, ..Answer::default() };
        if query.keeps(head.create, head.newest.main) {
            answer.kvs.push(if query.is_of_index() {
                key_only(key.clone(), head.create, head.newest, head.version)
            } else {
                self.value(key, head.newest, head.size)?
            });
            strip_values(query, &mut answer.kvs);
        }
        Ok(answer)
    }

    /// The first `wanted` live keys of the range, in order, or as many as reach the query's byte limit.
    fn plain(&self, query: &Query, wanted: usize) -> Result<Vec<KeyValue>, ReadError> {
        let (range, fast_keys, enough_bytes) = (&query.range, query.is_of_index(), query.enough_bytes());
        if enough_bytes == usize::MAX {
            // Each key is visited, and read too unless the index can answer.
            self.foresee((wanted as u64).saturating_mul(if fast_keys { 1 } else { 2 }))?;
        }
        let mut kvs = Vec::with_capacity(if enough_bytes == usize::MAX { wanted } else { 0 });
        let (mut from, mut total_bytes) = (Vec::new(), 0);
        while kvs.len() < wanted && total_bytes < enough_bytes {
            let page_keys = self.options.page_keys.min(wanted - kvs.len());
            let mut page: Vec<(Bytes, Head)> = Vec::with_capacity(page_keys);
            let (mut bytes, page_bytes) = (0, self.options.page_bytes);
            self.visit(range, &from, |key, record| {
                if record::is_live(record) {
                    let head = Head::of(record);
                    bytes += if fast_keys { key.len() + KEY_ONLY_BYTES } else { head.size as usize };
                    page.push((Bytes::copy_from_slice(key), head));
                }
                let is_full = page.len() == page_keys || bytes >= page_bytes.min(enough_bytes - total_bytes);
                Ok(if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            let Some((last, _)) = page.last() else { break };
            total_bytes += bytes;
            from.clear();
            from.extend_from_slice(last);
            from.push(0);
            if fast_keys {
                self.spend(0, bytes)?;
                kvs.extend(
                    page.into_iter().map(|(key, head)| key_only(key, head.create, head.newest, head.version)),
                );
            } else if page.len() <= GETS_MAX {
                for (key, head) in &page {
                    kvs.push(self.value(key, head.newest, head.size)?);
                }
            } else {
                self.spend(page.len() as u64, bytes)?;
                self.scan_page(&page, &mut kvs)?;
            }
        }
        Ok(kvs)
    }

    /// Reads the values of neighbouring keys in one pass over Latest. Rows newer than the view are read from Revs.
    fn scan_page(&self, page: &[(Bytes, Head)], kvs: &mut Vec<KeyValue>) -> Result<(), ReadError> {
        let escaped = |key: &[u8]| {
            let mut out = Vec::with_capacity(row::escaped_len(key));
            row::escape(key, &mut out);
            out
        };
        let (first, last) = (&page[0].0, &page[page.len() - 1].0);
        let mut end = escaped(last);
        end.push(0);
        let (mut at, mut buffer) = (0, BytesMut::new());
        scan_while(self.engine, Family::Latest, &escaped(first), Some(&end), |key, row| {
            while let Some((user_key, head)) = page.get(at) {
                let order = row::compare(user_key, key);
                if order.is_gt() {
                    break;
                }
                let matching = order.is_eq();
                let may_be = matching && head.newest.main < self.replaced_from;
                let current = if may_be { current_in(row, head.newest, &mut buffer)? } else { None };
                kvs.push(match current {
                    Some(kv) => kv,
                    None => self.value_of_row(user_key, head.newest)?,
                });
                at += 1;
                if matching {
                    break;
                }
            }
            let is_over = at == page.len();
            Ok::<_, ReadError>(if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        for (key, head) in &page[at..] {
            kvs.push(self.value_of_row(key, head.newest)?);
        }
        Ok(())
    }

    /// The live keys that a sorted or filtered answer may need, of `count` in the range.
    pub(crate) fn sorted(&self, query: &Query, count: u64) -> Result<Vec<Found>, ReadError> {
        let (enough, mut top) = (query.enough(), Top::new(query));
        if enough as u64 >= count && !top.ends_early() {
            self.foresee(count)?;
        }
        self.visit(&query.range, &[], |key, record| {
            if record::is_live(record) {
                let head = Head::of(record);
                if query.keeps(head.create, head.newest.main) && top.admits(&head) {
                    self.push(&mut top, query, Found::newest(key, &head))?;
                }
            }
            let is_done = top.is_full() || top.len() >= enough;
            Ok(if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(top.finish())
    }

    fn push(&self, top: &mut Top, query: &Query, mut found: Found) -> Result<(), ReadError> {
        if query.by_value() && found.kv.is_none() {
            found.kv = Some(self.value(&found.key, found.at, found.size)?);
        }
        top.push(found);
        Ok(())
    }

    fn range_then(&self, query: &Query, revision: i64) -> Result<Answer, ReadError> {
        let FoundAtRevision { found, count, is_cut } = self.found_at_revision(query, revision, true)?;
        let (kvs, more) = self.settle(query, found)?;
        let mut answer = Answer { kvs, count, more: more || is_cut };
        strip_values(query, &mut answer.kvs);
        Ok(answer)
    }

    /// What a query finds at an older revision, before the limit. Finding reads, so values are kept if needed.
    pub(crate) fn found_at_revision(
        &self,
        query: &Query,
        revision: i64,
        wants_values: bool,
    ) -> Result<FoundAtRevision, ReadError> {
        // With a byte limit, one more key is needed to know whether more follow.
        let (mut top, mut count, mut bytes, mut cut) = (Top::new(query), 0, 0, usize::MAX);
        let (enough, enough_bytes) = (query.enough(), query.enough_bytes());
        self.visit(&query.range, &[], |key, record| {
            if top.is_full() || top.len() >= enough.min(cut.saturating_add(1)) {
                if query.uncounted {
                    return Ok(ControlFlow::Break(()));
                }
                count += i64::from(self.lives_at(key, record, revision)?);
            } else if let Some(mut version) = self.found_at(key, record, revision)? {
                count += 1;
                if query.keeps(version.create, version.at.main) {
                    let of_index = query.is_of_index();
                    bytes += if of_index { key.len() + KEY_ONLY_BYTES } else { version.size as usize };
                    version.kv = version.kv.filter(|_| wants_values || query.by_value());
                    self.push(&mut top, query, version)?;
                    if bytes >= enough_bytes {
                        cut = cut.min(top.len());
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut found = top.finish();
        let is_cut = found.len() > cut;
        found.truncate(cut);
        Ok(FoundAtRevision { found, count: if query.uncounted { 0 } else { count }, is_cut })
    }

    /// Applies the limit in the answer's order, and reads the values.
    fn settle(&self, query: &Query, mut found: Vec<Found>) -> Result<(Vec<KeyValue>, bool), ReadError> {
        let limit = query.limit().unwrap_or(usize::MAX);
        let more = found.len() > limit;
        found.truncate(limit);
        // Not collected in place: the answer would keep the memory of all that was found.
        let mut kvs = Vec::with_capacity(found.len());
        for found in found {
            kvs.push(match (found.kv, query.is_of_index()) {
                (_, true) => key_only(found.key, found.create, found.at, found.version),
                (Some(kv), false) => kv,
                (None, false) => self.value(&found.key, found.at, found.size)?,
            });
        }
        Ok((kvs, more))
    }

    /// Visits keys with their records, dead ones too; each costs a row.
    pub(crate) fn visit(
        &self,
        range: &KeyRange,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, ReadError>,
    ) -> Result<(), ReadError> {
        let mut failed = None;
        self.index.visit(range, from, &mut |key, record| {
            self.spend(1, 0).and_then(|()| visit(key, record)).unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            })
        });
        failed.map_or(Ok(()), Err)
    }

    fn value(&self, key: &Bytes, newest: Revision, size: u32) -> Result<KeyValue, ReadError> {
        self.spend(GET_ROWS, size as usize)?;
        if newest.main < self.replaced_from {
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

    /// The Revs row at exactly this revision, which must exist.
    pub(crate) fn version(&self, at: Revision) -> Result<Version, ReadError> {
        if let Ok(found) = self.overlay.binary_search_by_key(&at, |(revision, _)| *revision) {
            return Ok(Version::parse(at, &self.overlay[found].1)?);
        }
        self.spend(GET_ROWS, 0)?;
        match self.engine.get(Family::Revs, &at.encode())? {
            Some(row) => {
                self.spend(0, row.len())?;
                Ok(Version::parse(at, &row)?)
            }
            // Only an expired view can have lost it: compaction waits for all others.
            None if self.epoch.is_expired() => Err(ReadError::Compacted),
            None => Err(corrupt(format!("the version at {at:?} is missing")).into()),
        }
    }

    /// Whether the key is alive at a revision that is not compacted; reads only if an earlier life is in question.
    pub(crate) fn lives_at(&self, key: &[u8], record: &[u8], revision: i64) -> Result<bool, ReadError> {
        let head = Head::of(record);
        if head.newest.main <= revision {
            return Ok(!head.dead);
        }
        if head.create <= revision || !head.earlier {
            return Ok(head.create <= revision);
        }
        Ok(self.found_at(key, record, revision)?.is_some())
    }

    pub(crate) fn found_at(
        &self,
        key: &[u8],
        record: &[u8],
        revision: i64,
    ) -> Result<Option<Found>, ReadError> {
        let head = Head::of(record);
        if head.newest.main <= revision {
            return Ok((!head.dead).then(|| Found::newest(key, &head)));
        }
        let Some((at, kv)) = self.before_newest(&head, record, revision)? else { return Ok(None) };
        let (key, create, version) = (Bytes::copy_from_slice(key), kv.create_revision, kv.version);
        let size = u32::try_from(kv.encoded_len()).unwrap_or(u32::MAX);
        Ok(Some(Found { key, at, create, version, size, kv: Some(kv) }))
    }

    /// The revision of the version that a key had at `revision`, if it was alive.
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

    /// The key's version at `revision`, before its newest one: follows the chain, skipping a whole run a step.
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
                // A creation follows a tombstone: the key did not exist.
                (_, Some(_)) if tail.create => return Ok(None),
                (_, Some(previous)) => {
                    return Ok(Some((previous.revision, self.version(previous.revision)?.key_value()?)));
                }
            };
        }
    }
}

#[inline]
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
    Ok(Some(fields.of(&bytes)))
}

/// A key as etcd's index answers it: without value and lease.
pub(crate) fn key_only(key: Bytes, create: i64, at: Revision, version: i64) -> KeyValue {
    KeyValue { key, create_revision: create, mod_revision: at.main, version, ..KeyValue::default() }
}

fn strip_values(query: &Query, kvs: &mut [KeyValue]) {
    let hidden = Hidden::of(query);
    for kv in kvs {
        hidden.hide(kv);
    }
}
