//! The interface of a snapshot's layout: rows in, bytes out, in steps, so that no thread is occupied by a slow client.

use crate::PIECE_BYTES;
use engine::{Fault, Rows};
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;

/// A snapshot's length is a multiple of this, in bytes: etcd's tools see by it whether a checksum follows.
pub const SECTOR_BYTES: u64 = 512;

/// A layout of snapshots. Equal rows give equal bytes, a whole number of [`SECTOR_BYTES`].
pub trait Format: Send + Sync {
    /// Begins to write a snapshot.
    fn begin(&self) -> Box<dyn Writing>;
}

/// A snapshot that is being written. The bytes do not depend on the length of the steps.
pub trait Writing: Send {
    /// Writes about `bytes` more, from rows that are the same at every step; returns whether that is all.
    fn step(&mut self, rows: &dyn Rows, out: &mut dyn Sink, bytes: u64) -> Result<bool, Fault>;
}

/// The destination of the bytes.
pub trait Sink {
    /// Accepts the next bytes.
    fn put(&mut self, bytes: &[u8]);
}

/// Counts bytes. Equal rows give equal snapshots, so this tells a snapshot's length before it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter(pub u64);

impl Sink for Counter {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
    }
}

/// Cuts the bytes into pieces of [`PIECE_BYTES`] and hashes them; the last piece may be shorter.
#[derive(Debug, Default)]
pub struct Pieces {
    piece: Vec<u8>,
    sum: Sha256,
    ready: VecDeque<Vec<u8>>,
}

impl Pieces {
    /// Removes the next complete piece.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        self.ready.pop_front()
    }

    /// Ends the snapshot: the rest becomes a piece, and the SHA-256 of everything the last one.
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
