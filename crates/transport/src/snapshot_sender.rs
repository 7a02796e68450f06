//! Sends snapshots to a peer, one at a time, each on a connection of its own (etcd `rafthttp/snapshot_sender.go`).
//!
//! ```text
//! MsgSnap ─▶ SnapshotQueue ─▶ turn ─▶ Host::snapshot_for ─▶ POST /raft/snapshot ─ 204 ─▶ Host::snapshot_status(true)
//!                                                               └─ else ─▶ pause ─▶ Host::snapshot_status(false)
//! ```
//!
//! A turn ends with the last byte, and not with the answer: the receiver answers once it has imported the database.

use std::{
    convert::Infallible,
    future::pending,
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context as Cx, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use proto::raftpb;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep, timeout},
};

use crate::{
    codec::put_sized,
    context::{hex, log_limited},
    headers,
    io::PeerIo,
    limits::Limits,
    peer::Peer,
    pipeline::check_reply,
    post::{self, Reply},
    snapshot::{CHECKSUM, OutgoingSnapshot, with_causes},
    urls,
};

/// Sends what the peer's queue holds, until it is aborted.
pub(crate) async fn run(peer: Arc<Peer>) {
    let context = peer.context().clone();
    loop {
        peer.snapshots.wait().await;
        let turn = Arc::clone(&context.sending).acquire_owned().await.expect("turns are never closed");
        // Only now: what is sent is as new as it can be.
        let Some(message) = peer.snapshots.take() else { continue };
        let delivered = send(&peer, message, turn).await;
        if !delivered {
            // Raft would ask for the next one with the next heartbeat.
            sleep(context.limits.snapshot_retry).await;
        }
        peer.snapshots.done();
        context.host().snapshot_status(peer.id, delivered);
    }
}

/// Why a snapshot was not delivered.
enum Failure {
    /// The host did not give it whole: nothing is known of the peer.
    Host(String),
    Peer(String),
}

async fn send(peer: &Arc<Peer>, message: raftpb::Message, turn: OwnedSemaphorePermit) -> bool {
    let context = peer.context();
    let (to, begun) = (hex(peer.id), Instant::now());
    let snapshot = match context.host().snapshot_for(message).await {
        Ok(snapshot) => snapshot,
        Err(why) => {
            failed(peer, 0, 0, &Failure::Host(why));
            return false;
        }
    };
    let metadata = snapshot.message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    let (index, bytes) = (metadata.map_or(0, raftpb::SnapshotMetadata::index), snapshot.bytes);
    log_limited!(info, context, peer.id, "sending database snapshot";
        "snapshot-index" => index, "remote-peer-id" => &to, "bytes" => bytes);
    let _in_flight = context.snapshots.sending.begin(&to);
    match attempt(peer, snapshot, turn).await {
        Ok(()) => {
            let took = begun.elapsed();
            peer.activate();
            context.snapshots.sending.succeeded(&to, took);
            log_limited!(info, context, peer.id, "sent database snapshot";
                "snapshot-index" => index, "remote-peer-id" => &to, "bytes" => bytes, "took" => format!("{took:?}"));
            true
        }
        Err(failure) => {
            failed(peer, index, bytes, &failure);
            false
        }
    }
}

fn failed(peer: &Peer, index: u64, bytes: u64, failure: &Failure) {
    let (context, to) = (peer.context(), hex(peer.id));
    let (Failure::Host(why) | Failure::Peer(why)) = failure;
    log_limited!(warn, context, peer.id, "failed to send database snapshot";
        "snapshot-index" => index, "remote-peer-id" => &to, "bytes" => bytes, "error" => why);
    peer.counters.failed();
    context.snapshots.sending.failed(&to);
    if let Failure::Peer(why) = failure {
        peer.deactivate("sendMsgSnap", "post", why);
        context.host().unreachable(peer.id);
    }
}

async fn attempt(
    peer: &Arc<Peer>,
    snapshot: OutgoingSnapshot,
    turn: OwnedSemaphorePermit,
) -> Result<(), Failure> {
    let url = peer.urls.pick().ok_or_else(|| Failure::Peer("the peer has no URL".to_owned()))?;
    let progress = Arc::new(Progress { bytes: snapshot.bytes, ..Progress::default() });
    let body = Database::new(peer.clone(), snapshot, turn, progress.clone());
    post(peer, &url, body, &progress).await.map_err(|error| {
        if let Some(why) = progress.broken.get() {
            return Failure::Host(why.clone());
        }
        peer.urls.failed(&url);
        Failure::Peer(error.to_string())
    })
}

async fn post(peer: &Peer, url: &str, body: Database, progress: &Progress) -> io::Result<()> {
    let limits = &peer.context().limits;
    let authority = urls::authority(url)?;
    let request = request(peer, &authority, body)?;
    let stream = post::dial(&authority, limits.dial).await?;
    // Busy for good: the answer has a deadline of its own.
    let io = PeerIo::new(stream, Arc::new(AtomicUsize::new(1)), limits.snapshot_stall);
    let mut http = http1::Builder::new();
    http.max_buf_size(limits.http_buffer());
    let (mut sender, connection) =
        http.handshake(TokioIo::new(io)).await.map_err(|e| io::Error::other(with_causes(&e)))?;
    let exchange = async {
        let response = sender.send_request(request).await;
        read_reply(response.map_err(|e| io::Error::other(with_causes(&e)))?, limits).await
    };
    // The exchange hears how the connection ends.
    let connection = async {
        let _ = connection.await;
        pending::<Infallible>().await
    };
    let late = async {
        progress.whole.notified().await;
        sleep(limits.snapshot_answer).await;
    };
    let reply = tokio::select! {
        reply = exchange => reply?,
        never = connection => match never {},
        never = tell(peer, progress) => match never {},
        () = late => {
            let why = format!("no answer within {:?} after the last byte", limits.snapshot_answer);
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    };
    let tells_why = matches!(reply.status, StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR);
    match check_reply(peer, &reply) {
        Ok(()) if progress.is_whole.load(Ordering::Acquire) => Ok(()),
        Ok(()) => Err(io::Error::other("the peer answered before it had everything")),
        Err(e) if tells_why && !reply.body.is_empty() => {
            Err(io::Error::other(format!("{e}: {}", reply.text())))
        }
        Err(e) => Err(e),
    }
}

fn request(peer: &Peer, authority: &str, body: Database) -> io::Result<Request<Database>> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/raft/snapshot");
    *request.headers_mut() = headers::outgoing(&peer.context().identity);
    let host = HeaderValue::from_str(authority).map_err(io::Error::other)?;
    let fixed = [
        (header::HOST, host),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::TRAILER, HeaderValue::from_static("X-Quorate-Sha256")),
    ];
    request.headers_mut().extend(fixed);
    Ok(request)
}

/// Reads an answer. Only the beginning of a refusal is of interest, and not for long (etcd `snapResponseReadTimeout`).
async fn read_reply(response: Response<Incoming>, limits: &Limits) -> io::Result<Reply> {
    let (head, body) = response.into_parts();
    let text = timeout(limits.deadline, Limited::new(body, limits.refusal_bytes).collect()).await;
    let body = text.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Ok(Reply { status: head.status, headers: head.headers, body })
}

/// Logs from time to time how far it is.
async fn tell(peer: &Peer, progress: &Progress) -> Infallible {
    let every = peer.context().limits.snapshot_progress.max(Duration::from_millis(1));
    loop {
        sleep(every).await;
        log_limited!(info, peer.context(), peer.id, "a database snapshot is under way";
            "remote-peer-id" => hex(peer.id), "sent-bytes" => progress.sent.load(Ordering::Relaxed),
            "bytes" => progress.bytes);
    }
}

/// How far a snapshot is, shared by its body and who waits for the answer.
#[derive(Debug, Default)]
struct Progress {
    bytes: u64,
    sent: AtomicU64,
    /// Why the host did not give the rest.
    broken: OnceLock<String>,
    /// Everything is with the connection.
    is_whole: AtomicBool,
    whole: Notify,
}

/// The body: message, database, checksum. hyper takes the next piece once it has written the one before, but for the buffers
/// of the connection.
struct Database {
    peer: Arc<Peer>,
    /// The peer in metrics.
    to: String,
    message: Option<Bytes>,
    pieces: mpsc::Receiver<Result<Bytes, String>>,
    /// Bytes that are still to come.
    left: u64,
    hash: Sha256,
    /// Since when a piece is waited for.
    waiting: Option<Instant>,
    progress: Arc<Progress>,
    /// `None` after the end.
    turn: Option<OwnedSemaphorePermit>,
}

impl Database {
    fn new(
        peer: Arc<Peer>,
        snapshot: OutgoingSnapshot,
        turn: OwnedSemaphorePermit,
        progress: Arc<Progress>,
    ) -> Self {
        let mut message = BytesMut::new();
        put_sized(&snapshot.message, &mut message);
        Self {
            to: hex(peer.id),
            peer,
            message: Some(message.freeze()),
            pieces: snapshot.pieces,
            left: snapshot.bytes,
            hash: Sha256::new(),
            waiting: None,
            progress,
            turn: Some(turn),
        }
    }

    /// Ends the connection without the body's end.
    fn broken(&self, why: String) -> io::Error {
        let error = io::Error::other(why.clone());
        // Called once: hyper drops the body.
        let _ = self.progress.broken.set(why);
        error
    }

    fn count(&mut self, piece: &Bytes) -> io::Result<()> {
        let context = self.peer.context();
        if let Some(since) = self.waiting.take().filter(|since| since.elapsed() >= context.limits.deadline) {
            log_limited!(warn, context, self.peer.id, "a piece of a database snapshot took longer than its receiver waits";
                "remote-peer-id" => &self.to, "took" => format!("{:?}", since.elapsed()));
        }
        let Some(left) = self.left.checked_sub(piece.len() as u64) else {
            return Err(self.broken(format!("the database is longer than {} bytes", self.progress.bytes)));
        };
        self.left = left;
        self.hash.update(piece);
        self.progress.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        self.peer.counters.sent(piece.len());
        context.snapshots.sent_bytes(&self.to, piece.len() as u64);
        Ok(())
    }

    fn end(&mut self) -> HeaderMap {
        self.turn = None;
        self.progress.is_whole.store(true, Ordering::Release);
        self.progress.whole.notify_one();
        let sum = format!("{:x}", std::mem::take(&mut self.hash).finalize());
        let sum = HeaderValue::from_str(&sum).expect("digits are a valid header");
        HeaderMap::from_iter([(CHECKSUM, sum)])
    }
}

impl Body for Database {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if let Some(message) = this.message.take() {
            this.peer.counters.sent(message.len());
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        while this.left > 0 {
            let piece = match this.pieces.poll_recv(cx) {
                Poll::Ready(Some(Ok(piece))) => piece,
                Poll::Ready(Some(Err(why))) => return Poll::Ready(Some(Err(this.broken(why)))),
                Poll::Ready(None) => {
                    let why =
                        format!("the database ended {} of {} bytes early", this.left, this.progress.bytes);
                    return Poll::Ready(Some(Err(this.broken(why))));
                }
                Poll::Pending => {
                    this.waiting.get_or_insert_with(Instant::now);
                    return Poll::Pending;
                }
            };
            let counted = this.count(&piece);
            if !piece.is_empty() || counted.is_err() {
                return Poll::Ready(Some(counted.map(|()| Frame::data(piece))));
            }
        }
        let is_end = this.turn.is_some();
        Poll::Ready(is_end.then(|| Ok(Frame::trailers(this.end()))))
    }
}
