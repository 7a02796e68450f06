//! Calls that stream: the client's messages one by one, ours as they come, and what ends a stream from outside.
//!
//! ```text
//! client ─DATA─▶ Inbound::next ─▶ a handler's task ─▶ mpsc, bounded ─▶ Feed ─▶ Outgoing (the body) ─DATA─▶ client
//!                                                                               ▲ Ending: no leader, going down
//! ```
//!
//! Both directions are bounded: h2's window holds back a client that sends faster than the handler reads, and a handler
//! waits for room in its channel while the client does not read. When the client goes away the body is dropped, with it
//! the receiver, and the handler's next send fails: that is how it learns of it.

use crate::{
    budget::{Meter, Share},
    grpc::{self, Framing, PREFIX_BYTES, Prefix, Requests},
    head,
    kv::Deadline,
    metrics::{Call, Received},
    server::Phase,
    socket::Turn,
    status::Known,
};
use bytes::{Bytes, BytesMut};
use prost::Message;
use raft_node::Leadership;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc::Receiver, watch},
    time::{Sleep, sleep, sleep_until, timeout_at},
};
use tonic::{Code, Status};

/// Small messages that are ready together leave in one DATA frame of at most about this size, in bytes: HTTP/2's own
/// default for a frame. A frame costs more than most messages do.
pub(crate) const FRAME_BYTES: usize = 16 << 10;

/// Election timeouts without a leader until streams that asked for one are ended: etcd's `maxNoLeaderCnt`. Streams cost
/// more to open again than a call does, so they are given more time than an election takes.
const LEADERLESS_ELECTIONS: u32 = 3;

/// What a client sends on one stream.
pub(crate) struct Inbound {
    body: Requests,
    framing: Framing,
    /// Received, but no whole message yet.
    pieces: BytesMut,
    meter: Meter,
    /// A whole message that is being unpacked.
    packed: Option<Bytes>,
    received: Received,
    /// Told when the client gives up.
    turn: Turn,
}

impl Inbound {
    /// The messages of a body, each bounded before it is decoded; what waits of them is counted in `share`.
    pub(crate) fn new(body: Requests, framing: Framing, share: &Arc<Share>, received: Received) -> Self {
        Self {
            body,
            framing,
            pieces: BytesMut::new(),
            meter: Meter::new(share),
            packed: None,
            received,
            turn: Turn::default(),
        }
    }

    /// The same on a connection that counts what its client gives up.
    pub(crate) fn of(self, turn: &Turn) -> Self {
        Self { turn: turn.clone(), ..self }
    }

    /// The next message; `None` when the client has sent its last. Dropping the future loses nothing.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.take().await? {
                self.received.message(message.len());
                return self.framing.decode(&message, |bytes| M::decode(bytes)).map(Some);
            }
            let frame = grpc::next_frame(&mut self.body, Some(&mut self.meter), None).await;
            let frame = frame.inspect_err(|status| {
                if status.code() == Code::Cancelled {
                    self.turn.given_up();
                }
            });
            match frame? {
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.pieces.extend_from_slice(&data);
                        let prefix = Prefix::of(&self.pieces, &self.framing)?;
                        let whole = prefix.map_or(0, |prefix| prefix.reserve(&mut self.pieces));
                        self.meter.hold(self.pieces.len(), whole)?;
                    }
                }
                // A prefix that is cut off is the end too, in grpc-go.
                None if self.pieces.len() < PREFIX_BYTES => return Ok(None),
                // Its io.ErrUnexpectedEOF.
                None => return Err(Status::internal("unexpected EOF")),
            }
        }
    }

    async fn take(&mut self) -> Result<Option<Bytes>, Status> {
        if self.packed.is_none() {
            let Some(prefix) = Prefix::of(&self.pieces, &self.framing)? else { return Ok(None) };
            let Some(message) = prefix.take(&mut self.pieces) else { return Ok(None) };
            // Less than before: it fits.
            let _ = self.meter.hold(self.pieces.len(), 0);
            if !prefix.is_packed(&self.framing)? {
                return Ok(Some(message));
            }
            self.packed = Some(message);
        }
        let (Some(packed), Some(zip)) = (&self.packed, &self.framing.zip) else { return Ok(None) };
        let message = zip.unpack(packed.clone(), self.framing.max_bytes).await;
        self.packed = None;
        message.map(Some)
    }
}

/// Where a stream's answers come from.
pub(crate) trait Feed: Send {
    /// The next messages, each with its prefix, at most one DATA frame of them where they are small; `None` ends the call
    /// well. Tells the call of every message.
    fn poll_messages(&mut self, cx: &mut Context<'_>, call: &Call) -> Poll<Option<Result<Bytes, Status>>>;
}

/// A channel of encoded messages; an error is the last thing in it.
pub(crate) struct Channel {
    messages: Receiver<Result<Bytes, Status>>,
    /// Taken out of the channel already, while messages before it were gathered.
    next: Option<Result<Bytes, Status>>,
}

impl Channel {
    pub(crate) fn new(messages: Receiver<Result<Bytes, Status>>) -> Self {
        Self { messages, next: None }
    }
}

impl Feed for Channel {
    fn poll_messages(&mut self, cx: &mut Context<'_>, call: &Call) -> Poll<Option<Result<Bytes, Status>>> {
        let first = match self.next.take() {
            Some(first) => first,
            None => match ready!(self.messages.poll_recv(cx)) {
                Some(first) => first,
                None => return Poll::Ready(None),
            },
        };
        let Ok(first) = first else { return Poll::Ready(Some(first)) };
        call.sent(first.len() - PREFIX_BYTES);
        let mut gathered = BytesMut::new();
        while let Ok(next) = self.messages.try_recv() {
            match next {
                Ok(next) if first.len() + gathered.len() + next.len() <= FRAME_BYTES => {
                    call.sent(next.len() - PREFIX_BYTES);
                    gathered.extend_from_slice(&next);
                }
                later => {
                    self.next = Some(later);
                    break;
                }
            }
        }
        if gathered.is_empty() {
            return Poll::Ready(Some(Ok(first)));
        }
        let mut frame = BytesMut::with_capacity(first.len() + gathered.len());
        frame.extend_from_slice(&first);
        frame.extend_from_slice(&gathered);
        Poll::Ready(Some(Ok(frame.freeze())))
    }
}

/// What ends a stream from outside, and with which status.
pub(crate) type Ending = Pin<Box<dyn Future<Output = Status> + Send>>;

/// The answers of a stream on their way out.
pub(crate) struct Outgoing {
    feed: Box<dyn Feed>,
    call: Call,
    ending: Option<Ending>,
    deadline: Deadline,
    /// Made when the stream waits for the first time.
    timer: Option<Pin<Box<Sleep>>>,
    /// The longest message that is sent, in bytes.
    max_bytes: usize,
}

impl Outgoing {
    pub(crate) fn new(feed: Box<dyn Feed>, call: Call, ending: Option<Ending>) -> Self {
        Self { feed, call, ending, deadline: None, timer: None, max_bytes: usize::MAX }
    }

    /// Ends with the caller's patience.
    pub(crate) fn until(mut self, deadline: Deadline) -> Self {
        self.deadline = deadline;
        self
    }

    /// Ends at a message that is longer.
    pub(crate) fn at_most(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// The next DATA frame, or how the stream ends. `Ending` is looked at only while there is nothing to send: what is
    /// ready still leaves, until the caller's deadline.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        let end = if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            head::over()
        } else {
            match self.feed.poll_messages(cx, &self.call) {
                Poll::Ready(Some(Ok(data))) => match grpc::sendable(data, self.max_bytes) {
                    Ok(data) => return Poll::Ready(Ok(data)),
                    Err(status) => status,
                },
                Poll::Ready(Some(Err(status))) => status,
                Poll::Ready(None) => Status::ok(""),
                Poll::Pending => ready!(self.poll_end(cx)),
            }
        };
        self.call.end(end.code());
        debug_assert!(end.code() == Code::Ok || !end.message().is_empty());
        Poll::Ready(Err(end))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Some(ending) = &mut self.ending
            && let Poll::Ready(status) = ending.as_mut().poll(cx)
        {
            return Poll::Ready(status);
        }
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline.into())));
        timer.as_mut().poll(cx).map(|()| head::over())
    }
}

/// Runs what feeds a stream in a task of its own, no longer than the stream's caller waits: also where nothing of it is
/// read, so that nobody looks at the stream's own deadline.
pub(crate) fn spawn_until(deadline: Deadline, work: impl Future<Output = ()> + Send + 'static) {
    match deadline {
        None => tokio::spawn(work),
        Some(deadline) => tokio::spawn(async move { drop(timeout_at(deadline.into(), work).await) }),
    };
}

/// Resolves when this member has been without a leader for too long, after now.
pub(crate) async fn leader_lost(mut losses: watch::Receiver<u64>) -> Status {
    losses.mark_unchanged();
    if losses.changed().await.is_err() {
        // The node has ended, and the server goes down with it.
        return Known::Stopped.into();
    }
    Known::NoLeader.into()
}

/// Resolves when the server goes down.
pub(crate) async fn going_down(mut phase: watch::Receiver<Phase>) -> Status {
    // An error means that the listener is gone already.
    let _ = phase.wait_for(|phase| *phase > Phase::Serving).await;
    Known::Stopped.into()
}

/// Counts the times that this member was without a leader for [`LEADERLESS_ELECTIONS`] election timeouts (etcd's
/// `monitorLeader`). Ends with the node.
pub(crate) async fn count_losses(
    mut leadership: watch::Receiver<Leadership>,
    election_timeout: Duration,
    losses: watch::Sender<u64>,
) {
    let patience = election_timeout * LEADERLESS_ELECTIONS;
    loop {
        if leadership.wait_for(|leadership| leadership.leader == 0).await.is_err() {
            return;
        }
        tokio::select! {
            found = leadership.wait_for(|leadership| leadership.leader != 0) => match found {
                Ok(_) => continue,
                Err(_) => return,
            },
            () = sleep(patience) => losses.send_modify(|count| *count += 1),
        }
        if leadership.wait_for(|leadership| leadership.leader != 0).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[path = "tests/streams.rs"]
mod tests;
