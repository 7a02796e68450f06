//! The receiving end of a stream: requests a peer's `/raft/stream/<kind>/<own ID>` and reads the response.
//!
//! ```text
//!   dial ── not 200, or no connection ──▶ wait for the limiter ─▶ dial
//!    └─ 200 ─▶ read ─▶ chunks ─▶ codec ─▶ Host::deliver, one batch
//!              └─ closed, 5 s of silence, garbage ─▶ wait for the limiter ─▶ dial
//! ```
//!
//! Head and chunks are parsed here and not by hyper: one task, one buffer, no channel between connection and decoder.

use std::{io, mem, sync::Arc, time::Duration};

use bytes::BytesMut;
use proto::raftpb;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    chunk::ChunkDecoder,
    codec::{Bounds, Decoder, Frame, Kind},
    context::{hex, log_limited},
    headers,
    limits::Limits,
    log_limiter::Reasons,
    peer::{Counters, Peer},
    post, urls,
};

/// Allows one dial per [`Limits::redial`], the first at once.
struct Limiter {
    next: Instant,
    every: Duration,
}

impl Limiter {
    async fn wait(&mut self) {
        let now = Instant::now();
        if self.next > now {
            sleep_until(self.next).await;
        }
        self.next = self.next.max(now) + self.every;
    }
}

pub(crate) async fn run(peer: Arc<Peer>, kind: Kind) {
    let mut limiter = Limiter { next: Instant::now(), every: peer.context().limits.redial };
    let (mut reported, mut fruitless) = (Reasons::default(), Reasons::default());
    loop {
        match open(&peer, kind).await {
            Ok(stream) => {
                reported.forget();
                follow(&peer, kind, stream, &mut fruitless).await;
            }
            Err(e) => {
                let reason = e.to_string();
                peer.deactivate(kind.name(), "dial", &reason);
                // One line per reason: there are ten attempts a second. Limited too, because the peer chooses the text.
                if reported.is_new(&reason) {
                    log_limited!(warn, peer.context(), peer.id, "failed to dial stream of remote peer";
                        "stream-reader-type" => kind.name(), "remote-peer-id" => hex(peer.id), "error" => &reason);
                }
            }
        }
        limiter.wait().await;
    }
}

struct Stream {
    socket: TcpStream,
    rest: BytesMut,
}

/// Reads a stream to its end. After `fruitless` ones, which ended without a frame, it counts as established only with
/// its first frame: a peer that answers and then sends garbage does so ten times a second.
async fn follow(peer: &Peer, kind: Kind, stream: Stream, fruitless: &mut Reasons) {
    let context = peer.context();
    let mut receiver = Receiver::new(kind, context.identity.member, peer.id, &context.limits);
    let mut is_told = false;
    if fruitless.is_empty() {
        is_told = true;
        established(peer, kind);
    }
    let error = read(peer, kind, stream, &mut receiver, &mut is_told).await;
    let bore_fruit = receiver.frames > 0;
    if bore_fruit {
        fruitless.forget();
    }
    if bore_fruit || fruitless.is_new(&error.to_string()) {
        log_limited!(warn, context, peer.id, "lost TCP streaming connection with remote peer";
            "stream-reader-type" => kind.name(), "remote-peer-id" => hex(peer.id), "error" => %error);
    }
    // As in etcd, an orderly close is not a failure: the peer is dialled again.
    if error.kind() != io::ErrorKind::UnexpectedEof {
        peer.counters.broke();
        peer.deactivate(kind.name(), "read", &error.to_string());
    }
}

fn established(peer: &Peer, kind: Kind) {
    peer.activate();
    log_limited!(info, peer.context(), peer.id, "established TCP streaming connection with remote peer";
        "stream-reader-type" => kind.name(), "remote-peer-id" => hex(peer.id));
}

async fn read(
    peer: &Peer,
    kind: Kind,
    mut stream: Stream,
    receiver: &mut Receiver,
    is_told: &mut bool,
) -> io::Error {
    let mut raw = stream.rest;
    let limits = &peer.context().limits;
    let silence = tokio::time::sleep(limits.deadline);
    tokio::pin!(silence);
    let mut heard = Instant::now();
    loop {
        let outcome = drain(receiver, &mut raw, &stream.socket, &peer.counters, limits);
        if receiver.frames > 0 && !mem::replace(is_told, true) {
            established(peer, kind);
        }
        // Messages that were complete before the end are delivered.
        let messages = receiver.take();
        if !messages.is_empty() {
            peer.context().admit(peer.id, messages);
        }
        if let Err(e) = outcome {
            return e;
        }
        loop {
            tokio::select! {
                biased;
                outcome = stream.socket.read_buf(&mut raw) => match outcome {
                    Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                    Ok(_) => {
                        heard = Instant::now();
                        break;
                    }
                    Err(e) => return e,
                },
                () = &mut silence => {
                    if heard.elapsed() >= limits.deadline {
                        let silence = format!("nothing was heard for {:?}", limits.deadline);
                        return io::Error::new(io::ErrorKind::TimedOut, silence);
                    }
                    silence.as_mut().reset(heard + limits.deadline);
                }
            }
        }
    }
}

/// Decodes what was read, and reads on while full buffers are waiting. Leaves `raw` empty, with capacity.
fn drain(
    receiver: &mut Receiver,
    raw: &mut BytesMut,
    socket: &TcpStream,
    counters: &Counters,
    limits: &Limits,
) -> io::Result<()> {
    let read_bytes = limits.read_bytes.max(1);
    let mut total = 0;
    loop {
        total += raw.len();
        counters.received(raw.len());
        let was_full = raw.len() >= read_bytes;
        receiver.feed(raw)?;
        raw.clear();
        raw.reserve(read_bytes);
        if !was_full || total >= limits.read_batch_bytes {
            return Ok(());
        }
        match socket.try_read_buf(raw) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// Decodes the raw bytes of a response body to batches of messages; pure.
pub(crate) struct Receiver {
    kind: Kind,
    chunks: ChunkDecoder,
    payload: BytesMut,
    decoder: Decoder,
    messages: Vec<raftpb::Message>,
    /// Frames decoded so far, including link heartbeats.
    frames: u64,
    read_bytes: usize,
    buffer_kept_bytes: usize,
}

impl Receiver {
    pub(crate) fn new(kind: Kind, local: u64, remote: u64, limits: &Limits) -> Self {
        let read_bytes = limits.read_bytes.max(1);
        Self {
            kind,
            chunks: ChunkDecoder::default(),
            payload: BytesMut::with_capacity(read_bytes),
            decoder: Decoder::new(kind, local, remote, Bounds::new(limits)),
            messages: Vec::new(),
            frames: 0,
            read_bytes,
            buffer_kept_bytes: limits.buffer_kept_bytes,
        }
    }

    /// Decodes what these bytes complete. An error ends the stream; an orderly end is `UnexpectedEof`.
    pub(crate) fn feed(&mut self, raw: &[u8]) -> io::Result<()> {
        let garbage = |e: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
        if self.payload.is_empty() && self.payload.capacity() > self.buffer_kept_bytes {
            self.payload = BytesMut::new();
        }
        if self.payload.capacity() - self.payload.len() < raw.len() {
            self.payload.reserve(raw.len().max(self.read_bytes));
        }
        self.chunks.feed(raw, &mut self.payload).map_err(|e| garbage(&e))?;
        while let Some(frame) = self.decoder.decode(&mut self.payload).map_err(|e| garbage(&e))? {
            self.frames += 1;
            if let Frame::Message(message) = frame {
                self.messages.push(message);
            }
        }
        if self.chunks.is_done() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The messages since the last call. Appends are sorted by (term, index): etcd 3.7.1 sends a batch's in reverse,
    /// and raft would reject all but one.
    pub(crate) fn take(&mut self) -> Vec<raftpb::Message> {
        let mut messages = mem::take(&mut self.messages);
        if self.kind == Kind::MsgApp && messages.len() > 1 {
            messages.sort_by_key(|m| (m.term(), m.index()));
        }
        messages
    }
}

async fn open(peer: &Peer, kind: Kind) -> io::Result<Stream> {
    let url = peer.urls.pick().ok_or_else(|| io::Error::other("the peer has no URL"))?;
    let outcome = request(peer, kind, &url).await;
    if outcome.is_err() {
        peer.urls.failed(&url);
    }
    outcome
}

async fn request(peer: &Peer, kind: Kind, url: &str) -> io::Result<Stream> {
    let authority = urls::authority(url)?;
    let limits = &peer.context().limits;
    let mut socket = post::dial(&authority, limits.dial).await?;
    let exchange = async {
        socket.write_all(request_head(peer, kind, &authority).as_bytes()).await?;
        let mut rest = BytesMut::with_capacity(limits.read_bytes.max(1));
        let head = read_head(&mut socket, &mut rest, limits.head_bytes).await?;
        check_head(peer, head, socket, rest).await
    };
    timeout(limits.deadline, exchange).await.map_err(|_| {
        let silence = format!("no answer to the stream request within {:?}", limits.deadline);
        io::Error::new(io::ErrorKind::TimedOut, silence)
    })?
}

fn request_head(peer: &Peer, kind: Kind, authority: &str) -> String {
    use std::fmt::Write as _;
    let me = &peer.context().identity;
    let mut head = format!(
        "GET /raft/stream/{}/{:x} HTTP/1.1\r\nHost: {authority}\r\nX-Raft-To: {:x}\r\n",
        kind.path(),
        me.member,
        peer.id
    );
    for (name, value) in &headers::outgoing(me) {
        let _ = write!(head, "{name}: {}\r\n", value.to_str().unwrap_or(""));
    }
    head.push_str("\r\n");
    head
}

pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
}

/// Takes a response head from the front of `input`; `None` if it is not complete. Pure.
pub(crate) fn parse_head(input: &mut BytesMut, bytes_max: usize) -> io::Result<Option<Head>> {
    let garbage = |e: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut fields);
    let length = match parsed.parse(input).map_err(|e| garbage(&e))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if input.len() > bytes_max => {
            return Err(garbage(&"response head too long"));
        }
        httparse::Status::Partial => return Ok(None),
    };
    let status = parsed.code.unwrap_or(0);
    let mut headers = http::HeaderMap::new();
    for field in parsed.headers.iter() {
        let name = http::HeaderName::from_bytes(field.name.as_bytes()).map_err(|e| garbage(&e))?;
        headers.append(name, http::HeaderValue::from_bytes(field.value).map_err(|e| garbage(&e))?);
    }
    bytes::Buf::advance(input, length);
    Ok(Some(Head { status, headers }))
}

async fn read_head(socket: &mut TcpStream, input: &mut BytesMut, bytes_max: usize) -> io::Result<Head> {
    loop {
        if let Some(head) = parse_head(input, bytes_max)? {
            return Ok(head);
        }
        if socket.read_buf(input).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before an answer"));
        }
    }
}

/// Checks a response as etcd's `streamReader.dial` does.
async fn check_head(peer: &Peer, head: Head, socket: TcpStream, rest: BytesMut) -> io::Result<Stream> {
    let me = headers::parse_version(&peer.context().identity.version).unwrap_or_default();
    match headers::version(&head.headers, &headers::SERVER_VERSION) {
        Some(server) if headers::speaks_streams(server, me) => {}
        _ => return Err(io::Error::other("unsupported stream type: the peer's version is too old")),
    }
    match head.status {
        200 if is_chunked(&head.headers) => Ok(Stream { socket, rest }),
        200 => Err(io::Error::other("the answer to the stream request is not chunked")),
        410 => {
            peer.context().rejected_by(peer.id);
            Err(io::Error::other("the member has been permanently removed from the cluster"))
        }
        404 => Err(io::Error::other(format!(
            "peer {:x} failed to find local node {:x}",
            peer.id,
            peer.context().identity.member
        ))),
        412 => {
            let text = refusal(&head.headers, socket, rest, peer.context().limits.refusal_bytes).await?;
            let theirs = headers::text(&head.headers, &headers::CLUSTER_ID).to_owned();
            Err(io::Error::other(format!("{text} (the peer's cluster: {theirs})")))
        }
        status => Err(io::Error::other(format!("unhandled http status {status}"))),
    }
}

fn is_chunked(headers: &http::HeaderMap) -> bool {
    headers
        .get(http::header::TRANSFER_ENCODING)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

async fn refusal(
    headers: &http::HeaderMap,
    mut socket: TcpStream,
    mut body: BytesMut,
    bytes_max: usize,
) -> io::Result<String> {
    let length = headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).unwrap_or("0");
    let length = length.parse::<usize>().unwrap_or(0).min(bytes_max);
    while body.len() < length && socket.read_buf(&mut body).await? > 0 {}
    body.truncate(length);
    Ok(String::from_utf8_lossy(&body).trim_end().to_owned())
}
