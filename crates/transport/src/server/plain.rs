//! Requests other than raft's: probes, members, version, hashes and promotion.

use std::sync::{Arc, atomic::AtomicUsize};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::{
    Answered, body,
    reply::{closing, error, ok, with},
};
use crate::{
    context::{PromoteError, hex},
    hashes::{HashRequest, hash_json},
    headers::{self, CLEARED, CLUSTER_ID, CLUSTER_ID_MISMATCH, LEASE_CHECKPOINTS},
    io::Busy,
    peers::Peers,
    slices::SliceQuestion,
};

const JSON: &str = "application/json";

fn cluster(peers: &Peers) -> String {
    hex(peers.context().identity.cluster)
}

/// Accepts any method. Go detects this content type from the body.
pub(super) fn probing() -> Answered {
    ok("text/plain; charset=utf-8", format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", Timestamp::now()))
}

pub(super) fn members(peers: &Peers) -> Answered {
    let mut list = peers.context().host().members_json();
    if list == "[]" {
        // It joins and has no entry yet. A list would end the search of another one that joins, in etcd too.
        return error(StatusCode::SERVICE_UNAVAILABLE, "no member is known yet");
    }
    list.push('\n');
    with(ok(JSON, list), CLUSTER_ID, &cluster(peers))
}

pub(super) fn version(peers: &Peers) -> Answered {
    with(ok(JSON, peers.context().host().version_json()), LEASE_CHECKPOINTS, CLEARED)
}

pub(super) async fn downgrade_enabled(peers: &Peers, busy: &Arc<AtomicUsize>) -> Answered {
    let question = peers.context().host().downgrade_enabled();
    let _busy = Busy::new(busy);
    let answer = match question.await {
        Ok(enabled) => ok("text/plain", enabled.to_string()),
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed linearized read: {e}")),
    };
    with(answer, CLUSTER_ID, &cluster(peers))
}

pub(super) async fn hash_kv(peers: &Peers, busy: &Arc<AtomicUsize>, request: Request<Incoming>) -> Answered {
    let asked: HashRequest = match question(peers, request).await {
        Ok(asked) => asked,
        Err(refusal) => return refusal,
    };
    let question = peers.context().host().hash_kv(asked.revision);
    let _busy = Busy::new(busy);
    match question.await {
        Ok(hash) => with(ok(JSON, hash_json(&hash)), CLUSTER_ID, &cluster(peers)),
        Err(e) => error(StatusCode::BAD_REQUEST, &e.to_string()),
    }
}

pub(super) async fn hash_slice(
    peers: &Peers,
    busy: &Arc<AtomicUsize>,
    request: Request<Incoming>,
) -> Answered {
    let asked: SliceQuestion = match question(peers, request).await {
        Ok(asked) => asked,
        Err(refusal) => return refusal,
    };
    let question = peers.context().host().hash_slice(asked);
    let _busy = Busy::new(busy);
    match question.await {
        Ok(hash) => ok(JSON, serde_json::to_string(&hash).expect("numbers are always JSON")),
        Err(e) => error(StatusCode::BAD_REQUEST, &e.to_string()),
    }
}

/// The JSON of a GET by a member of the same cluster; else the refusal.
async fn question<T: DeserializeOwned>(peers: &Peers, request: Request<Incoming>) -> Result<T, Answered> {
    let theirs = headers::text(request.headers(), &CLUSTER_ID);
    if !theirs.is_empty() && theirs != cluster(peers) {
        return Err(error(StatusCode::PRECONDITION_FAILED, CLUSTER_ID_MISMATCH));
    }
    let context = peers.context();
    let read = body::read(context, request.into_body(), context.limits.small_body_bytes).await;
    let Ok((body, held)) = read else {
        return Err(closing(error(StatusCode::BAD_REQUEST, "error reading body")));
    };
    let asked = serde_json::from_slice::<T>(&body);
    drop((body, held));
    asked.map_err(|_| error(StatusCode::BAD_REQUEST, "error unmarshalling request"))
}

pub(super) async fn promote(peers: &Peers, busy: &Arc<AtomicUsize>, id: &str) -> Answered {
    let answer = match id.parse::<u64>() {
        // Go's ParseUint takes no sign.
        Ok(member) if !id.starts_with('+') => {
            let question = peers.context().host().promote(member);
            let _busy = Busy::new(busy);
            promoted(peers, member, question.await)
        }
        _ => error(StatusCode::NOT_FOUND, &format!("member {id} not found in cluster")),
    };
    with(answer, CLUSTER_ID, &cluster(peers))
}

fn promoted(peers: &Peers, member: u64, outcome: Result<String, PromoteError>) -> Answered {
    let refusal = match outcome {
        Ok(mut list) => {
            list.push('\n');
            return ok(JSON, list);
        }
        Err(refusal) => refusal,
    };
    peers.context().log_fault(&hex(member), "failed to promote a member", &refusal.to_string());
    match refusal {
        PromoteError::NotFound => error(StatusCode::NOT_FOUND, &refusal.to_string()),
        PromoteError::NotLearner | PromoteError::NotReady => {
            error(StatusCode::PRECONDITION_FAILED, &refusal.to_string())
        }
        PromoteError::Other(_) => {
            let mut answer = ok(JSON, r#"{"message":"Internal Server Error"}"#.to_owned());
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            answer
        }
    }
}
