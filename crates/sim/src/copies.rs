//! The oracle of logs: what they contain, and on how many disks it is durable.
//!
//! It observes every write and sync of every member's log, and checks the raft properties on which all others rest:
//!
//! * index and term identify one entry, in every log (Log Matching in the paper);
//! * what is applied anywhere is durable on a majority of the voters by then.

use crate::Violation;
use proto::walpb;
use raft_node::core::Log;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use types::{Entry, EntryKind, HardState, Index, Term, lock};
use wal::WalError;

#[derive(Debug, Default)]
struct Copy {
    terms: BTreeMap<Index, Term>,
    /// Durable up to this index: survives any crash.
    durable: Index,
    /// A snapshot up to this index, or the entries, are durable, whatever their terms: they are committed.
    included: Index,
    /// The log goes on from a snapshot of this index, once that is synced.
    recorded: Index,
}

#[derive(Debug, Default)]
struct Logs {
    copies: BTreeMap<u64, Copy>,
    /// The entry at each index and term, by kind and checksum.
    contents: BTreeMap<(Index, Term), (EntryKind, u32)>,
    violation: Option<Violation>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Copies {
    logs: Arc<Mutex<Logs>>,
}

impl Copies {
    fn logs(&self) -> MutexGuard<'_, Logs> {
        lock(&self.logs)
    }

    /// A member starts with these entries on its disk.
    pub(crate) fn begins(&self, member: u64, entries: &[Entry]) {
        let mut logs = self.logs();
        logs.append(member, entries);
        logs.sync(member);
    }

    /// Wraps a member's log just after it was opened; all of it is on the disk.
    pub(crate) fn listen(&self, member: u64, log: Box<dyn Log>) -> Box<dyn Log> {
        let mut logs = self.logs();
        let copy = logs.copies.entry(member).or_default();
        copy.terms.split_off(&log.first_index());
        let held = (log.first_index()..=log.last_index()).filter_map(|index| Some((index, log.term(index)?)));
        copy.terms.extend(held);
        copy.durable = log.last_index();
        (copy.included, copy.recorded) = (log.first_index() - 1, 0);
        // What is in no log any more was lost before anybody had it. A cluster's only voter, whose term was lost with
        // it, may log something else there.
        let Logs { copies, contents, .. } = &mut *logs;
        contents.retain(|(index, term), _| copies.values().any(|copy| copy.terms.get(index) == Some(term)));
        drop(logs);
        Box::new(ObservedLog { member, copies: self.clone(), log })
    }

    /// Returns the violation observed, if any.
    pub(crate) fn check(&self) -> Result<(), Violation> {
        self.logs().violation.take().map_or(Ok(()), Err)
    }

    /// How many of these members have this entry durably.
    pub(crate) fn durable(&self, voters: &BTreeSet<u64>, index: Index, term: Term) -> usize {
        let logs = self.logs();
        let copies = voters.iter().filter_map(|voter| logs.copies.get(voter));
        let has_logged = |copy: &Copy| copy.durable >= index && copy.terms.get(&index) == Some(&term);
        copies.filter(|copy| copy.included >= index || has_logged(copy)).count()
    }
}

impl Logs {
    fn append(&mut self, member: u64, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let copy = self.copies.entry(member).or_default();
        copy.terms.split_off(&first.index);
        copy.durable = copy.durable.min(first.index - 1);
        for entry in entries {
            copy.terms.insert(entry.index, entry.term);
            let content = (entry.kind, crc32c::crc32c(&entry.data));
            let name = (entry.index, entry.term);
            if *self.contents.entry(name).or_insert(content) != content {
                self.violation.get_or_insert_with(|| {
                    format!(
                        "member {member} logs another entry of term {} at index {}",
                        entry.term, entry.index
                    )
                });
            }
        }
    }

    /// The log goes on from a snapshot, if it was behind, or had another entry there.
    fn snapshot(&mut self, member: u64, index: Index, term: Term) {
        let copy = self.copies.entry(member).or_default();
        if copy.terms.get(&index) != Some(&term) {
            copy.terms = BTreeMap::from([(index, term)]);
            copy.durable = 0;
            copy.recorded = index;
        }
    }

    fn sync(&mut self, member: u64) {
        let copy = self.copies.entry(member).or_default();
        copy.included = copy.included.max(copy.recorded);
        copy.durable = copy.terms.last_key_value().map_or(copy.durable, |(last, _)| *last);
    }
}

struct ObservedLog {
    member: u64,
    copies: Copies,
    log: Box<dyn Log>,
}

impl Log for ObservedLog {
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), WalError> {
        self.copies.logs().append(self.member, entries);
        self.log.append(entries, hard_state)
    }
    fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<(), WalError> {
        self.log.save_snapshot(snapshot)?;
        self.copies.logs().snapshot(self.member, snapshot.index(), snapshot.term());
        Ok(())
    }
    fn sync(&mut self) -> Result<(), WalError> {
        self.log.sync()?;
        self.copies.logs().sync(self.member);
        Ok(())
    }
    fn sync_all(&mut self) -> Result<(), WalError> {
        self.log.sync_all()?;
        self.copies.logs().sync(self.member);
        Ok(())
    }
    fn first_index(&self) -> Index {
        self.log.first_index()
    }
    fn last_index(&self) -> Index {
        self.log.last_index()
    }
    fn term(&self, index: Index) -> Option<Term> {
        self.log.term(index)
    }
    fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, WalError> {
        self.log.entries(low, high, max_bytes)
    }
    fn hard_state(&self) -> HardState {
        self.log.hard_state()
    }
    fn release(&mut self, index: Index) -> Result<(), WalError> {
        self.log.release(index)
    }
    fn must_sync(&self) -> bool {
        self.log.must_sync()
    }
    fn written_bytes(&self) -> u64 {
        self.log.written_bytes()
    }
}
