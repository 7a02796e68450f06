//! A stream's responses on their way out: taken from the hub only when HTTP/2 has room for them.

use super::wire::{self, Writer};
use crate::{
    Api,
    grpc::PREFIX_BYTES,
    lock,
    metrics::Call,
    status::Known,
    streams::{FRAME_BYTES, Feed},
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

/// What the two halves of a stream share.
pub(super) struct Line {
    pub(super) api: Arc<Api>,
    pub(super) key: StreamKey,
    /// Responses were taken: there may be room for the answers to more requests. Also, the stream has ended.
    pub(super) taken: Notify,
    /// How the stream ends, once it does.
    end: Mutex<End>,
}

#[derive(Default)]
enum End {
    #[default]
    Open,
    /// With this status, when what is in the queue is sent.
    Failing(Status),
    /// The client is gone.
    Gone,
}

impl Line {
    pub(super) fn new(api: Arc<Api>, key: StreamKey) -> Arc<Self> {
        Arc::new(Self { api, key, taken: Notify::new(), end: Mutex::default() })
    }

    /// The stream ends with this status.
    pub(super) fn fail(&self, status: Status) {
        self.set(End::Failing(status));
        let mut inner = self.api.watches.lock();
        if let Some(waker) = inner.wakers.get_mut(self.key.number()).and_then(Option::take) {
            waker.wake();
        }
    }

    /// Whether nobody is there to be told anything.
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

/// The feed of a stream. Dropped with the stream, it closes it in the hub.
pub(super) struct Watching {
    pub(super) line: Arc<Line>,
    writer: Writer,
}

impl Watching {
    pub(super) fn new(line: Arc<Line>) -> Self {
        Self { line, writer: Writer::default() }
    }

    /// Writes what the hub has for this stream, up to a frame of it.
    fn gather(&mut self, cx: &mut Context<'_>, call: &Call) -> Poll<Option<Result<(), Status>>> {
        let Line { api, key, taken, .. } = &*self.line;
        let (begun, mut events) = (Instant::now(), 0);
        let fragment_bytes = api.limits.max_request_bytes + crate::OVERHEAD_BYTES;
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
            if let Some(status) = self.line.failure() {
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

impl Feed for Watching {
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

impl Drop for Watching {
    fn drop(&mut self) {
        self.line.set(End::Gone);
        self.line.taken.notify_one();
        let Line { api, key, .. } = &*self.line;
        api.watches.call(&api.shared, |hub| hub.close(*key));
        api.watches.lock().forget(*key);
    }
}

const _: () = assert!(PREFIX_BYTES < FRAME_BYTES);

/// What etcd answers to a stream whose client has gone away or cancelled it.
pub(super) fn canceled() -> Status {
    Known::WatchCanceled.into()
}
