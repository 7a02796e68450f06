//! Requests that are not raft's: members, version, hashes, and what is refused by name.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::{
    Answered, body,
    reply::{closing, error, not_allowed, ok, with},
};
use crate::{
    context::{HashKv, PromoteError, hex},
    headers::{self, CLEARED, CLUSTER_ID, CLUSTER_ID_MISMATCH, LEASE_CHECKPOINTS},
    io::Busy,
    transport::Transport,
};

const JSON: &str = "application/json";

fn cluster(transport: &Transport) -> String {
    hex(transport.context().identity.cluster)
}

/// Any method. Go finds the content type by looking at the body.
pub(super) fn probing() -> Answered {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ok("text/plain; charset=utf-8", format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", rfc3339(now)))
}

/// A time since 1970 in Go's `RFC3339Nano`: trailing zeros of the fraction are left out.
pub(crate) fn rfc3339(since_epoch: Duration) -> String {
    let (seconds, nanos) = (since_epoch.as_secs(), since_epoch.subsec_nanos());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days to civil date: H. Hinnant, "chrono-compatible low-level date algorithms".
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let fraction = match nanos {
        0 => String::new(),
        nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    };
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

pub(super) fn members(transport: &Transport, request: &Request<Incoming>) -> Answered {
    if request.method() != Method::GET {
        return not_allowed(Some("GET"));
    }
    let mut list = transport.context().host().members_json();
    list.push('\n');
    with(ok(JSON, list), CLUSTER_ID, &cluster(transport))
}

pub(super) fn version(transport: &Transport, request: &Request<Incoming>) -> Answered {
    if request.method() != Method::GET {
        return not_allowed(Some("GET"));
    }
    with(ok(JSON, transport.context().host().version_json()), LEASE_CHECKPOINTS, CLEARED)
}

pub(super) async fn downgrade_enabled(
    transport: &Transport,
    busy: &Arc<AtomicUsize>,
    request: &Request<Incoming>,
) -> Answered {
    if request.method() != Method::GET {
        return not_allowed(Some("GET"));
    }
    let question = transport.context().host().downgrade_enabled();
    let _busy = Busy::new(busy);
    let answer = match question.await {
        Ok(enabled) => ok("text/plain", enabled.to_string()),
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed linearized read: {e}")),
    };
    with(answer, CLUSTER_ID, &cluster(transport))
}

#[derive(Deserialize)]
struct HashRequest {
    #[serde(default)]
    revision: i64,
}

/// Go's JSON of `HashKVResponse`: keys with zero values are left out.
#[derive(Serialize)]
struct HashResponse {
    header: HashHeader,
    #[serde(skip_serializing_if = "is_zero")]
    hash: i64,
    #[serde(skip_serializing_if = "is_zero")]
    compact_revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    hash_revision: i64,
}

#[derive(Serialize)]
struct HashHeader {
    #[serde(skip_serializing_if = "is_zero")]
    revision: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

pub(crate) fn hash_json(hash: &HashKv) -> String {
    let response = HashResponse {
        header: HashHeader { revision: hash.revision },
        hash: i64::from(hash.hash),
        compact_revision: hash.compact_revision,
        hash_revision: hash.hash_revision,
    };
    serde_json::to_string(&response).expect("numbers are always JSON")
}

pub(super) async fn hash_kv(
    transport: &Transport,
    busy: &Arc<AtomicUsize>,
    request: Request<Incoming>,
) -> Answered {
    if request.method() != Method::GET {
        return not_allowed(Some("GET"));
    }
    let theirs = headers::text(request.headers(), &CLUSTER_ID);
    if !theirs.is_empty() && theirs != cluster(transport) {
        return error(StatusCode::PRECONDITION_FAILED, CLUSTER_ID_MISMATCH);
    }
    let context = transport.context();
    let read = body::read(context, request.into_body(), context.limits.small_body_bytes).await;
    let Ok((body, held)) = read else {
        return closing(error(StatusCode::BAD_REQUEST, "error reading body"));
    };
    let asked = serde_json::from_slice::<HashRequest>(&body);
    drop((body, held));
    let Ok(asked) = asked else {
        return error(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    let question = transport.context().host().hash_kv(asked.revision);
    let _busy = Busy::new(busy);
    match question.await {
        Ok(hash) => with(ok(JSON, hash_json(&hash)), CLUSTER_ID, &cluster(transport)),
        Err(e) => error(StatusCode::BAD_REQUEST, &e.to_string()),
    }
}

pub(super) async fn promote(
    transport: &Transport,
    busy: &Arc<AtomicUsize>,
    request: &Request<Incoming>,
    id: &str,
) -> Answered {
    if request.method() != Method::POST {
        return not_allowed(Some("POST"));
    }
    let answer = match id.parse::<u64>() {
        // Go's ParseUint takes no sign.
        Ok(member) if !id.starts_with('+') => {
            let question = transport.context().host().promote(member);
            let _busy = Busy::new(busy);
            promoted(transport, member, question.await)
        }
        _ => error(StatusCode::NOT_FOUND, &format!("member {id} not found in cluster")),
    };
    with(answer, CLUSTER_ID, &cluster(transport))
}

fn promoted(transport: &Transport, member: u64, outcome: Result<String, PromoteError>) -> Answered {
    let refusal = match outcome {
        Ok(mut list) => {
            list.push('\n');
            return ok(JSON, list);
        }
        Err(refusal) => refusal,
    };
    transport.context().complain(&hex(member), "failed to promote a member", &refusal.to_string());
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
