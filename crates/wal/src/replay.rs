//! Reads a log back, segment by segment, as etcd's `ReadAll` does. Records take effect as follows:
//! * entry: goes to its index and replaces that entry and all after it. A gap is damage.
//! * state: the last one counts.
//! * snapshot: counts once the commit index reaches it. If it was ahead of the log, or of another term than the entry
//!   at its index, it then replaces the log.
//! * crc: must equal the running value, unless that is 0; metadata: must be the same in every segment.

use crate::disk::DiskFile;
use crate::error::WalError;
use crate::files::SegmentName;
use crate::frame::{EntryView, Record, kind, parse_state};
use crate::index::{LogIndex, Slot};
use crate::options::Options;
use crate::segment::{Reader, Step};
use crate::superblock::Mark;
use bytes::Bytes;
use prost::Message;
use proto::walpb;
use types::{Entry, HardState, Index, Term};

/// The largest index of a log: records with larger ones were written neither by us nor by etcd.
pub(crate) const INDEX_MAX: Index = i64::MAX.unsigned_abs();

/// What a log held when it was opened. [`crate::Wal::entries`] reads its entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// The owner of the log, as given to [`crate::Wal::create`].
    pub metadata: Bytes,
    /// The newest hard state.
    pub hard_state: HardState,
    /// The newest valid snapshot record above index 0, if any.
    pub snapshot: Option<walpb::Snapshot>,
    /// What was cut off the end of the log, if a crash had torn it.
    pub repaired: Option<Repair>,
}

/// Bytes removed from the end of the log because a crash had torn their write. They are kept in `<file>.broken`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The name of the segment.
    pub file: String,
    /// The offset of the cut, bytes.
    pub offset: u64,
    /// The number of bytes removed, up to the last that was not zero.
    pub bytes: u64,
}

#[derive(Default)]
pub(crate) struct Replay {
    pub(crate) index: LogIndex,
    pub(crate) crc: u32,
    pub(crate) state: HardState,
    pub(crate) metadata: Option<Bytes>,
    snapshots: Vec<walpb::Snapshot>,
    /// Index and term of a snapshot that replaces the log once it is committed.
    replacing: Option<(Index, Term)>,
    base: Base,
    mark: Option<Mark>,
    options: Options,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Base {
    /// Not known yet: the first segments were removed, and no entry was read so far.
    #[default]
    Unknown,
    /// From the start of the log or a snapshot.
    Fixed,
    /// From the first remaining entry, of which only the term is used.
    FirstEntry,
}

#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) end: u64,
    /// The end of the bytes after that which are no record, if any.
    pub(crate) junk_end: Option<u64>,
}

impl Replay {
    /// The state before the first remaining segment.
    pub(crate) fn new(first: &SegmentName, mark: Option<Mark>, options: Options) -> Self {
        let base = if first.seq == 0 { Base::Fixed } else { Base::Unknown };
        Self { base, mark, options, ..Self::default() }
    }

    /// Reads a segment. `last`: no other follows, so a crash may have torn its end.
    pub(crate) fn segment<F: DiskFile>(
        &mut self,
        file: &F,
        segment: &SegmentName,
        last: bool,
    ) -> Result<Tail, WalError> {
        let mut reader = Reader::new(file, &segment.name, self.options.replay_bytes)?;
        let mut offset = 0;
        let mut records = 0_u64;
        let torn = loop {
            let seed = self.crc;
            match reader.step(offset, seed, last)? {
                Step::Record { record, end } => {
                    // Every segment starts with the running crc, then the metadata.
                    if records == 0 && record.kind != kind::CRC
                        || records == 1 && record.kind != kind::METADATA
                    {
                        return Err(WalError::corrupt(
                            &segment.name,
                            offset,
                            "the segment's head is missing",
                        ));
                    }
                    self.record(segment, offset, end, &record)
                        .map_err(|what| WalError::corrupt(&segment.name, offset, what))?;
                    records += 1;
                    self.check_mark(segment, offset, end)?;
                    offset = end;
                }
                Step::End => break None,
                Step::Bad { what, torn: true } => break Some(what),
                Step::Bad { what, torn: false } => {
                    return Err(WalError::corrupt(&segment.name, offset, what));
                }
            }
        };
        if records < 2 {
            return Err(WalError::corrupt(&segment.name, offset, "the segment's head is missing"));
        }
        if !last {
            return Ok(Tail { end: offset, junk_end: None });
        }
        self.check_end(segment, offset)?;
        let junk_end = reader.last_written(offset)?;
        if junk_end.is_some() {
            check_torn(&mut reader, segment, offset, torn, self.options.unsynced_bytes_max)?;
        }
        // A record cut short by the end of the file may consist of zeros only.
        Ok(Tail { end: offset, junk_end: junk_end.or(torn.map(|_| reader.len())) })
    }

    /// The position in the superblock must exist in the log.
    fn check_mark(&self, segment: &SegmentName, offset: u64, end: u64) -> Result<(), WalError> {
        let Some(mark) = self.mark.filter(|mark| mark.seq == segment.seq) else { return Ok(()) };
        let reached = offset < mark.offset && mark.offset <= end;
        if reached && (mark.offset != end || mark.crc != self.crc) {
            let what = "this is not the record that the superblock remembers to be durable here";
            return Err(WalError::corrupt(&segment.name, offset, what));
        }
        Ok(())
    }

    fn check_end(&self, segment: &SegmentName, end: u64) -> Result<(), WalError> {
        match self.mark {
            Some(mark) if (mark.seq, mark.offset) > (segment.seq, end) => {
                let what = format!(
                    "the log ends here, but was durable up to segment {:016x}, offset {}",
                    mark.seq, mark.offset
                );
                Err(WalError::corrupt(&segment.name, end, what))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn record(
        &mut self,
        segment: &SegmentName,
        offset: u64,
        end: u64,
        record: &Record<'_>,
    ) -> Result<(), String> {
        let seed = self.crc;
        match record.kind {
            kind::METADATA => {
                if self.metadata.as_ref().is_some_and(|metadata| metadata != record.data) {
                    return Err("the metadata is not that of the segments before".to_owned());
                }
                self.metadata = Some(Bytes::copy_from_slice(record.data));
            }
            kind::ENTRY => {
                let entry = EntryView::parse(record.data).ok_or("not an entry")?;
                let slot = Slot {
                    offset: u32::try_from(offset).map_err(|_| "the segment is longer than 4 GiB")?,
                    bytes: u32::try_from(end - offset).map_err(|_| "the record is longer than 4 GiB")?,
                    seed,
                };
                self.entry(segment.seq, entry, slot)?;
            }
            kind::STATE => {
                self.state = parse_state(record.data).ok_or("not a hard state")?;
                if self.replacing.is_some_and(|(index, _)| index <= self.state.commit) {
                    self.replace();
                }
            }
            kind::CRC => {
                if seed != 0 && record.crc != seed {
                    return Err("the running checksum is not that of the segment before".to_owned());
                }
            }
            kind::SNAPSHOT => {
                let snapshot = walpb::Snapshot::decode(record.data).map_err(|_| "not a snapshot record")?;
                if snapshot.index() > INDEX_MAX {
                    return Err(format!("a snapshot record of index {}", snapshot.index()));
                }
                self.snapshot(segment, &snapshot);
                self.snapshots.push(snapshot);
            }
            other => return Err(format!("unexpected record type {other}")),
        }
        self.crc = record.crc;
        Ok(())
    }

    fn entry(&mut self, seq: u64, entry: EntryView<'_>, slot: Slot) -> Result<(), String> {
        let whole = Bytes::new();
        if entry.index == 0 || entry.index > INDEX_MAX {
            return Err(format!("an entry of index {}", entry.index));
        }
        if (EntryView { data: &[], ..entry }).to_entry(&whole).is_none() {
            return Err(format!("entry {} is of the unknown kind {}", entry.index, entry.kind));
        }
        if let Some((snapshot, _)) = self.replacing {
            // Either the log continued from the snapshot, or without it: a crash came before the state that commits it.
            if entry.index == snapshot + 1 {
                self.replace();
            }
            self.replacing = None;
        }
        let first = self.index.first();
        match self.base {
            Base::Unknown => self.start_at(&entry),
            Base::FirstEntry if entry.index < first => self.start_at(&entry),
            // As etcd: entries at or below the snapshot are skipped.
            Base::Fixed if entry.index < first => {}
            Base::Fixed | Base::FirstEntry if entry.index > self.index.last() + 1 => {
                return Err(format!("entry {} follows entry {}", entry.index, self.index.last()));
            }
            Base::Fixed | Base::FirstEntry => self.index.put(entry.index, entry.term, seq, slot),
        }
        Ok(())
    }

    fn start_at(&mut self, entry: &EntryView<'_>) {
        self.index.reset(entry.index, entry.term);
        self.base = Base::FirstEntry;
    }

    fn snapshot(&mut self, segment: &SegmentName, snapshot: &walpb::Snapshot) {
        let (index, term) = (snapshot.index(), snapshot.term());
        let replaces = match self.base {
            // An older snapshot, whose segments are gone, does not say where this log begins.
            Base::Unknown => index + 1 >= segment.index,
            Base::Fixed | Base::FirstEntry => {
                index > self.index.last()
                    || index + 1 >= self.index.first() && self.index.term(index) != Some(term)
            }
        };
        self.replacing = replaces.then_some((index, term));
        if replaces && index <= self.state.commit {
            self.replace();
        }
    }

    fn replace(&mut self) {
        if let Some((index, term)) = self.replacing.take() {
            self.index.reset(index, term);
            self.base = Base::Fixed;
        }
    }

    pub(crate) fn replayed(&self) -> Replayed {
        Replayed {
            metadata: self.metadata.clone().unwrap_or_default(),
            hard_state: self.state,
            snapshot: self.newest_snapshot(),
            repaired: None,
        }
    }

    /// The newest valid snapshot record (etcd's `ValidSnapshotEntries`), except the one of an empty log.
    fn newest_snapshot(&self) -> Option<walpb::Snapshot> {
        let counts = |snapshot: &&walpb::Snapshot| snapshot.index() <= self.state.commit;
        self.snapshots.iter().rfind(counts).filter(|snapshot| snapshot.index() > 0).cloned()
    }

    pub(crate) fn finish(&self, segment: &SegmentName, end: u64) -> Result<(), WalError> {
        if self.state.commit > self.index.last() {
            let what = format!(
                "the log ends at entry {}, but entries up to {} were committed",
                self.index.last(),
                self.state.commit
            );
            return Err(WalError::corrupt(&segment.name, end, what));
        }
        Ok(())
    }
}

/// Whether a crash explains what follows the last record: see the head of `segment`.
fn check_torn<F: DiskFile>(
    reader: &mut Reader<'_, F>,
    segment: &SegmentName,
    offset: u64,
    torn: Option<&'static str>,
    unsynced_bytes_max: u64,
) -> Result<(), WalError> {
    let Some(good) = reader.last_good(offset)? else { return Ok(()) };
    // A crash may lose this record's sectors and keep later ones of the same writes. Nothing can follow a record that
    // runs over the end of the file.
    let over_the_end = torn == Some(crate::segment::RUNS_OVER_THE_END);
    let lost_sector = torn.is_some() && !over_the_end || torn.is_none() && reader.sector_is_zero(offset)?;
    if lost_sector && good - offset <= unsynced_bytes_max {
        return Ok(());
    }
    let what = format!("{}, but good records follow up to offset {good}", torn.unwrap_or("no record"));
    Err(WalError::corrupt(&segment.name, offset, what))
}

/// Decodes the frame of one entry, verified with the running crc from the index.
pub(crate) fn read_entry(frame: &Bytes, slot: Slot) -> Option<Entry> {
    let (word, body) = frame.split_first_chunk::<8>()?;
    let (length, _) = crate::frame::split_word(u64::from_le_bytes(*word));
    let record = Record::parse(body.get(..usize::try_from(length).ok()?)?)?;
    if record.kind != kind::ENTRY || record.verify(slot.seed).is_none() {
        return None;
    }
    EntryView::parse(record.data)?.to_entry(frame)
}
