//! The sending end of a stream: the body of the response to a peer's GET request. hyper polls it from the connection's
//! own task: no writer task, no channel. A frame has all waiting messages, encoded into one buffer and written at once.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::Arc,
    task::{Context as Cx, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use proto::raftpb;
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::{
    codec::{Encoder, Kind},
    io::Busy,
    lane::Attachment,
    peer::Peer,
};

pub(crate) struct StreamBody {
    peer: Arc<Peer>,
    kind: Kind,
    attachment: Attachment,
    encoder: Encoder,
    batch: VecDeque<raftpb::Message>,
    out: BytesMut,
    heartbeat: Interval,
    /// Reads have no deadline while the stream is open.
    _busy: Busy,
}

impl StreamBody {
    /// Attaches to the peer's lane; `None` if the peer is being removed.
    pub(crate) fn attach(peer: Arc<Peer>, kind: Kind, busy: Busy) -> Option<Self> {
        let attachment = peer.attach(kind)?;
        let every = peer.context().limits.heartbeat;
        let mut heartbeat = interval_at(tokio::time::Instant::now() + every, every);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(Self {
            peer,
            kind,
            attachment,
            encoder: Encoder::new(kind),
            batch: VecDeque::new(),
            out: BytesMut::new(),
            heartbeat,
            _busy: busy,
        })
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Cx<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let limits = &self.peer.context().limits;
        let (kept_bytes, batch_bytes) = (limits.buffer_kept_bytes, limits.batch_bytes.max(1));
        if self.out.capacity() > kept_bytes {
            self.out = BytesMut::new();
        }
        if self.batch.is_empty() {
            match self.peer.lane(self.kind).poll_take(self.attachment, cx, &mut self.batch) {
                Poll::Ready(false) => return Poll::Ready(None),
                Poll::Ready(true) | Poll::Pending => {}
            }
        }
        while self.out.len() < batch_bytes
            && let Some(message) = self.batch.pop_front()
        {
            self.encoder.encode(&message, &mut self.out);
        }
        if self.out.is_empty() && self.heartbeat.poll_tick(cx).is_ready() {
            self.encoder.heartbeat(&mut self.out);
        }
        if self.out.is_empty() {
            return Poll::Pending;
        }
        self.peer.counters.sent(self.out.len());
        Poll::Ready(Some(Ok(Frame::data(self.out.split().freeze()))))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.peer.detach(self.kind, self.attachment, !self.batch.is_empty());
    }
}
