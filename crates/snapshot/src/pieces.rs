//! Cuts a snapshot into the messages of its stream.

use sha2::{Digest as _, Sha256};
use std::io::{self, Write};

/// One piece of a stream, in bytes: etcd's `snapshotSendBufferSize`.
pub const PIECE_BYTES: usize = 32 << 10;

/// Cuts the bytes into pieces of [`PIECE_BYTES`]; the last one may be shorter. A client's are hashed.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    piece: Vec<u8>,
    sum: Option<Sha256>,
    ready: Vec<Vec<u8>>,
}

impl Pieces {
    /// Pieces that end with a checksum.
    pub(crate) fn hashed() -> Self {
        Self { sum: Some(Sha256::new()), ..Self::default() }
    }

    /// Removes the complete pieces.
    pub(crate) fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.ready)
    }

    /// Ends the snapshot: the rest becomes a piece, and the SHA-256 of everything, if asked for, the last one.
    pub(crate) fn finish(&mut self) {
        if !self.piece.is_empty() {
            self.cut();
        }
        self.ready.extend(self.sum.take().map(|sum| sum.finalize().to_vec()));
    }

    fn cut(&mut self) {
        if let Some(sum) = &mut self.sum {
            sum.update(&self.piece);
        }
        self.ready.push(std::mem::take(&mut self.piece));
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut left = bytes;
        while !left.is_empty() {
            let (now, later) = left.split_at(left.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.reserve_exact(PIECE_BYTES - self.piece.len());
            self.piece.extend_from_slice(now);
            if self.piece.len() == PIECE_BYTES {
                self.cut();
            }
            left = later;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
