//! `/raft`, `/raft/stream/…`, `/raft/snapshot`: etcd `rafthttp/http.go`.

use std::{net::IpAddr, sync::Arc};

use bytes::{Buf, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message as _;
use proto::raftpb;

use super::{
    Answered,
    body::{self, Held},
    reply::{Reply, closing, empty, error, not_allowed, with},
};
use crate::{
    codec::Kind,
    context::{Context, hex, is_handed_on},
    headers::{self, CLUSTER_ID, PEER_URLS, RAFT_TO, SERVER_FROM, SERVER_VERSION},
    io::Busy,
    stream::StreamBody,
    transport::Transport,
};

/// Kinds that never cross the wire; taken and ignored, as etcd does: hup, beat, unreachable, snap status, check quorum,
/// and those of asynchronous storage.
fn is_local(message: &raftpb::Message) -> bool {
    let number = message.r#type.unwrap_or(0);
    matches!(number, 0 | 1 | 10 | 11 | 12 | 19..=22) || raftpb::MessageType::try_from(number).is_err()
}

/// A refusal's status and text.
type Refusal = (StatusCode, &'static str);

/// Who sends, for the log: the address, and who it says it is.
struct Caller {
    shown: String,
    /// As whom it introduced itself.
    id: Option<u64>,
}

impl Caller {
    fn new(from: IpAddr, headers: &HeaderMap) -> Self {
        let text = headers::text(headers, &SERVER_FROM);
        let id = headers::parse_id(text).filter(|_| !text.is_empty());
        let shown = id.map_or_else(|| from.to_string(), |id| format!("{} at {from}", hex(id)));
        Self { shown, id }
    }

    fn complain(&self, transport: &Transport, what: &'static str, error: &str) {
        transport.context().complain(&self.shown, what, error);
    }

    /// Why a request is refused, in etcd's words where it has some.
    fn refused(&self, transport: &Transport, headers: &HeaderMap, text: &'static str) {
        match text {
            headers::CLUSTER_ID_MISMATCH => {
                let theirs = headers::text(headers, &CLUSTER_ID);
                let error = format!("{text}: theirs is {theirs}");
                self.complain(transport, "request cluster ID mismatch", &error);
            }
            headers::INCOMPATIBLE_VERSION => {
                let version = headers::text(headers, &SERVER_VERSION);
                let min = headers::text(headers, &headers::MIN_CLUSTER_VERSION);
                let error = format!("{text}: theirs is {version:?}, at least {min:?} wanted");
                self.complain(transport, "failed version compatibility check", &error);
            }
            "removed member" => {
                self.complain(transport, "rejected stream from remote peer because it was removed", text);
            }
            // A member that was added a moment ago, in most cases.
            "error sender not found" => {
                self.complain(transport, "failed to find remote peer in cluster", text);
            }
            _ => self.complain(transport, "refused a peer's request", text),
        }
    }
}

/// POST `/raft`: one message.
pub(super) async fn message(transport: &Transport, request: Request<Incoming>, from: IpAddr) -> Answered {
    if request.method() != Method::POST {
        return not_allowed(Some("POST"));
    }
    let caller = Caller::new(from, request.headers());
    let answer = match accept(transport, &caller, request.headers()) {
        Ok(()) => receive(transport, &caller, request.into_body()).await,
        Err((status, text)) => error(status, text),
    };
    with(answer, CLUSTER_ID, &hex(transport.context().identity.cluster))
}

/// The checks that POSTs share. A sender that we do not know is remembered, so that it can be answered.
fn accept(transport: &Transport, caller: &Caller, headers: &HeaderMap) -> Result<(), Refusal> {
    headers::check(headers, &transport.context().identity)
        .inspect_err(|text| caller.refused(transport, headers, text))
        .map_err(|text| (StatusCode::PRECONDITION_FAILED, text))?;
    if let Some(from) = headers::parse_id(headers::text(headers, &SERVER_FROM)) {
        let urls = headers::text(headers, &PEER_URLS);
        if !urls.is_empty() && !transport.context().host().is_removed(from) {
            transport.add_remote(from, urls);
        }
    }
    Ok(())
}

async fn receive(transport: &Transport, caller: &Caller, body: Incoming) -> Answered {
    let (body, _held) =
        match body::read(transport.context(), body, transport.context().limits.post_bytes).await {
            Ok(read) => read,
            Err(e) => {
                caller.complain(transport, "failed to read Raft message", &e.to_string());
                return closing(error(e.status(StatusCode::BAD_REQUEST), "error reading raft message"));
            }
        };
    let size = body.len();
    let message = match raftpb::Message::decode(body) {
        Ok(message) => message,
        Err(e) => {
            caller.complain(transport, "failed to unmarshal Raft message", &e.to_string());
            return error(StatusCode::BAD_REQUEST, "error unmarshalling raft message");
        }
    };
    let context = transport.context();
    if let Some(peer) = transport.member(message.from()) {
        peer.counters.received(size);
    }
    // etcd: 500 and the connection cut, not 403, which would tell the sender that it was removed.
    let sender = caller.id.unwrap_or(message.from());
    let in_anothers_name = message.from() != sender && !is_handed_on(&message);
    if message.to() != context.identity.member
        || context.host().is_removed(message.from())
        || in_anothers_name
    {
        let (from, to) = (hex(message.from()), hex(message.to()));
        let why =
            format!("from {from} to {to}: for another member, from a removed one, or in another's name");
        caller.complain(transport, "failed to process Raft message", &why);
        let refusal = error(StatusCode::INTERNAL_SERVER_ERROR, "error processing raft message");
        return with(refusal, header::CONNECTION, "close");
    }
    if message.r#type() == raftpb::MessageType::MsgSnap {
        // A snapshot comes by its own path, with its database; without one it cannot be installed.
        return error(StatusCode::INTERNAL_SERVER_ERROR, "error processing raft message");
    }
    if !is_local(&message) {
        context.admit(sender, vec![message]);
    }
    empty(StatusCode::NO_CONTENT)
}

/// GET `/raft/stream/<kind>/<id>`: the asker becomes the receiver of that stream.
pub(super) fn stream(
    transport: &Arc<Transport>,
    busy: Busy,
    request: &Request<Incoming>,
    from: IpAddr,
) -> Answered {
    if request.method() != Method::GET {
        return not_allowed(Some("GET"));
    }
    let me = &transport.context().identity;
    let answer = attach(transport, busy, request).unwrap_or_else(|(status, text)| {
        Caller::new(from, request.headers()).refused(transport, request.headers(), text);
        error(status, text)
    });
    with(with(answer, SERVER_VERSION, &me.version), CLUSTER_ID, &hex(me.cluster))
}

fn attach(transport: &Transport, busy: Busy, request: &Request<Incoming>) -> Result<Answered, Refusal> {
    let (context, asked) = (transport.context(), request.headers());
    headers::check(asked, &context.identity).map_err(|text| (StatusCode::PRECONDITION_FAILED, text))?;
    let (kind, from) = stream_path(request.uri().path()).map_err(|text| (StatusCode::NOT_FOUND, text))?;
    if context.host().is_removed(from) {
        return Err((StatusCode::GONE, "removed member"));
    }
    let Some(peer) = transport.member(from) else {
        let urls = headers::text(asked, &PEER_URLS);
        if !urls.is_empty() {
            transport.add_remote(from, urls);
        }
        return Err((StatusCode::NOT_FOUND, "error sender not found"));
    };
    if headers::text(asked, &RAFT_TO) != hex(context.identity.member) {
        return Err((StatusCode::PRECONDITION_FAILED, "to field mismatch"));
    }
    let body =
        StreamBody::attach(peer, kind, busy).ok_or((StatusCode::NOT_FOUND, "error sender not found"))?;
    Ok(http::Response::new(Reply::Stream(Box::new(body))))
}

/// Go's `path.Dir` must be a stream's endpoint, and `path.Base` an ID.
pub(crate) fn stream_path(path: &str) -> Result<(Kind, u64), &'static str> {
    let (directory, last) = path.rsplit_once('/').unwrap_or(("", path));
    let kind =
        Kind::ALL.into_iter().find(|kind| directory.strip_prefix("/raft/stream/") == Some(kind.path()));
    let kind = kind.ok_or("invalid path")?;
    headers::parse_id(last).map(|id| (kind, id)).ok_or("invalid from")
}

/// POST `/raft/snapshot`: read as etcd reads it, and refused by name.
pub(super) async fn snapshot(transport: &Transport, request: Request<Incoming>, from: IpAddr) -> Answered {
    if request.method() != Method::POST {
        return not_allowed(Some("POST"));
    }
    let caller = Caller::new(from, request.headers());
    let answer = match accept(transport, &caller, request.headers()) {
        Ok(()) => refuse_snapshot(transport, &caller, request.into_body()).await,
        Err((status, text)) => error(status, text),
    };
    with(answer, CLUSTER_ID, &hex(transport.context().identity.cluster))
}

async fn refuse_snapshot(transport: &Transport, caller: &Caller, mut body: Incoming) -> Answered {
    let context = transport.context();
    let read = tokio::time::timeout(context.limits.body, snapshot_message(context, &mut body)).await;
    let message = match read.unwrap_or_else(|_| Err("i/o timeout".to_owned())) {
        Ok(message) => message,
        Err(e) => {
            caller.complain(transport, "failed to decode Raft message", &e);
            return closing(error(StatusCode::BAD_REQUEST, &format!("failed to decode raft message ({e})")));
        }
    };
    if message.r#type() != raftpb::MessageType::MsgSnap {
        caller.complain(transport, "unexpected Raft message type", message.r#type().as_str_name());
        return closing(error(StatusCode::BAD_REQUEST, "wrong raft message type"));
    }
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    let index = metadata.map_or(0, raftpb::SnapshotMetadata::index);
    caller.complain(
        transport,
        "refused a snapshot: snapshots between members are not supported yet",
        &format!(
            "the leader's log no longer has what this member lacks; it follows, and stays behind index {index}"
        ),
    );
    // The sender looks for an answer only after its last byte.
    let deadline = context.limits.deadline;
    let rest = async { while let Ok(Some(Ok(_))) = tokio::time::timeout(deadline, body.frame()).await {} };
    // Its end, or that there is none in sight.
    let _ = tokio::time::timeout(context.limits.snapshot, rest).await;
    error(
        StatusCode::INTERNAL_SERVER_ERROR,
        "failed to save KV snapshot (snapshots between members are not supported yet)",
    )
}

/// `u64 len` and the message at the front of a snapshot's body. The texts are Go's.
async fn snapshot_message(context: &Context, body: &mut Incoming) -> Result<raftpb::Message, String> {
    let limits = &context.limits;
    let (mut read, mut held) = (BytesMut::new(), Held::none(context));
    let mut wanted = 8;
    let mut length = None;
    loop {
        while read.len() < wanted {
            let frame = tokio::time::timeout(limits.deadline, body.frame())
                .await
                .map_err(|_| "i/o timeout".to_owned())?;
            match frame {
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], |data| &data[..]);
                    if !held.add(data.len(), limits.bodies_bytes) {
                        return Err(body::Refused::Crowded.to_string());
                    }
                    read.extend_from_slice(data);
                }
                Some(Err(e)) => return Err(e.to_string()),
                None if read.is_empty() => return Err("EOF".to_owned()),
                None => return Err("unexpected EOF".to_owned()),
            }
        }
        if length.is_some() {
            read.truncate(wanted);
            return raftpb::Message::decode(read.freeze()).map_err(|e| e.to_string());
        }
        let announced = read.get_u64();
        if announced > limits.snapshot_message_bytes {
            return Err("rafthttp: error limit exceeded".to_owned());
        }
        wanted = usize::try_from(announced).map_err(|e| e.to_string())?;
        length = Some(announced);
    }
}
