//! Posts messages for which there is no stream to `/raft`, four at a time (etcd `rafthttp/pipeline.go`).

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use prost::Message as _;
use tokio::task::AbortHandle;

use crate::{
    context::hex,
    headers,
    peer::Peer,
    post::{Call, Client, Reply},
};

/// Starts the workers of a peer. Call it inside the runtime.
pub(crate) fn spawn(peer: &Arc<Peer>) -> Vec<AbortHandle> {
    (0..peer.context().limits.post_workers.max(1))
        .map(|_| tokio::spawn(work(peer.clone())).abort_handle())
        .collect()
}

async fn work(peer: Arc<Peer>) {
    let mut client = Client::new(&peer.context().limits);
    let mut request_headers = headers::outgoing(&peer.context().identity);
    request_headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
    while let Some(message) = peer.posts.pop(&peer.is_retired).await {
        let body = Bytes::from(message.encode_to_vec());
        let size = body.len();
        match post(&peer, &mut client, request_headers.clone(), body).await {
            Ok(()) => {
                peer.counters.sent(size);
                peer.activate();
            }
            Err(e) => {
                peer.deactivate("pipeline", "write", &e.to_string());
                peer.dropped(false, &e.to_string()); // snapshots are not posted
            }
        }
        // Posts may complete at once for ever: let other tasks run.
        tokio::task::yield_now().await;
    }
}

async fn post(peer: &Peer, client: &mut Client, headers: HeaderMap, body: Bytes) -> io::Result<()> {
    let url = peer.urls.pick().ok_or_else(|| io::Error::other("the peer has no URL"))?;
    let call = Call { method: Method::POST, path: "/raft", headers, body };
    let outcome = match client.call(&url, &call, peer.context().limits.request).await {
        Ok(reply) => check_reply(peer, &reply),
        Err(e) => Err(e),
    };
    if outcome.is_err() {
        peer.urls.failed(&url);
    }
    outcome
}

/// Only 204 is success (etcd `checkPostResponse`).
pub(crate) fn check_reply(peer: &Peer, reply: &Reply) -> io::Result<()> {
    match reply.status {
        StatusCode::NO_CONTENT => Ok(()),
        StatusCode::FORBIDDEN => {
            peer.context().rejected_by(peer.id);
            Err(io::Error::other("the member has been permanently removed from the cluster"))
        }
        StatusCode::PRECONDITION_FAILED => Err(io::Error::other(format!(
            "{} (cluster of {}: {})",
            reply.text(),
            hex(peer.id),
            headers::text(&reply.headers, &headers::CLUSTER_ID)
        ))),
        status => Err(io::Error::other(format!("unexpected http status {status} while posting"))),
    }
}
