//! Creating and opening a log: what it holds, whether it is whole, and what a crash left behind.

use crate::disk::{Disk, DiskFile};
use crate::error::WalError;
use crate::files::{Segment, SegmentName, publish};
use crate::frame;
use crate::index::LogIndex;
use crate::options::Options;
use crate::replay::{Repair, Replay, Replayed, Tail};
use crate::superblock::Superblock;
use crate::wal::Wal;
use bytes::Bytes;
use prost::Message;
use proto::walpb;
use std::collections::VecDeque;
use types::HardState;
use types::mutant::{Mutant, is};

impl<D: Disk> Wal<D> {
    /// Whether the directory holds a log.
    pub fn exists(disk: &D) -> Result<bool, WalError> {
        Ok(!segments_of(disk)?.is_empty())
    }

    /// Creates an empty log. It is complete when this returns; if a crash comes before, it does not exist.
    pub fn create(disk: D, metadata: &[u8]) -> Result<Self, WalError> {
        Self::create_with(disk, metadata, Options::default())
    }

    /// [`Wal::create`] with other limits.
    pub fn create_with(disk: D, metadata: &[u8], options: Options) -> Result<Self, WalError> {
        if Self::exists(&disk)? {
            return Err(WalError::Exists);
        }
        let superblock = Superblock::create(&disk)?;
        let mut buffer = Vec::new();
        frame::push_crc(&mut buffer, 0);
        let crc = frame::push_metadata(&mut buffer, 0, metadata);
        // etcd's readers look for the snapshot record that they start from, so an empty log has one too.
        let none = walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None };
        let crc = frame::push_snapshot(&mut buffer, crc, &none.encode_to_vec());
        let segment = publish(&disk, SegmentName::new(0, 0), &buffer, options)?;
        let mut wal = Self {
            disk,
            options,
            metadata: Bytes::copy_from_slice(metadata),
            segments: VecDeque::from([segment]),
            end: buffer.len() as u64,
            durable: buffer.len() as u64,
            needed: 0,
            written_bytes: 0,
            crc,
            end_crc: crc,
            state: HardState::default(),
            uncommitted_snapshot: None,
            index: LogIndex::default(),
            superblock,
            superblock_behind_bytes: 0,
            buffer: Vec::new(),
            failed: false,
        };
        // Synced together with the first record: a log that lost its head is refused anyway.
        wal.remember(0)?;
        Ok(wal)
    }

    /// Opens the log and reads all of it; everything read is durable on return. An end torn by a crash is repaired;
    /// any other damage is refused, and nothing is changed.
    pub fn open(disk: D) -> Result<(Self, Replayed), WalError> {
        Self::open_with(disk, Options::default())
    }

    /// What [`Wal::open`] would find, without changing anything on disk.
    pub fn inspect(disk: &D) -> Result<Inspected, WalError> {
        let Read { replay, .. } = read(disk, Options::default())?;
        Ok(Inspected { replayed: replay.replayed(), index: replay.index })
    }

    /// [`Wal::open`] with other limits; existing segments may have any length.
    pub fn open_with(disk: D, options: Options) -> Result<(Self, Replayed), WalError> {
        let Read { mut segments, superblock, replay, tail } = read(&disk, options)?;
        let last = segments.back_mut().expect("there is at least one segment");
        let repaired = repair(&disk, last, &tail, options.replay_bytes)?;
        let length = last.file.len().map_err(|e| WalError::io("measure", &last.name, e))?;
        if length < options.segment_bytes {
            last.file.set_len(options.segment_bytes).map_err(|e| WalError::io("lengthen", &last.name, e))?;
        }
        let superblock = match superblock {
            Some(superblock) => superblock,
            None => Superblock::create(&disk)?,
        };
        let replayed = Replayed { repaired, ..replay.replayed() };
        let mut wal = Self {
            disk,
            options,
            metadata: replayed.metadata.clone(),
            segments,
            end: tail.end,
            durable: 0,
            // Sync everything read: a killed process may have left it unsynced.
            needed: tail.end,
            written_bytes: 0,
            crc: replay.crc,
            end_crc: replay.crc,
            state: replay.state,
            uncommitted_snapshot: None,
            index: replay.index,
            superblock,
            superblock_behind_bytes: 0,
            buffer: Vec::new(),
            failed: false,
        };
        // Names first: the superblock, which a sync writes, must not know of a segment whose name a crash may take.
        wal.sync_names()?;
        if !is(Mutant::SkipSyncAtStart) {
            wal.sync()?;
        }
        wal.superblock.sync()?;
        Ok((wal, replayed))
    }
}

/// A log as it was found: see [`Wal::inspect`].
#[derive(Debug)]
pub struct Inspected {
    /// What it holds besides entries.
    pub replayed: Replayed,
    /// Which entries it has, and of which terms.
    pub index: LogIndex,
}

struct Read<F> {
    segments: VecDeque<Segment<F>>,
    superblock: Option<Superblock<F>>,
    replay: Replay,
    tail: Tail,
}

fn read<D: Disk>(disk: &D, options: Options) -> Result<Read<D::File>, WalError> {
    let names = segments_of(disk)?;
    let [first, ..] = &names[..] else { return Err(WalError::NotFound) };
    check_consecutive(&names)?;
    let mut segments = VecDeque::new();
    for name in &names {
        let file = disk.open(&name.name).map_err(|e| WalError::io("open", &name.name, e))?;
        segments.push_back(Segment { seq: name.seq, name: name.name.clone(), file });
    }
    let (superblock, mark) = Superblock::open(disk)?.unzip();
    let mut replay = Replay::new(first, mark.flatten(), options);
    let mut tail = Tail { end: 0, junk_end: None };
    for (n, (name, segment)) in names.iter().zip(&segments).enumerate() {
        tail = replay.segment(&segment.file, name, n + 1 == names.len())?;
    }
    replay.finish(&names[names.len() - 1], tail.end)?;
    Ok(Read { segments, superblock, replay, tail })
}

fn segments_of<D: Disk>(disk: &D) -> Result<Vec<SegmentName>, WalError> {
    let names = disk.list().map_err(|e| WalError::io("list", "the directory", e))?;
    let mut segments: Vec<_> = names.iter().filter_map(|name| SegmentName::parse(name)).collect();
    segments.sort_by_key(|segment| (segment.seq, segment.index));
    Ok(segments)
}

fn check_consecutive(names: &[SegmentName]) -> Result<(), WalError> {
    for pair in names.windows(2) {
        if pair[1].seq != pair[0].seq + 1 {
            let what =
                format!("segment {:016x} should come before it and is missing", pair[1].seq.wrapping_sub(1));
            return Err(WalError::corrupt(&pair[1].name, 0, what));
        }
    }
    Ok(())
}

/// Moves what follows the last good record to another file and zeroes it, so that no remains follow the next write.
fn repair<D: Disk>(
    disk: &D,
    last: &mut Segment<D::File>,
    tail: &Tail,
    chunk_bytes: usize,
) -> Result<Option<Repair>, WalError> {
    let Some(junk_end) = tail.junk_end else { return Ok(None) };
    let broken = format!("{}.broken", last.name);
    let mut copy = disk.create(&broken, 0).map_err(|e| WalError::io("create", &broken, e))?;
    let mut chunk = vec![0; chunk_bytes];
    let mut at = tail.end;
    while at < junk_end {
        let length = usize::try_from(junk_end - at).map_or(chunk.len(), |left| left.min(chunk.len()));
        let read =
            last.file.read_at(&mut chunk[..length], at).map_err(|e| WalError::io("read", &last.name, e))?;
        if read == 0 {
            break;
        }
        copy.write_at(&chunk[..read], at - tail.end).map_err(|e| WalError::io("write", &broken, e))?;
        at += read as u64;
    }
    copy.sync().map_err(|e| WalError::io("sync", &broken, e))?;
    disk.sync_dir().map_err(|e| WalError::io("sync", "the directory", e))?;
    // Synced with everything that was read, before the first write.
    last.file.set_len(tail.end).map_err(|e| WalError::io("cut", &last.name, e))?;
    Ok(Some(Repair { file: last.name.clone(), offset: tail.end, bytes: junk_end - tail.end }))
}
