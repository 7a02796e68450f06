//! The open log: append, sync, cut segments, read entries back, release old segments.

use crate::disk::{Disk, DiskFile};
use crate::error::WalError;
use crate::files::{Segment, SegmentName, publish};
use crate::frame;
use crate::index::{LogIndex, Slot};
use crate::options::Options;
use crate::replay::{INDEX_MAX, read_entry};
use crate::superblock::{Mark, Superblock};
use bytes::Bytes;
use prost::Message;
use proto::walpb;
use std::collections::VecDeque;
use types::mutant::{Mutant, is};
use types::{Entry, HardState, Index, Term};

/// A raft log on disk, with one writer. See the crate's documentation for the order of calls.
pub struct Wal<D: Disk> {
    pub(crate) disk: D,
    pub(crate) options: Options,
    pub(crate) metadata: Bytes,
    /// Consecutive and never empty; the last one is written to.
    pub(crate) segments: VecDeque<Segment<D::File>>,
    /// The end of the records in the last segment.
    pub(crate) end: u64,
    /// How far the last segment is durable; at most `end`.
    pub(crate) durable: u64,
    /// Up to where the last segment must be durable before the caller acts: a sync covers only what was written before.
    pub(crate) needed: u64,
    pub(crate) written_bytes: u64,
    /// The running crc after the last encoded record.
    pub(crate) crc: u32,
    /// The running crc at `end`.
    pub(crate) end_crc: u32,
    pub(crate) state: HardState,
    /// A snapshot record that counts once a state commits it: that state must be durable.
    pub(crate) uncommitted_snapshot: Option<Index>,
    pub(crate) index: LogIndex,
    pub(crate) superblock: Superblock<D::File>,
    pub(crate) superblock_behind_bytes: u64,
    /// Encoded records, not yet written; empty between calls.
    pub(crate) buffer: Vec<u8>,
    /// A write or sync failed: the state on disk is unknown.
    pub(crate) failed: bool,
}

impl<D: Disk> std::fmt::Debug for Wal<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal")
            .field("first", &self.first_index())
            .field("last", &self.last_index())
            .field("state", &self.state)
            .field("tail", &self.segments.back().map(|segment| &segment.name))
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl<D: Disk> Wal<D> {
    /// Appends entries, after the last or in place of a suffix, then the hard state, in one write; [`Wal::sync`] it.
    pub fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), WalError> {
        self.check_alive()?;
        self.check_continues(entries)?;
        let result = self.try_append(entries, hard_state);
        self.note(result)
    }

    fn try_append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), WalError> {
        let seq = self.tail().seq;
        for entry in entries {
            self.make_room(frame::entry_frame_bytes_max(entry.data.len()))?;
            let before = self.buffer.len();
            let offset = self.end + before as u64;
            let seed = self.crc;
            self.crc = frame::push_entry(&mut self.buffer, seed, entry);
            let slot = Slot {
                offset: u32::try_from(offset)
                    .map_err(|_| WalError::Unwritable { what: "4 GiB in one batch" })?,
                bytes: u32::try_from(self.buffer.len() - before).expect("the payload's length was checked"),
                seed,
            };
            self.index.put(entry.index, entry.term, seq, slot);
            if self.buffer.len() >= self.options.write_bytes_max {
                self.write_out()?;
            }
        }
        if !entries.is_empty() {
            self.needed = self.position();
        }
        // As etcd's `Save`: an empty state is not written.
        if let Some(state) = hard_state.filter(|state| **state != HardState::default()) {
            // A commit index may be lost: it is learned again (etcd's `raft.MustSync`).
            let promises = (state.term, state.vote) != (self.state.term, self.state.vote);
            let commits_a_snapshot =
                self.uncommitted_snapshot.take_if(|index| *index <= state.commit).is_some();
            self.make_room(frame::STATE_FRAME_BYTES_MAX)?;
            self.crc = frame::push_state(&mut self.buffer, self.crc, state);
            self.state = *state;
            if promises || commits_a_snapshot {
                self.needed = self.position();
            }
        }
        self.write_out()?;
        if self.end >= self.options.segment_bytes { self.cut() } else { Ok(()) }
    }

    /// Makes durable what the caller depends on: one fdatasync, or none if at most a commit index was appended.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.check_alive()?;
        if !self.must_sync() {
            return Ok(());
        }
        let result = self.sync_tail();
        self.note(result)
    }

    /// Whether [`Wal::sync`] would sync anything.
    pub fn must_sync(&self) -> bool {
        self.needed > self.durable
    }

    /// Bytes of frames written since it was opened, without reserved space.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Makes everything durable, even what [`Wal::sync`] leaves out: commit index and superblock.
    pub fn sync_all(&mut self) -> Result<(), WalError> {
        self.check_alive()?;
        let result = self.sync_tail().and_then(|()| self.superblock.sync());
        self.note(result)
    }

    /// [`Wal::sync_all`] at the end of the process.
    pub fn close(mut self) -> Result<(), WalError> {
        self.sync_all()
    }

    /// Records a durable snapshot, and syncs. It counts, as in etcd, once the log also holds a hard state that commits
    /// it; ahead of the log, or of another term than the entry at its index, it then replaces the log.
    pub fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<(), WalError> {
        self.check_alive()?;
        if snapshot.index() > 0 && snapshot.conf_state.is_none() {
            return Err(WalError::Unwritable { what: "a snapshot record after index 0 needs a ConfState" });
        }
        if snapshot.index() > INDEX_MAX {
            return Err(WalError::Unwritable { what: "a snapshot record of an index that no log reaches" });
        }
        self.crc = frame::push_snapshot(&mut self.buffer, self.crc, &snapshot.encode_to_vec());
        let result = self.write_out().and_then(|()| self.sync_tail());
        self.note(result)?;
        let (index, term) = (snapshot.index(), Some(snapshot.term()));
        self.uncommitted_snapshot = (index > self.state.commit).then_some(index);
        if index > self.index.last() || index + 1 >= self.index.first() && self.index.term(index) != term {
            self.index.reset(index, snapshot.term());
        }
        Ok(())
    }

    /// The first readable entry; in an empty log, the last index plus one.
    pub fn first_index(&self) -> Index {
        self.index.first()
    }

    /// The last entry; in an empty log, the first index minus one.
    pub fn last_index(&self) -> Index {
        self.index.last()
    }

    /// The term of an entry, or of the one before the first.
    pub fn term(&self, index: Index) -> Option<Term> {
        self.index.term(index)
    }

    /// The hard state appended last.
    pub fn hard_state(&self) -> HardState {
        self.state
    }

    /// The metadata given to [`Wal::create`].
    pub fn metadata(&self) -> &Bytes {
        &self.metadata
    }

    /// The entries of [low, high), as many as fit `max_bytes` on disk, but at least one if there is one.
    /// Payloads read together share one allocation of up to 256 KiB: copy what you keep for long.
    pub fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, WalError> {
        let (first, end) = (self.first_index(), self.last_index() + 1);
        if low < first || high > end {
            return Err(WalError::OutOfRange { low, high, first, end });
        }
        let mut entries = Vec::new();
        let (mut at, mut budget) = (low, max_bytes);
        while at < high {
            let run = self.run(at, high, &mut budget, entries.is_empty());
            if run.is_empty() {
                break;
            }
            self.read_run(at, &run, &mut entries)?;
            at += run.len() as u64;
        }
        Ok(entries)
    }

    /// The frames from an index on to be read at once: in one segment, close together, within the budget.
    fn run(&self, low: Index, high: Index, budget: &mut u64, force: bool) -> Vec<(u64, Slot)> {
        let mut run: Vec<(u64, Slot)> = Vec::new();
        for index in low..high {
            let (seq, slot) = self.index.locate(index).expect("the range was checked");
            let near = run.first().is_none_or(|&(first_seq, first)| {
                first_seq == seq
                    && u64::from(slot.offset + slot.bytes - first.offset) <= self.options.read_bytes_max
            });
            let fits = u64::from(slot.bytes) <= *budget || force && run.is_empty();
            if !near || !fits {
                break;
            }
            *budget = budget.saturating_sub(u64::from(slot.bytes));
            run.push((seq, slot));
        }
        run
    }

    fn read_run(&self, low: Index, run: &[(u64, Slot)], entries: &mut Vec<Entry>) -> Result<(), WalError> {
        let (Some(&(seq, first)), Some(&(_, last))) = (run.first(), run.last()) else { return Ok(()) };
        let segment = self.segments.iter().find(|segment| segment.seq == seq);
        let segment = segment.expect("the index names no segment that was let go");
        let mut bytes = vec![0; (last.offset + last.bytes - first.offset) as usize];
        let read = segment.file.read_up_to(&mut bytes, first.offset.into());
        read.map_err(|e| WalError::io("read", &segment.name, e))?;
        let bytes = Bytes::from(bytes);
        for (index, &(_, slot)) in (low..).zip(run) {
            let from = (slot.offset - first.offset) as usize;
            let entry = read_entry(&bytes.slice(from..from + slot.bytes as usize), slot)
                .filter(|entry| entry.index == index && self.index.term(index) == Some(entry.term));
            let what = "this entry is not what it was when it was written";
            entries.push(entry.ok_or_else(|| WalError::corrupt(&segment.name, slot.offset.into(), what))?);
        }
        Ok(())
    }

    /// Releases entries before `index`, which cannot be read any more. Removes segments whose successor begins below it,
    /// since that one's first entry gives the term before the log after a reopen; what is left of others is there again
    /// then. Stock etcd opens such a log only from a snapshot record at or above its first index: save one before.
    pub fn release(&mut self, index: Index) -> Result<(), WalError> {
        self.check_alive()?;
        let result = self.try_release(index);
        self.note(result)
    }

    fn try_release(&mut self, index: Index) -> Result<(), WalError> {
        while self.segments.len() > 1 {
            let next = self.segments.iter().skip(1).find_map(|segment| self.index.first_of(segment.seq));
            let Some(base) = next.filter(|&base| base < index) else { break };
            let segment = self.segments.front().expect("there is more than one");
            self.disk.remove(&segment.name).map_err(|e| WalError::io("remove", &segment.name, e))?;
            // Remove one at a time, durably: a crash must never remove a later segment and keep an earlier one.
            self.sync_names()?;
            self.segments.pop_front();
            self.index.release(base);
        }
        let gone = index.saturating_sub(1).min(self.last_index());
        if gone >= self.first_index() {
            self.index.release(gone);
        }
        Ok(())
    }

    fn check_alive(&self) -> Result<(), WalError> {
        if self.failed { Err(WalError::Failed) } else { Ok(()) }
    }

    fn check_continues(&self, entries: &[Entry]) -> Result<(), WalError> {
        let Some(first) = entries.first() else { return Ok(()) };
        let in_order = (first.index..).zip(entries).all(|(index, entry)| entry.index == index);
        if entries.len() as u64 > INDEX_MAX - first.index.min(INDEX_MAX) {
            return Err(WalError::Unwritable { what: "an entry of an index that no log reaches" });
        }
        if !in_order || first.index < self.first_index() || first.index > self.last_index() + 1 {
            let (low, high) = (first.index, first.index + entries.len() as u64);
            let (first, end) = (self.first_index(), self.last_index() + 1);
            return Err(WalError::OutOfRange { low, high, first, end });
        }
        if entries
            .iter()
            .any(|entry| frame::entry_frame_bytes_max(entry.data.len()) > frame::RECORD_BYTES_MAX)
        {
            return Err(WalError::Unwritable { what: "an entry of more than 1 GiB" });
        }
        Ok(())
    }

    /// After a failure nothing is retried: an unsynced page may be lost silently.
    fn note<T>(&mut self, result: Result<T, WalError>) -> Result<T, WalError> {
        self.failed |= result.is_err() && !is(Mutant::SyncAgain);
        result
    }

    fn tail(&mut self) -> &mut Segment<D::File> {
        self.segments.back_mut().expect("there is at least one segment")
    }

    /// Writes out the buffer, and syncs if needed, before a frame that would exceed the limit of unsynced bytes. A
    /// longer frame is written alone, so that no good record follows far behind a torn one.
    fn make_room(&mut self, frame_bytes: usize) -> Result<(), WalError> {
        let bytes = (self.buffer.len() + frame_bytes) as u64;
        if bytes > self.options.unsynced_bytes_max { self.write_out() } else { Ok(()) }
    }

    /// The end of the encoded records in the last segment, written or not.
    fn position(&self) -> u64 {
        self.end + self.buffer.len() as u64
    }

    fn write_out(&mut self) -> Result<(), WalError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.end > self.durable && self.position() - self.durable > self.options.unsynced_bytes_max {
            self.sync_tail()?;
            if is(Mutant::SyncCoversLater) {
                self.needed = 0;
            }
        }
        let offset = self.end;
        let buffer = std::mem::take(&mut self.buffer);
        let (end, ahead) = (offset + buffer.len() as u64, self.options.zero_ahead_bytes);
        let tail = self.tail();
        let written = tail.file.write_at(&buffer, offset).and_then(|()| tail.file.zero_ahead(end, ahead));
        written.map_err(|e| WalError::io("write", &tail.name, e))?;
        self.end = end;
        self.written_bytes += buffer.len() as u64;
        self.end_crc = self.crc;
        self.buffer = buffer;
        self.buffer.clear();
        self.buffer.shrink_to(self.options.write_bytes_max);
        Ok(())
    }

    fn sync_tail(&mut self) -> Result<(), WalError> {
        let tail = self.tail();
        tail.file.sync().map_err(|e| WalError::io("sync", &tail.name, e))?;
        let bytes = self.end - self.durable;
        self.durable = self.end;
        self.remember(bytes)
    }

    pub(crate) fn remember(&mut self, bytes: u64) -> Result<(), WalError> {
        let mark = Mark { seq: self.tail().seq, offset: self.durable, crc: self.end_crc };
        self.superblock.remember(mark)?;
        self.superblock_behind_bytes += bytes;
        if self.superblock_behind_bytes >= self.options.superblock_sync_bytes {
            self.superblock.sync()?;
            self.superblock_behind_bytes = 0;
        }
        Ok(())
    }

    pub(crate) fn sync_names(&self) -> Result<(), WalError> {
        self.disk.sync_dir().map_err(|e| WalError::io("sync", "the directory", e))
    }

    /// Ends the segment and starts the next; both are durable on return.
    fn cut(&mut self) -> Result<(), WalError> {
        let end = self.end;
        let tail = self.tail();
        tail.file.set_len(end).map_err(|e| WalError::io("cut", &tail.name, e))?;
        self.sync_tail()?;
        let mut head = Vec::new();
        frame::push_crc(&mut head, self.crc);
        self.crc = frame::push_metadata(&mut head, self.crc, &self.metadata);
        if self.state != HardState::default() {
            self.crc = frame::push_state(&mut head, self.crc, &self.state);
        }
        let name = SegmentName::new(self.tail().seq + 1, self.last_index() + 1);
        let segment = publish(&self.disk, name, &head, self.options)?;
        self.segments.push_back(segment);
        self.end = head.len() as u64;
        self.durable = self.end;
        // Everything before is in segments that are durable.
        self.needed = 0;
        self.end_crc = self.crc;
        self.remember(self.end)?;
        self.superblock_behind_bytes = 0;
        self.superblock.sync()
    }
}
