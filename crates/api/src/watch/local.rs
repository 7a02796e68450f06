//! A watcher for the server's own calls that wait for a key.

use crate::{state::Api, status::EtcdError, watches::Watches};
use ::watch::{Create, Response, Spec, StreamKey};
use bytes::Bytes;
use prost::Message;
use proto::{etcdserverpb::WatchResponse, mvccpb::Event};
use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};
use tonic::Status;
use types::KeyRange;

/// A stream with one watcher; dropping it closes the stream.
pub(crate) struct Local {
    api: Arc<Api>,
    key: StreamKey,
}

impl Local {
    pub(crate) fn open(api: &Arc<Api>, range: KeyRange, start_revision: i64) -> Self {
        let compacted = api.shared.view().compact_revision();
        let spec = Spec { range, puts: true, deletes: true, previous: false };
        let create = Create { id: 0, spec, start: start_revision, fragment: false, notify: false };
        let key = api.watches.call(&api.shared, |hub| {
            let key = hub.open();
            hub.create(key, create, compacted);
            key
        });
        Self { api: Arc::clone(api), key }
    }

    /// The next events in order, and the revision up to which they are complete.
    pub(crate) async fn next(&mut self) -> Result<(i64, Vec<Event>), Status> {
        loop {
            match poll_fn(|cx| self.poll(cx)).await {
                Response::Events { revision, events, .. } => return Ok((revision, decode(events)?)),
                Response::Compacted { .. } => return Err(EtcdError::Compacted.into()),
                Response::Failed { reason } => return Err(Status::unknown(reason)),
                Response::Refused { .. } | Response::Canceled { .. } => {
                    return Err(Status::internal("a watcher of our own was refused"));
                }
                Response::Created { .. } | Response::Progress { .. } => {}
            }
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Response> {
        let watches: &Watches = &self.api.watches;
        let mut inner = watches.lock();
        let response = inner.hub.pop(self.key);
        if inner.hub.has_work() {
            watches.work.notify_one();
        }
        if response.is_none() {
            inner.wait(self.key, cx.waker().clone());
        }
        response.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.api.watches.call(&self.api.shared, |hub| hub.close(self.key));
        self.api.watches.lock().forget(self.key);
    }
}

/// The hub's bytes are the field `events` of an encoded response.
fn decode(events: Bytes) -> Result<Vec<Event>, Status> {
    let response = WatchResponse::decode(events);
    response.map(|response| response.events).map_err(|error| Status::internal(error.to_string()))
}
