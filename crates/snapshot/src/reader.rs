//! Reads quorate's own layout a block at a time, and fills an engine with it.

use crate::SECTOR_BYTES;
use crate::native::{BLOCK_HEAD_BYTES, END, MAGIC, ORDER, ROWS, VERSION, number};
use engine::{Batch, Engine, Family, Fault};
use std::io::{self, Read};
use types::varint;

/// The longest block, in bytes: one row, and a row fits an entry of the log, which has at most 1 GiB.
const BLOCK_BYTES_MAX: u32 = 1 << 30;

/// Size of one engine batch, in bytes of keys and values.
const BATCH_BYTES: usize = 1 << 20;

/// The offset of the magic number in a bbolt meta page: by it a snapshot of etcd's is recognized.
const BBOLT_MAGIC_AT: usize = 16;
const BBOLT_MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading the input failed.
    #[error("cannot read the snapshot: {0}")]
    Io(#[from] io::Error),
    /// It is no snapshot.
    #[error("this is no snapshot")]
    Unknown,
    /// It is a snapshot of etcd's.
    #[error("this is a snapshot of etcd (a bbolt file), which this version of quorate cannot read yet")]
    Bbolt,
    /// A later version of quorate made it.
    #[error("the snapshot has format {0}, and this version of quorate reads format {VERSION}")]
    Version(u32),
    /// It was cut, or a bit changed.
    #[error("the snapshot is damaged at offset {offset}: {what}")]
    Damaged {
        /// The offset of the damage, in bytes.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
}

/// Called with each row; an error ends the reading.
pub type Visit<'a, E> = dyn FnMut(Family, &[u8], &[u8]) -> Result<(), E> + 'a;

/// Reads the blocks of a snapshot in order.
pub struct Reader<R> {
    input: R,
    offset: u64,
    sum: u32,
    counts: [u64; Family::ALL.len()],
    at: usize,
    payload: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the head. `input` ends where the snapshot does, before the checksum.
    pub fn new(input: R) -> Result<Self, ReadError> {
        let mut reader =
            Self { input, offset: 0, sum: 0, counts: [0; Family::ALL.len()], at: 0, payload: Vec::new() };
        let mut head = [0; MAGIC.len() + 4];
        if reader.fill(&mut head).is_err() {
            return Err(ReadError::Unknown);
        }
        if head[..MAGIC.len()] != *MAGIC {
            let is_bbolt = head[BBOLT_MAGIC_AT..].starts_with(&BBOLT_MAGIC);
            return Err(if is_bbolt { ReadError::Bbolt } else { ReadError::Unknown });
        }
        let version = u32::from_be_bytes(head[MAGIC.len()..].try_into().expect("four bytes are left"));
        if version != VERSION {
            return Err(ReadError::Version(version));
        }
        reader.check_sum(&head)?;
        Ok(reader)
    }

    /// The bytes read so far, for progress reports.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Passes the next block's rows to `visit`. Returns false after the last block, if the file ends where it should.
    pub fn next_block<E: From<ReadError>>(&mut self, visit: &mut Visit<'_, E>) -> Result<bool, E> {
        let start = self.offset;
        let (kind, family, rows) = self.read_block()?;
        let payload = std::mem::take(&mut self.payload);
        if kind == END {
            self.finish(start, &payload)?;
            return Ok(false);
        }
        let family = self.family(start, kind, family)?;
        let damaged = |what| ReadError::Damaged { offset: start, what };
        let mut rest = &payload[..];
        for _ in 0..rows {
            let (Some(key), Some(value)) = (take_part(&mut rest), take_part(&mut rest)) else {
                return Err(damaged("a row runs over its block").into());
            };
            visit(family, key, value)?;
        }
        if !rest.is_empty() {
            return Err(damaged("a block has more than its rows").into());
        }
        self.counts[usize::from(number(family))] += u64::from(rows);
        self.payload = payload;
        Ok(true)
    }

    fn read_block(&mut self) -> Result<(u8, u8, u32), ReadError> {
        let start = self.offset;
        let mut head = [0; BLOCK_HEAD_BYTES];
        self.fill(&mut head)?;
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let (rows, length) = (word(2), word(6));
        if length > BLOCK_BYTES_MAX {
            return Err(ReadError::Damaged { offset: start, what: "a block of more than 1 GiB" });
        }
        self.payload.clear();
        // Grows with what is there, not with what the length says.
        let got = self.input.by_ref().take(length.into()).read_to_end(&mut self.payload)?;
        self.offset += got as u64;
        if got as u64 != u64::from(length) {
            return Err(ReadError::Damaged { offset: self.offset, what: "it ends inside a block" });
        }
        let payload = std::mem::take(&mut self.payload);
        self.sum = crc32c::crc32c_append(self.sum, &head);
        self.check_sum(&payload)?;
        self.payload = payload;
        Ok((head[0], head[1], rows))
    }

    fn family(&mut self, start: u64, kind: u8, family: u8) -> Result<Family, ReadError> {
        let damaged = |what| ReadError::Damaged { offset: start, what };
        if kind != ROWS {
            return Err(damaged("a block of an unknown kind"));
        }
        let known = |wanted: &&Family| number(**wanted) == family;
        let place = ORDER.iter().position(|wanted| known(&wanted)).ok_or(damaged("a block of no family"))?;
        if place < self.at {
            return Err(damaged("a family out of its order"));
        }
        self.at = place;
        Ok(ORDER[place])
    }

    fn finish(&mut self, start: u64, payload: &[u8]) -> Result<(), ReadError> {
        let counted: Vec<u8> = self.counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        if payload != counted {
            return Err(ReadError::Damaged { offset: start, what: "it does not hold the rows that it says" });
        }
        let (at, mut rest) = (self.offset, Vec::new());
        self.input.by_ref().take(SECTOR_BYTES).read_to_end(&mut rest)?;
        self.offset += rest.len() as u64;
        if !self.offset.is_multiple_of(SECTOR_BYTES)
            || rest.len() as u64 >= SECTOR_BYTES
            || rest.iter().any(|byte| *byte != 0)
        {
            return Err(ReadError::Damaged { offset: at, what: "it does not end where it should" });
        }
        Ok(())
    }

    fn check_sum(&mut self, summed: &[u8]) -> Result<(), ReadError> {
        self.sum = crc32c::crc32c_append(self.sum, summed);
        let (at, mut sum) = (self.offset, [0; 4]);
        self.fill(&mut sum)?;
        if sum == self.sum.to_be_bytes() {
            Ok(())
        } else {
            Err(ReadError::Damaged { offset: at, what: "a checksum is wrong" })
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ReadError> {
        match self.input.read_exact(buffer) {
            Ok(()) => {
                self.offset += buffer.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ReadError::Damaged { offset: self.offset, what: "it ends too early" })
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn take_part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint::take(rest)?).ok()?;
    let (part, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(part)
}

/// Why an engine could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The snapshot cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The engine cannot be written to.
    #[error(transparent)]
    Engine(#[from] Fault),
}

/// Writes all rows into an empty engine, durably; after an error it holds a part. `progress`: bytes read so far.
pub fn load<R: Read>(
    mut reader: Reader<R>,
    engine: &dyn Engine,
    progress: &mut dyn FnMut(u64),
) -> Result<(), LoadError> {
    let (mut batch, mut bytes) = (Batch::default(), 0);
    let mut more = true;
    while more {
        more = reader.next_block(&mut |family, key, value| {
            bytes += key.len() + value.len();
            batch.put(family, key.to_vec(), value.to_vec());
            if bytes >= BATCH_BYTES {
                bytes = 0;
                engine.write(std::mem::take(&mut batch))?;
            }
            Ok::<_, LoadError>(())
        })?;
        progress(reader.offset());
    }
    if !batch.is_empty() {
        engine.write(batch)?;
    }
    Ok(engine.flush()?)
}
