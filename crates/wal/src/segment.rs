//! Reads one segment from its start: where frames end, and what a bad one means.
//!
//! A crash loses whole sectors of unsynced data. etcd's rule (3.7.3 `decoder.go`, `isTornEntry`): in the last segment,
//! a bad record was torn by a crash if one of its 512-byte sector chunks is all zero, or if it runs over the end of the
//! file; any other is damage. So are here: a length word that contradicts the record's head, a bad record below the
//! superblock's position, and good records further behind the bad one than unsynced writes reach.

use crate::disk::DiskFile;
use crate::error::WalError;
use crate::frame::{RECORD_BYTES_MAX, Record, WORD_BYTES, kind, split_word};
use types::varint;

/// What a disk writes atomically, in bytes (etcd's `minSectorSize`).
const SECTOR_BYTES: u64 = 512;

pub(crate) const RUNS_OVER_THE_END: &str = "the record runs over the end of the file";

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// A valid record; its frame ends at `end`.
    Record { record: Record<'a>, end: u64 },
    /// The end of the file, or zeros not yet written.
    End,
    /// Neither a record nor the end.
    Bad { what: &'static str, torn: bool },
}

pub(crate) struct Reader<'a, F> {
    file: &'a F,
    name: &'a str,
    len: u64,
    buffer: Vec<u8>,
    start: u64,
    chunk_bytes: usize,
}

impl<'a, F: DiskFile> Reader<'a, F> {
    pub(crate) fn new(file: &'a F, name: &'a str, chunk_bytes: usize) -> Result<Self, WalError> {
        let len = file.len().map_err(|e| WalError::io("measure", name, e))?;
        Ok(Self { file, name, len, buffer: Vec::new(), start: 0, chunk_bytes })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The bytes at an offset; fewer only at the end of the file.
    pub(crate) fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8], WalError> {
        let length = usize::try_from(self.len.saturating_sub(offset)).map_or(length, |left| left.min(length));
        if offset < self.start || offset + length as u64 > self.start + self.buffer.len() as u64 {
            self.fill(offset, length)?;
        }
        let from = usize::try_from(offset - self.start).expect("an offset into the buffer");
        // The file may have been truncated while it was read.
        let to = (from + length).min(self.buffer.len());
        Ok(&self.buffer[from.min(to)..to])
    }

    fn fill(&mut self, offset: u64, length: usize) -> Result<(), WalError> {
        self.buffer.resize(length.max(self.chunk_bytes), 0);
        self.start = offset;
        let read = self.file.read_up_to(&mut self.buffer, offset);
        self.buffer.truncate(read.map_err(|e| WalError::io("read", self.name, e))?);
        Ok(())
    }

    /// The record at an offset, verified with the running crc before it. `last`: in the last segment.
    pub(crate) fn step(&mut self, offset: u64, seed: u32, last: bool) -> Result<Step<'_>, WalError> {
        let (frame, length) = match self.frame(offset)? {
            Frame::Whole { bytes, length } => (bytes, length),
            Frame::End => return Ok(Step::End),
            Frame::Short { length } => {
                let start = self.bytes(offset, 2 * as_len(SECTOR_BYTES))?;
                let torn =
                    last && start.get(WORD_BYTES..).is_none_or(|body| head_agrees(body, offset, length));
                return Ok(Step::Bad { what: RUNS_OVER_THE_END, torn });
            }
        };
        let end = offset + frame;
        let bytes = self.bytes(offset, as_len(frame))?;
        let Some(body) = bytes.get(WORD_BYTES..) else {
            return Ok(Step::Bad { what: "the file is shorter than it was", torn: false });
        };
        match body.get(..as_len(length)).and_then(Record::parse) {
            Some(record) if record.kind == kind::CRC || record.verify(seed).is_some() => {
                Ok(Step::Record { record, end })
            }
            Some(_) => {
                Ok(Step::Bad { what: "checksum mismatch", torn: last && has_zero_chunk(body, offset) })
            }
            None => Ok(Step::Bad { what: "not a record", torn: last && has_zero_chunk(body, offset) }),
        }
    }

    fn frame(&mut self, offset: u64) -> Result<Frame, WalError> {
        let left = self.len.saturating_sub(offset);
        if left == 0 {
            return Ok(Frame::End);
        }
        let Ok(word) = <[u8; WORD_BYTES]>::try_from(self.bytes(offset, WORD_BYTES)?) else {
            return Ok(Frame::Short { length: 0 });
        };
        let word = u64::from_le_bytes(word);
        if word == 0 {
            return Ok(Frame::End);
        }
        let (length, padding) = split_word(word);
        if length > RECORD_BYTES_MAX as u64 || WORD_BYTES as u64 + length + padding > left {
            return Ok(Frame::Short { length });
        }
        Ok(Frame::Whole { bytes: WORD_BYTES as u64 + length + padding, length })
    }

    /// The end of the last nonzero byte at or after an offset; `None` if only zeros follow.
    pub(crate) fn last_written(&mut self, offset: u64) -> Result<Option<u64>, WalError> {
        let mut last = None;
        let mut at = offset;
        while at < self.len {
            let bytes = self.bytes(at, self.chunk_bytes)?;
            if bytes.is_empty() {
                break;
            }
            if let Some(position) = bytes.iter().rposition(|&byte| byte != 0) {
                last = Some(at + position as u64 + 1);
            }
            at += bytes.len() as u64;
        }
        Ok(last)
    }

    /// The end of the last good record after an offset, verified from the one before it: a lone record cannot be.
    pub(crate) fn last_good(&mut self, offset: u64) -> Result<Option<u64>, WalError> {
        let Some(written) = self.last_written(offset)? else { return Ok(None) };
        let mut good = None;
        let mut at = offset + WORD_BYTES as u64;
        while at < written {
            match self.good_run(at)? {
                Some(end) => {
                    good = Some(end);
                    at = end;
                }
                None => at += WORD_BYTES as u64,
            }
        }
        Ok(good)
    }

    /// The end of two or more adjacent records that start at an offset.
    fn good_run(&mut self, offset: u64) -> Result<Option<u64>, WalError> {
        let mut at = offset;
        let mut seed = None;
        let mut run = None;
        loop {
            // All records start with type and checksum: checked first, as a random length may mean reading megabytes.
            if !matches!(self.bytes(at, 11)?, [.., 0x08, 1..=5, 0x10]) {
                return Ok(run);
            }
            let Frame::Whole { bytes, length } = self.frame(at)? else { return Ok(run) };
            let frame = self.bytes(at, as_len(bytes))?;
            let body = frame.get(WORD_BYTES..WORD_BYTES + as_len(length)).unwrap_or_default();
            let Some(record) =
                Record::parse(body).filter(|r| (kind::METADATA..=kind::SNAPSHOT).contains(&r.kind))
            else {
                return Ok(run);
            };
            at += bytes;
            if let Some(seed) = seed {
                if record.verify(seed).is_none() {
                    return Ok(run);
                }
                run = Some(at);
            }
            seed = Some(record.crc);
        }
    }

    /// Whether the sector that holds an offset is zero from there on, as if never written.
    pub(crate) fn sector_is_zero(&mut self, offset: u64) -> Result<bool, WalError> {
        let rest = self.bytes(offset, as_len(SECTOR_BYTES - offset % SECTOR_BYTES))?;
        Ok(rest.iter().all(|&byte| byte == 0))
    }
}

/// A frame, judged by its length word alone.
enum Frame {
    Whole { bytes: u64, length: u64 },
    End,
    Short { length: u64 },
}

fn as_len(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a length that was checked against the file's")
}

/// The chunks of a frame's body, split at sector boundaries; `offset` is the frame's.
fn chunks(body: &[u8], offset: u64) -> impl Iterator<Item = &[u8]> {
    let first = SECTOR_BYTES - (offset + WORD_BYTES as u64) % SECTOR_BYTES;
    let (head, rest) = body.split_at(body.len().min(as_len(first)));
    std::iter::once(head).filter(|head| !head.is_empty()).chain(rest.chunks(as_len(SECTOR_BYTES)))
}

fn is_zero(chunk: &[u8]) -> bool {
    chunk.iter().all(|&byte| byte == 0)
}

/// Whether a crash tore the record, by etcd's rule.
fn has_zero_chunk(body: &[u8], offset: u64) -> bool {
    chunks(body, offset).any(is_zero)
}

/// Whether the record's head, if on disk, agrees with the length word. A crash cannot tear the word; damage can.
fn head_agrees(body: &[u8], offset: u64, length: u64) -> bool {
    let head = &body[..body.len().min(HEAD_BYTES_MAX)];
    if record_length(head) == Some(length) || chunks(head, offset).any(is_zero) {
        return true;
    }
    // A head at the very end of the file may be incomplete.
    head.len() < HEAD_BYTES_MAX && record_length(head).is_none()
}

/// Type, checksum and length of data, upper bound in bytes.
const HEAD_BYTES_MAX: usize = 2 + 6 + 6;

/// A record's length, from the start of its data field.
fn record_length(head: &[u8]) -> Option<u64> {
    let [0x08, 1..=5, 0x10, rest @ ..] = head else { return None };
    let mut rest = rest;
    varint::take(&mut rest)?;
    if rest.is_empty() {
        return None;
    }
    let [0x1a, data @ ..] = rest else { return Some((head.len() - rest.len()) as u64) };
    let mut rest = data;
    let data = varint::take(&mut rest)?;
    Some((head.len() - rest.len()) as u64 + data)
}
