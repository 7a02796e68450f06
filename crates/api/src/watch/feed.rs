//! The responses of a watch stream, taken from the hub only when HTTP/2 has room.

use super::wire::{self, Writer};
use crate::{
    feed::{FRAME_BYTES, Feed},
    frame::PREFIX_BYTES,
    metrics::Call,
    state::Api,
    status::EtcdError,
};
use ::watch::{Response, StreamKey};
use bytes::Bytes;
use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Instant,
};
use tokio::sync::Notify;
use tonic::Status;
use types::lock;

pub(super) struct StreamState {
    pub(super) api: Arc<Api>,
    pub(super) key: StreamKey,
    /// Notified when responses were taken, and at the end of the stream.
    pub(super) taken: Notify,
    end: Mutex<End>,
}

#[derive(Default)]
enum End {
    #[default]
    Open,
    /// Ends with this status once the queue is sent.
    Failing(Status),
    Gone,
}

impl StreamState {
    pub(super) fn new(api: Arc<Api>, key: StreamKey) -> Arc<Self> {
        Arc::new(Self { api, key, taken: Notify::new(), end: Mutex::default() })
    }

    pub(super) fn fail(&self, status: Status) {
        self.set(End::Failing(status));
        self.api.watches.lock().wake_one(self.key);
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(*lock(&self.end), End::Gone)
    }

    fn set(&self, end: End) {
        let mut known = lock(&self.end);
        if !matches!(*known, End::Gone) {
            *known = end;
        }
    }

    fn failure(&self) -> Option<Status> {
        match &*lock(&self.end) {
            End::Failing(status) => Some(status.clone()),
            End::Open | End::Gone => None,
        }
    }
}

/// A watch stream's responses. Dropping it closes the stream in the hub.
pub(super) struct ResponseFeed {
    pub(super) state: Arc<StreamState>,
    writer: Writer,
}

impl ResponseFeed {
    pub(super) fn new(state: Arc<StreamState>) -> Self {
        Self { state, writer: Writer::default() }
    }

    /// Encodes the hub's responses for this stream, up to one frame.
    fn gather(&mut self, cx: &mut Context<'_>, call: &Call) -> Poll<Option<Result<(), Status>>> {
        let StreamState { api, key, taken, .. } = &*self.state;
        let (begun, mut events) = (Instant::now(), 0);
        let fragment_bytes = api.limits.message_bytes_max();
        let header = api.header(0);
        let mut inner = api.watches.lock();
        while self.writer.len() < FRAME_BYTES {
            let Some(response) = inner.hub.pop(*key) else { break };
            match &response {
                Response::Failed { reason } => return Poll::Ready(Some(Err(Status::unknown(reason)))),
                Response::Events { count, .. } => events += count,
                _ => {}
            }
            let header = |revision| proto::etcdserverpb::ResponseHeader { revision, ..header };
            wire::write(response, header, fragment_bytes, &mut self.writer, &mut |bytes| call.sent(bytes));
        }
        if self.writer.len() == 0 {
            if let Some(status) = self.state.failure() {
                return Poll::Ready(Some(Err(status)));
            }
            inner.wait(*key, cx.waker().clone());
            return Poll::Pending;
        }
        if inner.hub.has_work() {
            api.watches.work.notify_one();
        }
        drop(inner);
        taken.notify_one();
        api.metrics.watch.observe(begun, events);
        Poll::Ready(Some(Ok(())))
    }
}

impl Feed for ResponseFeed {
    fn poll_messages(&mut self, cx: &mut Context<'_>, call: &Call) -> Poll<Option<Result<Bytes, Status>>> {
        if let Some(piece) = self.writer.take() {
            return Poll::Ready(Some(Ok(piece)));
        }
        match std::task::ready!(self.gather(cx, call)) {
            Some(Ok(())) => Poll::Ready(self.writer.take().map(Ok)),
            Some(Err(status)) => Poll::Ready(Some(Err(status))),
            None => Poll::Ready(None),
        }
    }
}

impl Drop for ResponseFeed {
    fn drop(&mut self) {
        self.state.set(End::Gone);
        self.state.taken.notify_one();
        let StreamState { api, key, .. } = &*self.state;
        api.watches.call(&api.shared, |hub| hub.close(*key));
        api.watches.lock().forget(*key);
    }
}

const _: () = assert!(PREFIX_BYTES < FRAME_BYTES);

/// etcd's status for a stream that its client cancelled or left.
pub(super) fn canceled() -> Status {
    EtcdError::WatchCanceled.into()
}
