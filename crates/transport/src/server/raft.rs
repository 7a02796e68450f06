//! The handlers of `/raft` and `/raft/stream/…` (etcd `rafthttp/http.go`).

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, Request, StatusCode, header};
use hyper::body::Incoming;
use prost::Message as _;
use proto::raftpb;

use super::{
    Answered, body,
    reply::{Reply, closing, empty, error, with},
};
use crate::{
    codec::Kind,
    context::{hex, is_forwarded},
    headers::{self, CLUSTER_ID, PEER_URLS, RAFT_TO, SERVER_FROM, SERVER_VERSION},
    io::Busy,
    peers::Peers,
    stream::StreamBody,
};

/// Whether it never leaves a member, and is ignored as in etcd: hup, beat, unreachable, snap status, and the like.
fn is_local(message: &raftpb::Message) -> bool {
    let number = message.r#type.unwrap_or(0);
    matches!(number, 0 | 1 | 10 | 11 | 12 | 19..=22) || raftpb::MessageType::try_from(number).is_err()
}

type Refusal = (StatusCode, &'static str);

pub(super) struct Caller {
    shown: String,
    /// The ID in its headers.
    pub(super) id: Option<u64>,
}

impl Caller {
    pub(super) fn new(from: IpAddr, headers: &HeaderMap) -> Self {
        let text = headers::text(headers, &SERVER_FROM);
        let id = headers::parse_id(text).filter(|_| !text.is_empty());
        let shown = id.map_or_else(|| from.to_string(), |id| format!("{} at {from}", hex(id)));
        Self { shown, id }
    }

    pub(super) fn log_fault(&self, peers: &Peers, what: &'static str, error: &str) {
        peers.context().log_fault(&self.shown, what, error);
    }

    /// Logs why a request is refused, with etcd's text where it has one.
    fn refused(&self, peers: &Peers, headers: &HeaderMap, text: &'static str) {
        match text {
            headers::CLUSTER_ID_MISMATCH => {
                let theirs = headers::text(headers, &CLUSTER_ID);
                let error = format!("{text}: theirs is {theirs}");
                self.log_fault(peers, "request cluster ID mismatch", &error);
            }
            headers::INCOMPATIBLE_VERSION => {
                let version = headers::text(headers, &SERVER_VERSION);
                let min = headers::text(headers, &headers::MIN_CLUSTER_VERSION);
                let error = format!("{text}: theirs is {version:?}, at least {min:?} wanted");
                self.log_fault(peers, "failed version compatibility check", &error);
            }
            "removed member" => {
                self.log_fault(peers, "rejected stream from remote peer because it was removed", text);
            }
            // In most cases, a member that was just added.
            "error sender not found" => {
                self.log_fault(peers, "failed to find remote peer in cluster", text);
            }
            _ => self.log_fault(peers, "refused a peer's request", text),
        }
    }
}

pub(super) async fn message(peers: &Peers, request: Request<Incoming>, from: IpAddr) -> Answered {
    let caller = Caller::new(from, request.headers());
    let answer = match accept(peers, &caller, request.headers()) {
        Ok(()) => receive(peers, &caller, request.into_body()).await,
        Err((status, text)) => error(status, text),
    };
    with(answer, CLUSTER_ID, &hex(peers.context().identity.cluster))
}

/// Checks the headers of a POST. Adds an unknown sender to the remotes, so that it can be answered.
pub(super) fn accept(peers: &Peers, caller: &Caller, headers: &HeaderMap) -> Result<(), Refusal> {
    headers::check(headers, &peers.context().identity)
        .inspect_err(|text| caller.refused(peers, headers, text))
        .map_err(|text| (StatusCode::PRECONDITION_FAILED, text))?;
    if let Some(from) = headers::parse_id(headers::text(headers, &SERVER_FROM)) {
        let urls = headers::text(headers, &PEER_URLS);
        if !urls.is_empty() && !peers.context().host().is_removed(from) {
            peers.add_remote(from, urls);
        }
    }
    Ok(())
}

async fn receive(peers: &Peers, caller: &Caller, body: Incoming) -> Answered {
    let (body, _held) = match body::read(peers.context(), body, peers.context().limits.post_bytes).await {
        Ok(read) => read,
        Err(e) => {
            caller.log_fault(peers, "failed to read Raft message", &e.to_string());
            return closing(error(e.status(StatusCode::BAD_REQUEST), "error reading raft message"));
        }
    };
    let size = body.len();
    let message = match raftpb::Message::decode(body) {
        Ok(message) => message,
        Err(e) => {
            caller.log_fault(peers, "failed to unmarshal Raft message", &e.to_string());
            return error(StatusCode::BAD_REQUEST, "error unmarshalling raft message");
        }
    };
    let context = peers.context();
    if let Some(peer) = peers.member(message.from()) {
        peer.counters.received(size);
    }
    // As in etcd, 500 and a closed connection: 403 would tell the sender that it was removed.
    let sender = caller.id.unwrap_or(message.from());
    let in_anothers_name = message.from() != sender && !is_forwarded(&message);
    if message.to() != context.identity.member
        || context.host().is_removed(message.from())
        || in_anothers_name
    {
        let (from, to) = (hex(message.from()), hex(message.to()));
        let why =
            format!("from {from} to {to}: for another member, from a removed one, or in another's name");
        caller.log_fault(peers, "failed to process Raft message", &why);
        let refusal = error(StatusCode::INTERNAL_SERVER_ERROR, "error processing raft message");
        return with(refusal, header::CONNECTION, "close");
    }
    if message.r#type() == raftpb::MessageType::MsgSnap {
        // A snapshot needs its database, which comes by another path.
        return error(StatusCode::INTERNAL_SERVER_ERROR, "error processing raft message");
    }
    if !is_local(&message) {
        context.admit(sender, vec![message]);
    }
    empty(StatusCode::NO_CONTENT)
}

/// GET `/raft/stream/<kind>/<id>`: opens a stream to the sender of the request.
pub(super) fn stream(peers: &Arc<Peers>, busy: Busy, request: &Request<Incoming>, from: IpAddr) -> Answered {
    let me = &peers.context().identity;
    let answer = attach(peers, busy, request).unwrap_or_else(|(status, text)| {
        Caller::new(from, request.headers()).refused(peers, request.headers(), text);
        error(status, text)
    });
    with(with(answer, SERVER_VERSION, &me.version), CLUSTER_ID, &hex(me.cluster))
}

fn attach(peers: &Peers, busy: Busy, request: &Request<Incoming>) -> Result<Answered, Refusal> {
    let (context, asked) = (peers.context(), request.headers());
    headers::check(asked, &context.identity).map_err(|text| (StatusCode::PRECONDITION_FAILED, text))?;
    let (kind, from) = stream_path(request.uri().path()).map_err(|text| (StatusCode::NOT_FOUND, text))?;
    if context.host().is_removed(from) {
        return Err((StatusCode::GONE, "removed member"));
    }
    let Some(peer) = peers.member(from) else {
        let urls = headers::text(asked, &PEER_URLS);
        if !urls.is_empty() {
            peers.add_remote(from, urls);
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

pub(crate) fn stream_path(path: &str) -> Result<(Kind, u64), &'static str> {
    let (directory, last) = path.rsplit_once('/').unwrap_or(("", path));
    let kind =
        Kind::ALL.into_iter().find(|kind| directory.strip_prefix("/raft/stream/") == Some(kind.path()));
    let kind = kind.ok_or("invalid path")?;
    headers::parse_id(last).map(|id| (kind, id)).ok_or("invalid from")
}
