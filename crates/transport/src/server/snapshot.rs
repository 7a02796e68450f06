//! POST `/raft/snapshot`: receives a snapshot from another member (etcd `snapshotHandler` in `rafthttp/http.go`).
//!
//! The host works in a task of its own: a connection that is lost while the database is installed cancels nothing.

use std::{
    future::Future,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message as _;
use proto::raftpb;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout},
};

use super::{
    Answered,
    body::{self, Held},
    raft::{Caller, accept},
    reply::{closing, empty, error, with},
};
use crate::{
    context::{Context, hex, log_limited},
    headers::CLUSTER_ID,
    io::Busy,
    peers::Peers,
    snapshot::{IncomingSnapshot, SnapshotRefusal, broken, late},
    snapshot_meters::UNKNOWN_SENDER,
};

pub(super) async fn snapshot(
    peers: &Arc<Peers>,
    busy: &Arc<AtomicUsize>,
    request: Request<Incoming>,
    from: IpAddr,
) -> Answered {
    let caller = Caller::new(from, request.headers());
    let answer = match accept(peers, &caller, request.headers()) {
        Ok(()) => receive(peers, busy, caller, request).await,
        Err((status, text)) => {
            peers.context().snapshots.receiving.failed(UNKNOWN_SENDER);
            refuse(peers.context(), async { Some(request.into_body()) }, status, text)
        }
    };
    with(answer, CLUSTER_ID, &hex(peers.context().identity.cluster))
}

async fn receive(
    peers: &Arc<Peers>,
    busy: &Arc<AtomicUsize>,
    caller: Caller,
    request: Request<Incoming>,
) -> Answered {
    let (begun, context) = (Instant::now(), peers.context());
    let (head, mut body) = request.into_parts();
    let read = timeout(context.limits.body, preamble(context, &mut body)).await;
    let preamble = match read.unwrap_or_else(|_| Err(late().to_string())) {
        Ok(preamble) => preamble,
        Err(e) => {
            caller.log_fault(peers, "failed to decode Raft message", &e);
            context.snapshots.receiving.failed(UNKNOWN_SENDER);
            let text = format!("failed to decode raft message ({e})");
            return refuse(context, async { Some(body) }, StatusCode::BAD_REQUEST, &text);
        }
    };
    let Preamble { message, size, rest } = preamble;
    let sender = message.from();
    if let Some(peer) = peers.member(sender) {
        peer.counters.received(size);
    }
    let refused = |text: &str, status, body| {
        context.snapshots.receiving.failed(&label(peers, sender));
        refuse(context, async { Some(body) }, status, text)
    };
    if message.r#type() != raftpb::MessageType::MsgSnap {
        caller.log_fault(peers, "unexpected Raft message type", message.r#type().as_str_name());
        return refused("wrong raft message type", StatusCode::BAD_REQUEST, body);
    }
    if let Some(why) = misdirected(context, &caller, &message) {
        caller.log_fault(peers, "failed to process Raft message", why);
        let text = SnapshotRefusal::Process(why.to_owned()).to_string();
        return refused(&text, StatusCode::INTERNAL_SERVER_ERROR, body);
    }
    let Ok(turn) = Arc::clone(&context.receiving).try_acquire_owned() else {
        let why = "another snapshot is being received";
        caller.log_fault(peers, "failed to save incoming database snapshot", why);
        sleep(context.limits.snapshot_retry).await;
        let text = SnapshotRefusal::Save(why.to_owned()).to_string();
        return refused(&text, StatusCode::INTERNAL_SERVER_ERROR, body);
    };
    let (database, left) = IncomingSnapshot::new(rest, body, &head.headers, context.limits.deadline);
    // The database's reads have deadlines of their own, and a connection is not idle while the host works.
    let _busy = Busy::new(busy);
    let install = Install { peers: Arc::clone(peers), caller, begun, _turn: turn };
    let outcome = tokio::spawn(install.run(message, database)).await;
    match outcome.unwrap_or_else(|panic| Err(SnapshotRefusal::Process(panic.to_string()))) {
        Ok(()) => empty(StatusCode::NO_CONTENT),
        Err(refusal) => {
            // Members of etcd ask again with the next heartbeat.
            sleep(context.limits.snapshot_retry).await;
            let left = async { left.await.ok() };
            refuse(context, left, StatusCode::INTERNAL_SERVER_ERROR, &refusal.to_string())
        }
    }
}

/// A refusal, after which the connection is closed. What is left of the body is read for a moment and thrown away: if the
/// connection were closed at once, the sender could lose the answer while it writes.
fn refuse(
    context: &Context,
    left: impl Future<Output = Option<Incoming>> + Send + 'static,
    status: StatusCode,
    text: &str,
) -> Answered {
    let deadline = context.limits.deadline;
    let rest = async {
        if let Some(mut body) = left.await {
            while let Some(Ok(_)) = body.frame().await {}
        }
    };
    tokio::spawn(timeout(deadline, rest));
    closing(error(status, text))
}

/// Why etcd's `Process` would refuse this message, in its words; also one in another's name.
fn misdirected(context: &Context, caller: &Caller, message: &raftpb::Message) -> Option<&'static str> {
    if context.host().is_removed(message.from()) {
        Some("cannot process message from removed member")
    } else if message.to() != context.identity.member {
        Some("cannot process message to mismatch member")
    } else if caller.id.is_some_and(|id| id != message.from()) {
        Some("cannot process message in another member's name")
    } else {
        None
    }
}

/// The sender in metrics. Whoever reaches the port chooses it: only those that are known have series of their own.
fn label(peers: &Peers, sender: u64) -> String {
    peers.member(sender).map_or_else(|| UNKNOWN_SENDER.to_owned(), |peer| hex(peer.id))
}

/// What is needed to receive a snapshot, apart from the connection.
struct Install {
    peers: Arc<Peers>,
    caller: Caller,
    begun: Instant,
    _turn: OwnedSemaphorePermit,
}

impl Install {
    async fn run(self, message: raftpb::Message, database: IncomingSnapshot) -> Result<(), SnapshotRefusal> {
        let (context, sender) = (self.peers.context(), message.from());
        let (me, from) = (hex(context.identity.member), label(&self.peers, sender));
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        let index = metadata.map_or(0, raftpb::SnapshotMetadata::index);
        log_limited!(info, context, sender, "receiving database snapshot"; "local-member-id" => &me,
            "remote-snapshot-sender-id" => hex(sender), "incoming-snapshot-index" => index);
        let _in_flight = context.snapshots.receiving.begin(&from);
        let received = database.received();
        let outcome = context.host().receive_snapshot(message, database).await;
        let bytes = received.load(Ordering::Relaxed);
        if let Some(peer) = self.peers.member(sender) {
            peer.counters.received(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        let took = self.begun.elapsed();
        match &outcome {
            Ok(()) => {
                context.snapshots.receiving.succeeded(&from, took);
                log_limited!(info, context, sender, "received and saved database snapshot";
                    "local-member-id" => &me, "remote-snapshot-sender-id" => hex(sender),
                    "incoming-snapshot-index" => index, "incoming-snapshot-size-bytes" => bytes,
                    "took" => format!("{took:?}"));
            }
            Err(refusal) => {
                context.snapshots.receiving.failed(&from);
                let (what, why) = match refusal {
                    SnapshotRefusal::Save(why) => ("failed to save incoming database snapshot", why),
                    SnapshotRefusal::Process(why) => ("failed to process Raft message", why),
                };
                self.caller.log_fault(&self.peers, what, why);
            }
        }
        outcome
    }
}

/// What comes before the database, and its first bytes.
struct Preamble {
    message: raftpb::Message,
    /// The message's length, in bytes.
    size: usize,
    rest: Bytes,
}

/// Reads the length and the message at the front of a snapshot's body. The error texts are Go's.
async fn preamble(context: &Context, body: &mut Incoming) -> Result<Preamble, String> {
    let limits = &context.limits;
    let (mut read, mut held) = (BytesMut::new(), Held::none(context));
    let mut wanted = 8;
    let mut length = None;
    loop {
        while read.len() < wanted {
            let frame = timeout(limits.deadline, body.frame()).await.map_err(|_| late().to_string())?;
            match frame {
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], |data| &data[..]);
                    if !held.add(data.len(), limits.bodies_bytes) {
                        return Err(body::Refused::Crowded.to_string());
                    }
                    read.extend_from_slice(data);
                }
                Some(Err(e)) => return Err(broken(&e).to_string()),
                None if read.is_empty() => return Err("EOF".to_owned()),
                None => return Err("unexpected EOF".to_owned()),
            }
        }
        if let Some(size) = length {
            let message =
                raftpb::Message::decode(read.split_to(wanted).freeze()).map_err(|e| e.to_string())?;
            return Ok(Preamble { message, size, rest: read.freeze() });
        }
        let announced = read.get_u64();
        if announced > limits.snapshot_message_bytes {
            return Err("rafthttp: error limit exceeded".to_owned());
        }
        wanted = usize::try_from(announced).map_err(|e| e.to_string())?;
        length = Some(wanted);
    }
}
