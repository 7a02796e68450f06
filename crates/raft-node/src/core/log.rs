//! The raft log as raft-rs reads it: the write-ahead log, with its newest entries cached in memory.
//!
//! ```text
//!        first                    cached from        last
//!   wal:  |--------------------------|================|      cache: empty, or ends at the last index, as the log does
//! ```

use crate::convert::{log_entry_ref, raft_entry};
use crate::limits::Limits;
use raft::eraftpb;
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use types::{ConfState, Entry, HardState, Index, Term};
use wal::{Disk, Wal, WalError};

/// The operations that the node needs of a log on disk.
pub trait Log: Send {
    /// Writes entries and the hard state in one write. Entries may replace a suffix.
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), WalError>;
    /// Makes written data durable; no effect if nothing needs it.
    fn sync(&mut self) -> Result<(), WalError>;
    /// Makes everything written durable, including the commit index: for an orderly end.
    fn sync_all(&mut self) -> Result<(), WalError> {
        self.sync()
    }
    /// The first index in the log.
    fn first_index(&self) -> Index;
    /// The last index in the log; `first_index() - 1` if it is empty.
    fn last_index(&self) -> Index;
    /// The term of an entry, or of the one before the first.
    fn term(&self, index: Index) -> Option<Term>;
    /// The entries `[low, high)`: at least one, then as many as `max_bytes` allows.
    fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, WalError>;
    /// The hard state written last.
    fn hard_state(&self) -> HardState;
    /// Releases entries before this index, which are no longer needed.
    fn release(&mut self, index: Index) -> Result<(), WalError>;
    /// Whether [`Log::sync`] would sync anything.
    fn must_sync(&self) -> bool {
        true
    }
    /// Bytes written since it was opened, if it counts them.
    fn written_bytes(&self) -> u64 {
        0
    }
}

impl<D: Disk> Log for Wal<D>
where
    D::File: Send,
{
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), WalError> {
        Wal::append(self, entries, hard_state)
    }
    fn sync(&mut self) -> Result<(), WalError> {
        Wal::sync(self)
    }
    fn sync_all(&mut self) -> Result<(), WalError> {
        Wal::sync_all(self)
    }
    fn first_index(&self) -> Index {
        Wal::first_index(self)
    }
    fn last_index(&self) -> Index {
        Wal::last_index(self)
    }
    fn term(&self, index: Index) -> Option<Term> {
        Wal::term(self, index)
    }
    fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, WalError> {
        Wal::entries(self, low, high, max_bytes)
    }
    fn hard_state(&self) -> HardState {
        Wal::hard_state(self)
    }
    fn release(&mut self, index: Index) -> Result<(), WalError> {
        Wal::release(self, index)
    }
    fn must_sync(&self) -> bool {
        Wal::must_sync(self)
    }
    fn written_bytes(&self) -> u64 {
        Wal::written_bytes(self)
    }
}

pub(crate) struct LogStore {
    log: Box<dyn Log>,
    cache: VecDeque<eraftpb::Entry>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    start: RaftState,
    /// Payload bytes written since the start: flushes are scheduled by them.
    written_bytes: u64,
    /// Members that need released entries, each with the log's start when it was reported. raft-rs asks with `&self`.
    lagging: RefCell<BTreeMap<u64, Index>>,
    /// A failed read. raft-rs is given nothing, since it would panic or take a member for lagging: check this first.
    fault: RefCell<Option<WalError>>,
    lagging_max: usize,
    /// Bytes read at a time when payloads are dropped at once.
    page_bytes: u64,
    logger: slog::Logger,
}

impl LogStore {
    /// raft starts from `hard_state` and `conf`; the hard state's commit may have been raised.
    pub(super) fn new(
        log: Box<dyn Log>,
        hard_state: HardState,
        conf: &ConfState,
        limits: &Limits,
        logger: slog::Logger,
    ) -> Self {
        let mut hs = eraftpb::HardState::default();
        (hs.term, hs.vote, hs.commit) = (hard_state.term, hard_state.vote, hard_state.commit);
        let mut cs = eraftpb::ConfState::default();
        cs.set_voters(conf.voters.clone());
        cs.set_learners(conf.learners.clone());
        Self {
            log,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max: limits.cache_bytes,
            start: RaftState::new(hs, cs),
            written_bytes: 0,
            lagging: RefCell::default(),
            fault: RefCell::default(),
            lagging_max: limits.lagging_reported.max(1),
            page_bytes: limits.group_bytes,
            logger,
        }
    }

    pub(super) fn log(&self) -> &dyn Log {
        &*self.log
    }

    pub(super) fn log_mut(&mut self) -> &mut dyn Log {
        &mut *self.log
    }

    /// Returns the first failed read since the last call, as an error.
    pub(super) fn take_fault(&self) -> Result<(), WalError> {
        self.fault.borrow_mut().take().map_or(Ok(()), Err)
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    pub(super) fn append(
        &mut self,
        entries: Vec<eraftpb::Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<(), WalError> {
        let plain: Vec<Entry> = entries.iter().map(log_entry_ref).collect();
        self.log.append(&plain, hard_state)?;
        let Some(first) = entries.first().map(|e| e.index) else {
            return Ok(());
        };
        while self.cache.back().is_some_and(|last| last.index >= first) {
            let gone = self.cache.pop_back().expect("the loop's condition saw it");
            self.cache_bytes -= cost(&gone);
        }
        for entry in entries {
            let bytes = cost(&entry);
            self.cache_bytes += bytes;
            self.written_bytes += bytes as u64;
            self.cache.push_back(entry);
        }
        while self.cache_bytes > self.cache_bytes_max && self.cache.len() > 1 {
            let gone = self.cache.pop_front().expect("it has more than one");
            self.cache_bytes -= cost(&gone);
        }
        self.check();
        Ok(())
    }

    fn check(&self) {
        debug_assert!(self.cache.back().is_none_or(|last| last.index == self.log.last_index()));
        debug_assert!(match (self.cache.front(), self.cache.back()) {
            (Some(first), Some(last)) => last.index - first.index + 1 == self.cache.len() as u64,
            _ => true,
        });
    }

    fn page(&self, low: Index, high: Index, max_bytes: u64) -> Vec<eraftpb::Entry> {
        if let Some(entries) = self.cached(low, high, max_bytes) {
            return entries;
        }
        let entries = self.log.entries(low, high, max_bytes);
        let entries = entries.unwrap_or_else(|error| {
            self.fault.borrow_mut().get_or_insert(error);
            Vec::new()
        });
        entries.into_iter().map(|e| raft_entry(e.kind, e.term, e.index, e.data)).collect()
    }

    /// The entries `[low, high)`, normal ones without payload, for which a lagging member might need its whole log in
    /// memory: raft-rs asks without a limit only to count unapplied membership changes before an election.
    fn kinds(&self, low: Index, high: Index) -> Vec<eraftpb::Entry> {
        let mut all: Vec<eraftpb::Entry> = Vec::new();
        let mut next = low;
        while next < high {
            let page = self.page(next, high, self.page_bytes);
            let Some(last) = page.last() else { break };
            next = last.index + 1;
            all.extend(page.into_iter().map(|mut entry| {
                if entry.get_entry_type() == eraftpb::EntryType::EntryNormal {
                    entry.data = bytes::Bytes::new();
                }
                entry
            }));
        }
        all
    }

    fn cached(&self, low: Index, high: Index, max_bytes: u64) -> Option<Vec<eraftpb::Entry>> {
        let first = self.cache.front()?.index;
        let from = usize::try_from(low.checked_sub(first)?).ok()?;
        let count = usize::try_from(high - low).ok()?;
        let mut bytes = 0;
        let mut out = Vec::with_capacity(count.min(self.cache.len() - from.min(self.cache.len())));
        for entry in self.cache.range(from..).take(count) {
            bytes += cost(entry) as u64;
            if bytes > max_bytes && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Some(out)
    }
}

fn cost(entry: &eraftpb::Entry) -> usize {
    entry.data.len() + size_of::<eraftpb::Entry>()
}

impl Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.start.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low < self.log.first_index() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        Ok(match max_size.into() {
            Some(max_bytes) => self.page(low, high, max_bytes),
            None => self.kinds(low, high),
        })
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if let Some(first) = self.cache.front().map(|e| e.index)
            && let Some(at) = index.checked_sub(first)
            && let Some(entry) = usize::try_from(at).ok().and_then(|at| self.cache.get(at))
        {
            return Ok(entry.term);
        }
        if index + 1 < self.log.first_index() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        self.log.term(index).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.first_index())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log.last_index())
    }

    /// There are no snapshots between members yet: the log is kept for lagging ones. raft-rs asks again with every
    /// heartbeat response; one log line names the member left behind.
    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        let first = self.log.first_index();
        let mut lagging = self.lagging.borrow_mut();
        if lagging.len() >= self.lagging_max && !lagging.contains_key(&to) {
            lagging.clear();
        }
        if lagging.insert(to, first) != Some(first) {
            slog::warn!(self.logger, "a member lags behind the log's start, and snapshots between members are not \
                supported yet: it stays behind until it is removed and added again";
                "member" => format!("{to:x}"), "first-index" => first);
        }
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use types::EntryKind;
    use wal::MemDisk;

    struct Paged(Wal<MemDisk>, Arc<AtomicUsize>);

    impl Log for Paged {
        fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), WalError> {
            self.0.append(entries, hard_state)
        }
        fn sync(&mut self) -> Result<(), WalError> {
            self.0.sync()
        }
        fn first_index(&self) -> Index {
            self.0.first_index()
        }
        fn last_index(&self) -> Index {
            self.0.last_index()
        }
        fn term(&self, index: Index) -> Option<Term> {
            self.0.term(index)
        }
        fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, WalError> {
            let entries = self.0.entries(low, high, max_bytes)?;
            let bytes = entries.iter().map(|entry| entry.data.len()).sum();
            self.1.fetch_max(bytes, Relaxed);
            Ok(entries)
        }
        fn hard_state(&self) -> HardState {
            self.0.hard_state()
        }
        fn release(&mut self, index: Index) -> Result<(), WalError> {
            self.0.release(index)
        }
    }

    #[test]
    fn an_election_looks_at_what_is_not_applied_without_holding_it() {
        let most = Arc::default();
        let log = Paged(Wal::create(MemDisk::new(), b"whose").unwrap(), Arc::clone(&most));
        let limits = Limits { group_bytes: 2_000, cache_bytes: 5_000, ..Limits::default() };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut store =
            LogStore::new(Box::new(log), HardState::default(), &ConfState::default(), &limits, logger);
        let kind = |index| if index % 10 == 0 { EntryKind::ConfChange } else { EntryKind::Normal };
        for index in 1..=100 {
            let entry = raft_entry(kind(index), 1, index, vec![7; 900].into());
            store.append(vec![entry], None).unwrap();
        }
        let all = store.entries(3, 101, None, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(all.iter().map(|entry| entry.index).collect::<Vec<_>>(), (3..=100).collect::<Vec<_>>());
        for entry in &all {
            let kept = if kind(entry.index) == EntryKind::Normal { 0 } else { 900 };
            assert_eq!(entry.data.len(), kept, "entry {}", entry.index);
        }
        let most = most.load(Relaxed);
        assert!((1..=2_000).contains(&most), "{most} bytes at a time");
    }

    #[test]
    fn members_that_were_told_of_as_lagging_do_not_fill_the_memory() {
        let log = Wal::create(MemDisk::new(), b"whose").unwrap();
        let limits = Limits { lagging_reported: 3, ..Limits::default() };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let store =
            LogStore::new(Box::new(log), HardState::default(), &ConfState::default(), &limits, logger);
        for member in 0..100 {
            assert!(store.snapshot(1, member).is_err());
            assert!(store.lagging.borrow().len() <= 3);
        }
    }
}
