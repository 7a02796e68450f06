//! The boundary between what is written and how: rows in, bytes out, in pieces as etcd sends them.
//!
//! A snapshot is written a step at a time, so that nobody's thread is held while a client takes what there is.

use engine::{Fault, Rows};
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;

/// Snapshots are a multiple of this, in bytes: etcd's tools tell by it whether a checksum follows.
pub const SECTOR_BYTES: u64 = 512;

/// One piece of a stream, in bytes: etcd's `snapshotSendBufferSize`.
pub const PIECE_BYTES: usize = 32 << 10;

/// A layout of snapshots. The same bytes for the same rows, a whole number of [`SECTOR_BYTES`].
pub trait Format: Send + Sync {
    /// Begins a snapshot.
    fn begin(&self) -> Box<dyn Writing>;
}

/// A snapshot on its way. The bytes do not depend on how long the steps are.
pub trait Writing: Send {
    /// Writes on, for about so many bytes, from rows that are the same at every step; whether that was all.
    fn step(&mut self, rows: &dyn Rows, out: &mut dyn Sink, bytes: u64) -> Result<bool, Fault>;
}

/// Where the bytes go.
pub trait Sink {
    /// Takes the next bytes.
    fn put(&mut self, bytes: &[u8]);
}

/// Counts bytes: the same rows give the same snapshot, so its length is known before it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter(pub u64);

impl Sink for Counter {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
    }
}

/// Cuts what it is given into pieces of [`PIECE_BYTES`] and sums it up; the last piece may be shorter.
#[derive(Debug, Default)]
pub struct Pieces {
    piece: Vec<u8>,
    sum: Sha256,
    ready: VecDeque<Vec<u8>>,
}

impl Pieces {
    /// The next piece that is whole.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        self.ready.pop_front()
    }

    /// There are no more bytes: what is left becomes a piece, and the SHA-256 of all of it one of its own.
    pub fn finish(&mut self) {
        if !self.piece.is_empty() {
            self.cut();
        }
        self.ready.push_back(self.sum.finalize_reset().to_vec());
    }

    fn cut(&mut self) {
        self.sum.update(&self.piece);
        self.ready.push_back(std::mem::take(&mut self.piece));
    }
}

impl Sink for Pieces {
    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.reserve_exact(PIECE_BYTES - self.piece.len());
            self.piece.extend_from_slice(now);
            if self.piece.len() == PIECE_BYTES {
                self.cut();
            }
            bytes = later;
        }
    }
}
