//! Messages that have no stream yet: POST `/raft`, four at a time (etcd `rafthttp/pipeline.go`).

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use prost::Message as _;
use proto::raftpb;
use tokio::{sync::Notify, task::AbortHandle};

use crate::{
    context::hex,
    headers,
    limits::Limits,
    peer::Peer,
    post::{Call, Client, Reply},
};

/// What waits for a worker.
#[derive(Debug)]
pub(crate) struct PostQueue {
    messages: Mutex<VecDeque<raftpb::Message>>,
    messages_max: usize,
    arrived: Notify,
}

impl PostQueue {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { messages: Mutex::default(), messages_max: limits.post_messages.max(1), arrived: Notify::new() }
    }

    /// False when the queue is full: the message is dropped.
    pub(crate) fn push(&self, message: raftpb::Message) -> bool {
        let mut messages = self.lock();
        if messages.len() >= self.messages_max {
            return false;
        }
        messages.push_back(message);
        drop(messages);
        self.arrived.notify_one();
        true
    }

    /// Makes every worker that waits look again.
    pub(crate) fn wake(&self) {
        self.arrived.notify_waiters();
    }

    /// `None` for a worker of a peer that is retired: the rest is for the workers of its successor.
    async fn pop(&self, is_retired: &AtomicBool) -> Option<raftpb::Message> {
        loop {
            let arrived = self.arrived.notified();
            if is_retired.load(Ordering::Acquire) {
                // Whoever was woken for a message hands the call on.
                self.arrived.notify_one();
                return None;
            }
            if let Some(message) = self.lock().pop_front() {
                return Some(message);
            }
            arrived.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<raftpb::Message>> {
        self.messages.lock().expect("no panic while the queue is held")
    }
}

/// Starts the workers of a peer; must run inside the runtime.
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
        // A worker whose messages are all sent lets others run: one post may be ready at once, for ever.
        tokio::task::yield_now().await;
    }
}

async fn post(peer: &Peer, client: &mut Client, headers: HeaderMap, body: Bytes) -> io::Result<()> {
    let url = peer.urls.pick().ok_or_else(|| io::Error::other("the peer has no URL"))?;
    let call = Call { method: Method::POST, path: "/raft", headers, body };
    let outcome = match client.call(&url, &call, peer.context().limits.request).await {
        Ok(reply) => judge(peer, &reply),
        Err(e) => Err(e),
    };
    if outcome.is_err() {
        peer.urls.failed(&url);
    }
    outcome
}

/// 204 is success and nothing else is (etcd `checkPostResponse`).
fn judge(peer: &Peer, reply: &Reply) -> io::Result<()> {
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
