//! Questions about leases that clients asked of another member: this one is to lead.
//!
//! Statuses and texts are etcd's (`server/lease/leasehttp/http.go`): 404 for "no such lease", 408 for "not applied yet", and
//! 400 or 500 for "not the leader", upon which the other asks again.

use std::sync::{Arc, atomic::AtomicUsize};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use prost::Message;
use proto::{etcdserverpb as pb, leasepb};

use super::{
    Answered,
    body::{self, Refused},
    reply::{closing, error, not_allowed, ok_bytes},
};
use crate::{LeaseRefusal, io::Busy, transport::Transport};

/// Keys of a lease in an answer that is encoded on the thread that serves everybody. Beyond, the peer that asks has one
/// such question at a time gathered already.
const ENCODED_INLINE_MAX: usize = 1_024;

const PROTOBUF: &str = "application/protobuf";

pub(super) async fn keep_alive(
    transport: &Transport,
    busy: &Arc<AtomicUsize>,
    request: Request<Incoming>,
) -> Answered {
    let question: pb::LeaseKeepAliveRequest = match read(transport, request).await {
        Ok(question) => question,
        Err(refusal) => return refusal,
    };
    let answer = transport.context().host().renew_lease(question.id);
    let _busy = Busy::new(busy);
    match answer.await {
        Ok(ttl) => {
            let answer = pb::LeaseKeepAliveResponse { header: None, id: question.id, ttl };
            ok_bytes(PROTOBUF, answer.encode_to_vec().into())
        }
        Err(refusal) => refused(&refusal, StatusCode::BAD_REQUEST),
    }
}

pub(super) async fn time_to_live(
    transport: &Transport,
    busy: &Arc<AtomicUsize>,
    request: Request<Incoming>,
) -> Answered {
    let question: leasepb::LeaseInternalRequest = match read(transport, request).await {
        Ok(question) => question,
        Err(refusal) => return refusal,
    };
    // etcd would crash without the question in the question.
    let Some(question) = question.lease_time_to_live_request else {
        return error(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    let answer = transport.context().host().lease_time_to_live(question.id, question.keys);
    let _busy = Busy::new(busy);
    match answer.await {
        Ok(answer) => {
            let many = answer.keys.len() > ENCODED_INLINE_MAX;
            let answer = leasepb::LeaseInternalResponse { lease_time_to_live_response: Some(answer) };
            let encode = move || Bytes::from(answer.encode_to_vec());
            let bytes = if many { tokio::task::spawn_blocking(encode).await } else { Ok(encode()) };
            match bytes {
                Ok(bytes) => ok_bytes(PROTOBUF, bytes),
                Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
            }
        }
        Err(refusal) => refused(&refusal, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn read<M: Message + Default>(
    transport: &Transport,
    request: Request<Incoming>,
) -> Result<M, Answered> {
    if request.method() != Method::POST {
        return Err(not_allowed(None));
    }
    let context = transport.context();
    let (body, _held) = match body::read(context, request.into_body(), context.limits.small_body_bytes).await
    {
        Ok(read) => read,
        Err(refused @ Refused::Broken(_)) => {
            return Err(error(refused.status(StatusCode::BAD_REQUEST), "error reading body"));
        }
        Err(refused) => {
            return Err(closing(error(refused.status(StatusCode::BAD_REQUEST), &refused.to_string())));
        }
    };
    M::decode(body).map_err(|_| error(StatusCode::BAD_REQUEST, "error unmarshalling request"))
}

fn refused(refusal: &LeaseRefusal, otherwise: StatusCode) -> Answered {
    let status = match refusal {
        LeaseRefusal::NotFound => StatusCode::NOT_FOUND,
        LeaseRefusal::Behind => StatusCode::REQUEST_TIMEOUT,
        LeaseRefusal::Other(_) => otherwise,
    };
    error(status, &refusal.to_string())
}
