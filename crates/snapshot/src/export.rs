//! Writes the rows as a database of etcd's, in steps: all buckets twice, first to measure, then to write.

use crate::pieces::Pieces;
use bbolt::{Measured, Measuring, Options, WriteError, Writer};
use engine::Rows;
use machine::buckets::{BUCKETS, Content, MakeEntry};
use std::io::Write;
use std::ops::ControlFlow;

/// What an entry costs a step besides key and value, in bytes: its element in a page.
const ENTRY_BYTES: u64 = 16;

/// Why a snapshot cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The engine failed, or a row cannot be decoded.
    #[error(transparent)]
    Rows(#[from] machine::Fault),
    /// The rows do not fit the file's format.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<engine::Fault> for ExportError {
    fn from(fault: engine::Fault) -> Self {
        Self::Rows(fault.into())
    }
}

/// The first pass, which tells the length of a snapshot before its first byte.
#[derive(Debug)]
pub struct Measure {
    pass: Pass,
    measuring: Measuring,
}

impl Measure {
    /// Begins with the first bucket.
    pub fn begin() -> Self {
        let measuring = Measuring::new(Options::DEFAULT).expect("the default can be written");
        Self { pass: Pass::default(), measuring }
    }

    /// Measures about `bytes` more of the rows, which are the same at every step. Returns whether that is all.
    pub fn step(&mut self, rows: &dyn Rows, bytes: u64) -> Result<bool, ExportError> {
        self.pass.step(rows, &mut self.measuring, bytes)
    }

    /// The layout, after the last step.
    pub fn finish(self) -> Result<Measured, ExportError> {
        Ok(self.measuring.finish()?)
    }
}

/// The second pass, which writes the snapshot that was measured. The bytes do not depend on the length of the steps.
#[derive(Debug)]
pub struct Export {
    pass: Pass,
    /// `None` after the last step, or an error.
    writer: Option<Writer<Pieces>>,
}

/// What one step of an [`Export`] gives.
#[derive(Debug)]
pub struct Exported {
    /// The pieces that are complete, in order, each of [`crate::PIECE_BYTES`] or, at the end, fewer bytes.
    pub pieces: Vec<Vec<u8>>,
    /// Whether these are the last ones, of which a client's very last is the checksum.
    pub is_done: bool,
}

impl Export {
    /// Begins a client's snapshot with the pages before the first bucket. A checksum will follow the last one.
    pub fn begin(measured: &Measured) -> Result<Self, ExportError> {
        Self::into_pieces(Pieces::hashed(), measured)
    }

    /// Begins a peer's snapshot: the same bytes without the checksum, [`Measured::bytes`] in all.
    pub fn begin_for_peer(measured: &Measured) -> Result<Self, ExportError> {
        Self::into_pieces(Pieces::default(), measured)
    }

    fn into_pieces(pieces: Pieces, measured: &Measured) -> Result<Self, ExportError> {
        Ok(Self { pass: Pass::default(), writer: Some(Writer::new(pieces, measured)?) })
    }

    /// Writes about `bytes` more of the rows that were measured.
    pub fn step(&mut self, rows: &dyn Rows, bytes: u64) -> Result<Exported, ExportError> {
        let mut writer = self.writer.take().ok_or(WriteError::Failed)?;
        let is_done = self.pass.step(rows, &mut writer, bytes)?;
        let pieces = if is_done {
            let mut pieces = writer.finish()?;
            pieces.finish();
            pieces.take()
        } else {
            let pieces = writer.output().take();
            self.writer = Some(writer);
            pieces
        };
        Ok(Exported { pieces, is_done })
    }
}

/// What takes buckets and entries.
trait Target {
    fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError>;
    fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError>;
}

impl Target for Measuring {
    fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.bucket(name)
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.entry(key, value.len() as u64)
    }
}

impl<W: Write> Target for Writer<W> {
    fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.bucket(name)
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.entry(key, value)
    }
}

/// A place in the entries of all buckets.
#[derive(Debug, Default)]
struct Pass {
    /// The current bucket's place in [`BUCKETS`].
    bucket: usize,
    /// The first row of the bucket that has not been visited; `None` before the bucket has begun.
    next: Option<Vec<u8>>,
    key: Vec<u8>,
}

impl Pass {
    /// Passes about `bytes` more of entries on, and one at least. Returns whether that was all.
    fn step(&mut self, rows: &dyn Rows, target: &mut dyn Target, bytes: u64) -> Result<bool, ExportError> {
        let mut left = bytes.max(1);
        while let Some(bucket) = BUCKETS.get(self.bucket) {
            match bucket.content {
                Content::Fixed(entries) => {
                    target.bucket(bucket.name.as_bytes())?;
                    for (key, value) in entries {
                        target.entry(key.as_bytes(), value)?;
                    }
                }
                Content::Few(entries) => {
                    target.bucket(bucket.name.as_bytes())?;
                    for (key, value) in entries(rows)? {
                        left = left.saturating_sub(cost(&key, &value));
                        target.entry(&key, &value)?;
                    }
                }
                Content::Each { family, from, to, entry } => {
                    if self.next.is_none() {
                        target.bucket(bucket.name.as_bytes())?;
                        self.next = Some(from.to_vec());
                    }
                    let range = Range { family, to, entry };
                    if !self.each(&range, rows, target, &mut left)? {
                        return Ok(false);
                    }
                }
            }
            (self.bucket, self.next) = (self.bucket + 1, None);
        }
        Ok(true)
    }

    /// Passes on the rows of a bucket from the next one on; returns whether it reached the last.
    fn each(
        &mut self,
        range: &Range,
        rows: &dyn Rows,
        target: &mut dyn Target,
        left: &mut u64,
    ) -> Result<bool, ExportError> {
        let from = self.next.take().unwrap_or_default();
        let (next, entry_key) = (&mut self.next, &mut self.key);
        let mut failed = None;
        rows.scan(range.family, &from, range.to, &mut |key, row| {
            if *left == 0 {
                *next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            let passed = (range.entry)(key, row, entry_key).map_err(ExportError::from).and_then(|value| {
                *left = left.saturating_sub(cost(entry_key, &value));
                Ok(target.entry(entry_key, &value)?)
            });
            match passed {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(self.next.is_none()), Err)
    }
}

/// The rows of a bucket.
struct Range {
    family: engine::Family,
    to: Option<&'static [u8]>,
    entry: MakeEntry,
}

fn cost(key: &[u8], value: &[u8]) -> u64 {
    ENTRY_BYTES + (key.len() + value.len()) as u64
}
