//! gzip for clients that compress: decompresses their messages, and compresses responses as grpc-go does.
//!
//! Longer messages go to a blocking thread in steps, each with its own permit: no message delays another by more than a
//! step, and work for a disconnected client ends with its current step. The decompressed length is bounded as usual.
//!
//! ```text
//! message ─▶ short? ─ yes ─▶ here
//!                   └ no ──▶ permit ─▶ blocking thread, one step ─▶ permit ─▶ …
//! ```

use crate::{
    feed::{FRAME_BYTES, Feed},
    frame::PREFIX_BYTES,
    metrics::Call,
};
use bytes::{Buf, BufMut, Bytes, BytesMut, buf::Reader};
use flate2::{
    Compress, Compression as Level, Crc, FlushCompress, Status as Progress, bufread::MultiGzDecoder,
};
use std::{
    cell::RefCell,
    future::Future,
    io::{self, Read},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::sync::Semaphore;
use tonic::Status;

pub(crate) const NAME: &str = "gzip";

/// RFC 1952: magic, deflate, no flags, no time, fastest, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
/// Length of the trailer: checksum and message length.
const TRAILER_BYTES: usize = 8;
/// Initial capacity of a compressed message, beyond a quarter of the plain length.
const ROOM_BYTES: usize = 256;
const CHUNK_BYTES: usize = 16 << 10;

/// Where compression runs. All clients of a member share these limits.
#[derive(Clone, Debug)]
pub struct Compression {
    /// Messages up to this size are processed in place, in bytes. Default 32 KiB: some 300 µs.
    pub inline_bytes: usize,
    /// Bytes of one step on a blocking thread. Default 1 MiB: some ten milliseconds.
    pub step_bytes: usize,
    /// Steps running at one time; more wait. Default 2, as for long reads.
    pub turns: usize,
    /// Largest compressed size of a response compressed while it is read, in bytes; a longer one is sent plain, since
    /// all of it would be held to know its length. Default 16 MiB.
    pub held_bytes_max: usize,
}

impl Default for Compression {
    fn default() -> Self {
        Self { inline_bytes: 32 << 10, step_bytes: 1 << 20, turns: 2, held_bytes_max: 16 << 20 }
    }
}

thread_local! {
    /// Reused: its tables take 256 KiB, too much to build for each response.
    static PACKER: RefCell<Option<Compress>> = const { RefCell::new(None) };
}

#[derive(Debug)]
pub(crate) struct Zip {
    limits: Compression,
    turns: Arc<Semaphore>,
}

trait Job: Send + 'static {
    /// Processes about `bytes` more; returns the result once it is complete.
    fn step(&mut self, bytes: usize) -> Result<Option<Bytes>, Status>;
}

impl Zip {
    pub(crate) fn new(limits: Compression) -> Self {
        let turns = Arc::new(Semaphore::new(limits.turns));
        Self { limits, turns }
    }

    /// Decompresses a message; fails if it exceeds `max_bytes`.
    pub(crate) async fn unpack(&self, packed: Bytes, max_bytes: usize) -> Result<Bytes, Status> {
        let is_short = packed.len() <= self.limits.inline_bytes;
        let mut job = Unpack::new(packed, max_bytes);
        if is_short && let Some(message) = job.step(self.limits.inline_bytes)? {
            return Ok(message);
        }
        self.run(job).await
    }

    /// Compresses a message with its prefix; an empty one stays as it is.
    pub(crate) async fn pack(&self, message: Bytes) -> Result<Bytes, Status> {
        match self.pack_short(&message) {
            Some(packed) => packed,
            None => self.run(Pack::new(message, Compress::new(Level::fast(), false))).await,
        }
    }

    fn pack_short(&self, message: &Bytes) -> Option<Result<Bytes, Status>> {
        if message.len() > self.limits.inline_bytes {
            return None;
        }
        if message.len() <= PREFIX_BYTES {
            return Some(Ok(message.clone()));
        }
        PACKER.with_borrow_mut(|packer| {
            let compress = packer.take().unwrap_or_else(|| Compress::new(Level::fast(), false));
            let mut job = Pack::new(message.clone(), compress);
            let packed = job.step(usize::MAX);
            job.compress.reset();
            *packer = Some(job.compress);
            packed.transpose()
        })
    }

    async fn run<J: Job>(&self, mut job: J) -> Result<Bytes, Status> {
        loop {
            let (back, result) = self.step(job, self.limits.step_bytes).await?;
            if let Some(bytes) = result {
                return Ok(bytes);
            }
            job = back;
        }
    }

    async fn step<J: Job>(&self, mut job: J, bytes: usize) -> Result<(J, Option<Bytes>), Status> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.expect("the semaphore is never closed");
        let step = move || {
            let result = job.step(bytes);
            drop(turn);
            (job, result)
        };
        let stepped = tokio::task::spawn_blocking(step).await;
        let (back, result) =
            stepped.map_err(|error| Status::unknown(format!("compression ended early: {error}")))?;
        Ok((back, result?))
    }

    /// Compresses the next piece of a message, whose first piece starts with the prefix.
    pub(crate) async fn add(
        &self,
        packing: Option<Pack>,
        mut piece: Bytes,
        is_last: bool,
    ) -> Result<Added, Status> {
        let packing = packing.unwrap_or_else(|| {
            piece.advance(PREFIX_BYTES);
            Pack::empty(piece.len(), Compress::new(Level::fast(), false))
        });
        let packing = Pack { rest: piece, is_last, ..packing };
        let (packing, packed) = self.step(packing, usize::MAX).await?;
        Ok(match packed {
            Some(packed) => Added::Whole(packed),
            None if packing.out.len() > self.limits.held_bytes_max => Added::TooMuch,
            None => Added::More(packing),
        })
    }
}

pub(crate) enum Added {
    More(Pack),
    /// The complete compressed message, with its prefix.
    Whole(Bytes),
    /// The result exceeds [`Compression::held_bytes_max`].
    TooMuch,
}

pub(crate) struct Pack {
    rest: Bytes,
    /// Whether `rest` ends the message.
    is_last: bool,
    compress: Compress,
    crc: Crc,
    out: Vec<u8>,
}

impl Pack {
    fn new(mut message: Bytes, compress: Compress) -> Self {
        message.advance(PREFIX_BYTES);
        Self { rest: message.clone(), is_last: true, ..Self::empty(message.len(), compress) }
    }

    /// An empty message with capacity for `bytes` compressed.
    fn empty(bytes: usize, compress: Compress) -> Self {
        let mut out = Vec::with_capacity(PREFIX_BYTES + HEADER.len() + ROOM_BYTES + bytes / 4);
        out.put_bytes(0, PREFIX_BYTES);
        out.put_slice(&HEADER);
        Self { rest: Bytes::new(), is_last: false, compress, crc: Crc::new(), out }
    }

    fn finish(&mut self) -> Result<Bytes, Status> {
        self.out.put_u32_le(self.crc.sum());
        self.out.put_u32_le(self.crc.amount());
        let mut packed = std::mem::take(&mut self.out);
        let length = packed.len() - PREFIX_BYTES;
        let length = u32::try_from(length)
            .map_err(|_| Status::resource_exhausted(format!("grpc: message too large ({length} bytes)")))?;
        packed[0] = 1;
        packed[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        Ok(packed.into())
    }
}

impl Job for Pack {
    fn step(&mut self, bytes: usize) -> Result<Option<Bytes>, Status> {
        let mut piece = self.rest.split_to(bytes.min(self.rest.len()));
        self.crc.update(&piece);
        let is_end = self.is_last && self.rest.is_empty();
        let flush = if is_end { FlushCompress::Finish } else { FlushCompress::None };
        loop {
            self.out.reserve(ROOM_BYTES + TRAILER_BYTES + piece.len() / 4);
            let before = self.compress.total_in();
            let progress = self.compress.compress_vec(&piece, &mut self.out, flush);
            let progress = progress.map_err(|e| Status::internal(format!("cannot compress: {e}")))?;
            let taken = self.compress.total_in() - before;
            piece.advance(usize::try_from(taken).expect("no more than there is"));
            match progress {
                Progress::StreamEnd => return self.finish().map(Some),
                _ if piece.is_empty() && !is_end => return Ok(None),
                _ => {}
            }
        }
    }
}

struct Unpack {
    decoder: MultiGzDecoder<Reader<Bytes>>,
    max_bytes: usize,
    message: BytesMut,
    is_empty: bool,
}

impl Unpack {
    fn new(packed: Bytes, max_bytes: usize) -> Self {
        let is_empty = packed.is_empty();
        let decoder = MultiGzDecoder::new(packed.reader());
        Self { decoder, max_bytes, message: BytesMut::new(), is_empty }
    }

    /// The texts of grpc-go and Go's library.
    fn failure(&self, error: &io::Error) -> Status {
        let text = error.to_string();
        let why = match error.kind() {
            _ if self.is_empty => "EOF",
            io::ErrorKind::UnexpectedEof => "unexpected EOF",
            _ if text.contains("header") => "gzip: invalid header",
            _ if text.contains("checksum") => "gzip: invalid checksum",
            _ => "flate: corrupt input",
        };
        // Go reads the first header on opening, later ones while reading.
        let has_begun = self.decoder.header().is_some() || !self.message.is_empty();
        let doing = if has_begun { "read decompressed data" } else { "decompress the message" };
        Status::internal(format!("grpc: failed to {doing}: {why}"))
    }
}

impl Job for Unpack {
    fn step(&mut self, bytes: usize) -> Result<Option<Bytes>, Status> {
        let end = self.message.len().saturating_add(bytes);
        let mut chunk = [0; CHUNK_BYTES];
        if self.is_empty {
            return Err(self.failure(&io::ErrorKind::UnexpectedEof.into()));
        }
        while self.message.len() < end {
            match self.decoder.read(&mut chunk) {
                Ok(0) => return Ok(Some(self.message.split().freeze())),
                Ok(read) => self.message.put_slice(&chunk[..read]),
                Err(error) => return Err(self.failure(&error)),
            }
            if self.message.len() > self.max_bytes {
                let text =
                    format!("grpc: received message after decompression larger than max {}", self.max_bytes);
                return Err(Status::resource_exhausted(text));
            }
        }
        Ok(None)
    }
}

type Packing = Pin<Box<dyn Future<Output = Result<Bytes, Status>> + Send>>;

pub(crate) struct Zipped {
    inner: Box<dyn Feed>,
    zip: Arc<Zip>,
    /// Messages from `inner` that are not compressed yet.
    pieces: BytesMut,
    packing: Option<Packing>,
}

impl Zipped {
    pub(crate) fn new(inner: Box<dyn Feed>, zip: Arc<Zip>) -> Self {
        Self { inner, zip, pieces: BytesMut::new(), packing: None }
    }

    /// Removes the first complete message.
    fn take(&mut self) -> Option<Bytes> {
        let mut length = self.pieces.get(1..PREFIX_BYTES)?;
        let end = PREFIX_BYTES + length.get_u32() as usize;
        (self.pieces.len() >= end).then(|| self.pieces.split_to(end).freeze())
    }

    /// Compresses short messages until a frame is full, or starts with a long one if it is first.
    fn pack(&mut self) -> Result<Bytes, Status> {
        let mut packed = BytesMut::new();
        while packed.len() < FRAME_BYTES {
            let Some(message) = self.take() else { break };
            match self.zip.pack_short(&message) {
                Some(short) => packed.put_slice(&short?),
                None if packed.is_empty() => {
                    let zip = Arc::clone(&self.zip);
                    self.packing = Some(Box::pin(async move { zip.pack(message).await }));
                    break;
                }
                None => {
                    // It stays in front of the others.
                    let mut rest = BytesMut::from(&message[..]);
                    rest.unsplit(self.pieces.split());
                    self.pieces = rest;
                    break;
                }
            }
        }
        Ok(packed.freeze())
    }
}

impl Feed for Zipped {
    fn poll_messages(&mut self, cx: &mut Context<'_>, call: &Call) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if let Some(packing) = &mut self.packing {
                let packed = ready!(packing.as_mut().poll(cx));
                self.packing = None;
                return Poll::Ready(Some(packed));
            }
            match self.pack() {
                Ok(packed) if packed.is_empty() && self.packing.is_none() => {}
                Ok(packed) if packed.is_empty() => continue,
                packed => return Poll::Ready(Some(packed)),
            }
            match ready!(self.inner.poll_messages(cx, call)) {
                Some(Ok(data)) => self.pieces.put_slice(&data),
                end => return Poll::Ready(end),
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/zip.rs"]
mod tests;
