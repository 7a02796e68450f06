//! The boundary between what is written and how: rows in, bytes out, in pieces as etcd sends them.

use engine::{Fault, Rows};
use sha2::{Digest as _, Sha256};

/// Snapshots are a multiple of this, in bytes: etcd's tools tell by it whether a checksum follows.
pub const SECTOR_BYTES: u64 = 512;

/// One piece of a stream, in bytes: etcd's `snapshotSendBufferSize`.
pub const PIECE_BYTES: usize = 32 << 10;

/// A layout of snapshots. Writes the same bytes for the same rows, a whole number of [`SECTOR_BYTES`].
pub trait Format: Send + Sync {
    /// Writes everything.
    fn write(&self, rows: &dyn Rows, out: &mut dyn Sink) -> Result<(), WriteError>;
}

/// Where the bytes go.
pub trait Sink {
    /// Takes the next bytes. May wait; says so when nobody wants them any more.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Gone>;
}

/// Nobody takes the bytes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes the snapshot any more")]
pub struct Gone;

/// Why a snapshot was not written to its end.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The engine cannot be read.
    #[error(transparent)]
    Engine(#[from] Fault),
    /// The other end is away.
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// How long the snapshot of these rows is, in bytes, without its checksum. Reads all of them.
pub fn length(format: &dyn Format, rows: &dyn Rows) -> Result<u64, WriteError> {
    struct Count(u64);
    impl Sink for Count {
        fn put(&mut self, bytes: &[u8]) -> Result<(), Gone> {
            self.0 += bytes.len() as u64;
            Ok(())
        }
    }
    let mut count = Count(0);
    format.write(rows, &mut count)?;
    Ok(count.0)
}

/// Cuts what it is given into pieces of [`PIECE_BYTES`] and sums it up; the last piece may be shorter.
pub struct Pieces<F> {
    piece: Vec<u8>,
    sum: Sha256,
    send: F,
}

impl<F: FnMut(Vec<u8>) -> Result<(), Gone>> Pieces<F> {
    /// Hands each piece to `send`.
    pub fn new(send: F) -> Self {
        Self { piece: Vec::with_capacity(PIECE_BYTES), sum: Sha256::new(), send }
    }

    /// Sends what is left, then the SHA-256 of all of it as a piece of its own.
    pub fn finish(mut self) -> Result<(), Gone> {
        if !self.piece.is_empty() {
            self.flush()?;
        }
        (self.send)(self.sum.finalize().to_vec())
    }

    fn flush(&mut self) -> Result<(), Gone> {
        self.sum.update(&self.piece);
        (self.send)(std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES)))
    }
}

impl<F: FnMut(Vec<u8>) -> Result<(), Gone>> Sink for Pieces<F> {
    fn put(&mut self, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(now);
            if self.piece.len() == PIECE_BYTES {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }
}
