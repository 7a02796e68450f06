//! A snapshot file as clients save it: the snapshot, then its checksum.

use bbolt::ReadAt;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Seek, SeekFrom};

/// A snapshot's length is a multiple of this, in bytes: etcd's tools see by it whether a checksum follows.
const SECTOR_BYTES: u64 = 512;

/// The checksum behind a snapshot, in bytes: a SHA-256.
pub const HASH_BYTES: usize = 32;

/// Buffer for hashing, in bytes.
const READ_BYTES: usize = 256 << 10;

/// Why a file is refused as a saved snapshot. The texts are etcd's (`etcdutl snapshot restore`).
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Reading the file failed.
    #[error("cannot read the snapshot: {0}")]
    Io(#[from] io::Error),
    /// It has no checksum: it was cut, or not made by `snapshot save`.
    #[error("snapshot missing hash but --skip-hash-check=false")]
    NoHash,
    /// The checksum differs: the file was changed.
    #[error("expected sha256 {expected}, got {found}")]
    WrongHash {
        /// The checksum in the file, as Go prints bytes.
        expected: String,
        /// The checksum of the file's content.
        found: String,
    },
}

/// A snapshot whose checksum is right or was not verified: the file without it.
#[derive(Debug)]
pub struct Verified<F> {
    file: F,
    bytes: u64,
}

impl<F: ReadAt> ReadAt for Verified<F> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }
}

/// Verifies a whole file; with `skip_hash` it only finds where the snapshot ends.
pub fn verify<F: Read + Seek>(mut file: F, skip_hash: bool) -> Result<Verified<F>, FileError> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let has_hash = length % SECTOR_BYTES == HASH_BYTES as u64;
    if !has_hash && !skip_hash {
        return Err(FileError::NoHash);
    }
    let bytes = if has_hash { length - HASH_BYTES as u64 } else { length };
    if !skip_hash {
        let found = sum(&mut file, bytes)?;
        let mut expected = [0; HASH_BYTES];
        file.read_exact(&mut expected)?;
        if expected != found[..] {
            return Err(FileError::WrongHash { expected: show(&expected), found: show(&found) });
        }
    }
    Ok(Verified { file, bytes })
}

fn sum(file: &mut impl Read, bytes: u64) -> io::Result<Vec<u8>> {
    let (mut sum, mut left, mut buffer) = (Sha256::new(), bytes, vec![0; READ_BYTES]);
    while left > 0 {
        let wanted = usize::try_from(left).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        file.read_exact(&mut buffer[..wanted])?;
        sum.update(&buffer[..wanted]);
        left -= wanted as u64;
    }
    Ok(sum.finalize().to_vec())
}

/// Formats bytes like Go's `%v`.
fn show(bytes: &[u8]) -> String {
    let numbers: Vec<String> = bytes.iter().map(ToString::to_string).collect();
    format!("[{}]", numbers.join(" "))
}
