//! Snapshots as the host sees them: a database that it gives away piece by piece, and one that it receives so.
//!
//! ```text
//! POST /raft/snapshot, chunked:   u64 len   Message (MsgSnap)   the database   [trailer X-Quorate-Sha256]
//! ```
//!
//! etcd's body ends with the database (`rafthttp/snapshot_sender.go`). The trailer is ours: the SHA-256 of the database, in
//! hexadecimal. An etcd member reads it with the body's end and ignores it.

use std::{
    error::Error,
    fmt::Write as _,
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use proto::raftpb;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// The trailer with the database's SHA-256.
pub(crate) const CHECKSUM: HeaderName = HeaderName::from_static("x-quorate-sha256");

/// A snapshot to send.
#[derive(Debug)]
pub struct OutgoingSnapshot {
    /// The `MsgSnap`. Its snapshot may be newer than the one that raft asked for: it describes the database.
    pub message: raftpb::Message,
    /// The length of the database, in bytes.
    pub bytes: u64,
    /// The database, in order. Each piece is in memory until it is written, and hashed in one go: 256 KiB are enough. An
    /// error, and an end before `bytes`, break the transfer; what comes after `bytes` is not read.
    pub pieces: mpsc::Receiver<Result<Bytes, String>>,
}

/// Why a snapshot was not taken. The texts are etcd's, which go to the sender with status 500.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotRefusal {
    /// The database did not come whole, or could not be stored.
    #[error("failed to save KV snapshot ({0})")]
    Save(String),
    /// The database is here, but the message was not accepted.
    #[error("failed to process raft message ({0})")]
    Process(String),
}

/// The database of a snapshot that a member sends.
#[derive(Debug)]
pub struct IncomingSnapshot {
    /// What came in one read with the message.
    first: Bytes,
    /// `None` after its end.
    body: Option<Incoming>,
    deadline: Duration,
    /// `None` if the sender announces no checksum, as etcd's.
    hash: Option<Sha256>,
    received: Arc<AtomicU64>,
    failed: Option<(io::ErrorKind, String)>,
    /// Takes a body that was not read to its end.
    rest: Option<oneshot::Sender<Incoming>>,
}

impl IncomingSnapshot {
    /// `first` is the beginning of the database. Returns also where the body goes if it is not read to its end.
    pub(crate) fn new(
        first: Bytes,
        body: Incoming,
        headers: &HeaderMap,
        deadline: Duration,
    ) -> (Self, oneshot::Receiver<Incoming>) {
        let announced = headers.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
        let is_announced = announced
            .flat_map(|names| names.split(','))
            .any(|name| name.trim().eq_ignore_ascii_case(CHECKSUM.as_str()));
        let (rest, left) = oneshot::channel();
        let incoming = Self {
            first,
            body: Some(body),
            deadline,
            hash: is_announced.then(Sha256::new),
            received: Arc::default(),
            failed: None,
            rest: Some(rest),
        };
        (incoming, left)
    }

    /// Bytes of the database so far.
    pub(crate) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    /// The next piece of the database, of at most some 64 KiB; `None` at its end. Only then is the checksum compared, if the
    /// sender gave one. An error if the sender is silent for [`crate::Limits::deadline`], if the connection is lost, or if
    /// the checksum is wrong; from then on each call returns it. May be cancelled. Call it in the runtime.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.failed.is_none() {
            match self.read().await {
                Ok(None) => return None,
                Ok(Some(piece)) => {
                    if let Some(hash) = &mut self.hash {
                        hash.update(&piece);
                    }
                    self.received.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    return Some(Ok(piece));
                }
                Err(error) => self.failed = Some((error.kind(), error.to_string())),
            }
        }
        self.failed.as_ref().map(|(kind, text)| Err(io::Error::new(*kind, text.clone())))
    }

    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        if !self.first.is_empty() {
            return Ok(Some(mem::take(&mut self.first)));
        }
        while let Some(body) = &mut self.body {
            let frame = timeout(self.deadline, body.frame()).await.map_err(|_| late())?;
            let Some(frame) = frame else {
                self.body = None;
                break;
            };
            match frame.map_err(|error| broken(&error))?.into_data() {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Ok(Some(piece)),
                Err(frame) => self.compare(&frame.into_trailers().unwrap_or_default())?,
            }
        }
        Ok(None)
    }

    fn compare(&mut self, trailers: &HeaderMap) -> io::Result<()> {
        let (Some(theirs), Some(hash)) = (trailers.get(CHECKSUM), self.hash.take()) else { return Ok(()) };
        let ours = format!("{:x}", hash.finalize());
        if theirs.as_bytes().eq_ignore_ascii_case(ours.as_bytes()) {
            return Ok(());
        }
        let theirs = String::from_utf8_lossy(theirs.as_bytes());
        let text = format!("the database was changed on its way: expected sha256 {theirs}, got {ours}");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

impl Drop for IncomingSnapshot {
    fn drop(&mut self) {
        if let (Some(body), Some(rest)) = (self.body.take(), self.rest.take()) {
            // Nobody takes it if the connection is gone.
            let _ = rest.send(body);
        }
    }
}

/// A sender was silent for too long. The text is Go's.
pub(crate) fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "i/o timeout")
}

/// Why a body cannot be read further. A body without its end has Go's text.
pub(crate) fn broken(error: &hyper::Error) -> io::Error {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        Some(io::ErrorKind::UnexpectedEof) => io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF"),
        Some(io::ErrorKind::TimedOut) => late(),
        Some(kind) => io::Error::new(kind, with_causes(error)),
        None => io::Error::other(with_causes(error)),
    }
}

/// An error with what caused it, which hyper's texts leave out.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
