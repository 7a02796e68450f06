//! The raft log as raft-rs reads it: the write-ahead log, with its newest entries cached in memory.
//!
//! ```text
//!        first                    cached from        last
//!   wal:  |--------------------------|================|      cache: empty, or ends at the last index, as the log does
//! ```

use crate::conf::raft_conf;
use crate::convert::{log_entry_ref, raft_entry};
use crate::limits::Limits;
use proto::walpb;
use raft::eraftpb;
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::RefCell;
use std::collections::VecDeque;
use types::{ConfState, Entry, HardState, Index, Term};
use wal::{Disk, Wal, WalError};

/// The operations that the node needs of a log on disk.
pub trait Log: Send {
    /// Writes entries and the hard state in one write. Entries may replace a suffix.
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), WalError>;
    /// Records a snapshot, durably. It replaces what it is ahead of, once a hard state commits it.
    fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<(), WalError>;
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
    fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<(), WalError> {
        Wal::save_snapshot(self, snapshot)
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
    /// What was applied last, and the members then: a snapshot made from now on includes it.
    applied: eraftpb::SnapshotMetadata,
    /// Payload bytes written since the start: flushes are scheduled by them.
    written_bytes: u64,
    /// A failed read. raft-rs is given nothing, since it would panic or take a member for lagging: check this first.
    fault: RefCell<Option<WalError>>,
    /// Bytes read at a time when payloads are dropped at once.
    page_bytes: u64,
}

impl LogStore {
    /// raft starts from `hard_state` and `conf`; the hard state's commit may have been raised.
    pub(super) fn new(
        log: Box<dyn Log>,
        hard_state: HardState,
        applied: Index,
        conf: &ConfState,
        limits: &Limits,
    ) -> Self {
        let mut hs = eraftpb::HardState::default();
        (hs.term, hs.vote, hs.commit) = (hard_state.term, hard_state.vote, hard_state.commit);
        let cs = raft_conf(conf.voters.clone(), conf.learners.clone());
        let mut applied_at = eraftpb::SnapshotMetadata { index: applied, ..Default::default() };
        applied_at.set_conf_state(cs.clone());
        Self {
            log,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max: limits.cache_bytes,
            start: RaftState::new(hs, cs),
            applied: applied_at,
            written_bytes: 0,
            fault: RefCell::default(),
            page_bytes: limits.group_bytes,
        }
    }

    /// These are the members as of what is applied next.
    pub(super) fn members_changed(&mut self, conf: eraftpb::ConfState) {
        self.applied.set_conf_state(conf);
    }

    /// The machine has applied up to this index.
    pub(super) fn applied(&mut self, index: Index) {
        self.applied.index = index;
    }

    /// Goes on from a snapshot, whose state is durable: records it and the hard state that commits it.
    pub(super) fn install(
        &mut self,
        snapshot: &walpb::Snapshot,
        hard_state: &HardState,
    ) -> Result<(), WalError> {
        self.log.save_snapshot(snapshot)?;
        self.log.append(&[], Some(hard_state))?;
        self.cache.clear();
        self.cache_bytes = 0;
        Ok(())
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

    /// What a snapshot made now includes at least. It is made, and sent, elsewhere; the one that is sent may include more.
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<eraftpb::Snapshot> {
        let mut metadata = self.applied.clone();
        // Before anything was applied, there is nothing that a log could lack.
        let (Ok(term), 1..) = (self.term(metadata.index), metadata.index) else {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        };
        metadata.term = term;
        let mut snapshot = eraftpb::Snapshot::default();
        snapshot.set_metadata(metadata);
        Ok(snapshot)
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
        fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<(), WalError> {
            self.0.save_snapshot(snapshot)
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
        let mut store = LogStore::new(Box::new(log), HardState::default(), 0, &ConfState::default(), &limits);
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
    fn a_snapshot_is_what_was_applied_and_the_log_goes_on_from_one() {
        let log = Wal::create(MemDisk::new(), b"whose").unwrap();
        let conf = ConfState { voters: vec![1, 2], learners: vec![3] };
        let mut store = LogStore::new(Box::new(log), HardState::default(), 0, &conf, &Limits::default());
        assert!(store.snapshot(0, 2).is_err(), "of nothing");
        for index in 1..=5 {
            let entry = raft_entry(EntryKind::Normal, 4, index, vec![7; 9].into());
            store.append(vec![entry], None).unwrap();
        }
        store.members_changed(raft_conf(vec![1], vec![]));
        store.applied(3);
        let made = store.snapshot(0, 2).unwrap();
        let metadata = made.get_metadata();
        assert_eq!((metadata.index, metadata.term, &metadata.get_conf_state().voters[..]), (3, 4, &[1][..]));

        let conf_state = Some(proto::raftpb::ConfState { voters: vec![1, 2], ..Default::default() });
        let snapshot = walpb::Snapshot { index: Some(9), term: Some(6), conf_state };
        store.install(&snapshot, &HardState { term: 7, vote: 0, commit: 9 }).unwrap();
        assert_eq!((store.first_index().unwrap(), store.last_index().unwrap()), (10, 9));
        assert_eq!((store.term(9).unwrap(), store.term(8).is_err(), store.term(5).is_err()), (6, true, true));
        store.append(vec![raft_entry(EntryKind::Normal, 7, 10, "x".into())], None).unwrap();
        let context = GetEntriesContext::empty(false);
        assert_eq!(store.entries(10, 11, None, context).unwrap().len(), 1);
    }
}
