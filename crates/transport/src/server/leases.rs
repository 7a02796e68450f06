//! Lease requests that another member forwards to this one as the leader. Statuses and texts are etcd's
//! (`server/lease/leasehttp/http.go`): 404 for an unknown lease, 408 if this member is behind, and 400 or 500 if it is
//! not the leader, after which the other member retries.

use std::sync::{Arc, atomic::AtomicUsize};

use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use prost::Message;
use proto::{etcdserverpb as pb, leasepb};

use super::{
    Answered,
    body::{self, Refused},
    reply::{closing, error, ok_bytes},
};
use crate::{LeaseRefusal, io::Busy, peers::Peers};

/// Keys of a lease up to which a response is encoded on the runtime's thread.
const ENCODED_INLINE_MAX: usize = 1_024;

const PROTOBUF: &str = "application/protobuf";

pub(super) async fn keep_alive(
    peers: &Peers,
    busy: &Arc<AtomicUsize>,
    request: Request<Incoming>,
) -> Answered {
    let question: pb::LeaseKeepAliveRequest = match read(peers, request).await {
        Ok(question) => question,
        Err(refusal) => return refusal,
    };
    let answer = peers.context().host().renew_lease(question.id);
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
    peers: &Peers,
    busy: &Arc<AtomicUsize>,
    request: Request<Incoming>,
) -> Answered {
    let question: leasepb::LeaseInternalRequest = match read(peers, request).await {
        Ok(question) => question,
        Err(refusal) => return refusal,
    };
    // etcd would crash.
    let Some(question) = question.lease_time_to_live_request else {
        return error(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    let answer = peers.context().host().lease_time_to_live(question.id, question.keys);
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

async fn read<M: Message + Default>(peers: &Peers, request: Request<Incoming>) -> Result<M, Answered> {
    let context = peers.context();
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
