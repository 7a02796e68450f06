//! One other member: its lanes, its POST queue, its URLs, its state.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use proto::raftpb;
use tokio::task::AbortHandle;

use crate::{
    codec::Kind,
    context::{Context, hex},
    lane::{Attachment, Lane, Push},
    pipeline::PostQueue,
    urls::Picker,
};

/// What went over the wire with one peer since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// The peer.
    pub member: u64,
    /// Bytes of raft messages sent, link heartbeats included.
    pub sent_bytes: u64,
    /// Bytes of raft messages received, link heartbeats included.
    pub received_bytes: u64,
    /// Messages dropped, POSTs failed, streams lost with messages waiting.
    pub sent_failures: u64,
    /// Streams that broke while they were read.
    pub received_failures: u64,
    /// Times it went from active to inactive.
    pub disconnects: u64,
    /// Whether it is active now.
    pub is_active: bool,
    /// The last probe's round trip; zero before the first.
    pub round_trip: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    sent_failures: AtomicU64,
    received_failures: AtomicU64,
    disconnects: AtomicU64,
    round_trip_nanos: AtomicU64,
}

impl Counters {
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.sent_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn broke(&self) {
        self.received_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn round_trip(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.round_trip_nanos.store(nanos, Ordering::Relaxed);
    }
}

/// How a peer may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A member of the cluster: streams both ways, and POSTs.
    Member,
    /// Known only from its own requests (a member is joining, here or there): answered by POST.
    Remote,
}

pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) standing: Standing,
    pub(crate) urls: Picker,
    /// A remote that turns out to be a member hands it on, with all that is in it.
    pub(crate) posts: Arc<PostQueue>,
    /// Its workers end after the message that they are sending.
    pub(crate) is_retired: AtomicBool,
    pub(crate) counters: Counters,
    lanes: [Lane; 2],
    /// Since when the peer is active; `None` while it is not.
    active: Mutex<Option<Instant>>,
    tasks: Mutex<Vec<AbortHandle>>,
    context: Arc<Context>,
}

impl Peer {
    pub(crate) fn new(
        context: Arc<Context>,
        id: u64,
        urls: &[String],
        standing: Standing,
        posts: Arc<PostQueue>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            standing,
            urls: Picker::new(urls),
            posts,
            is_retired: AtomicBool::new(false),
            counters: Counters::default(),
            lanes: [Lane::new(&context.limits), Lane::new(&context.limits)],
            active: Mutex::new(None),
            tasks: Mutex::new(Vec::new()),
            context,
        })
    }

    pub(crate) fn lane(&self, kind: Kind) -> &Lane {
        &self.lanes[kind as usize]
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Queues a message on the way that etcd's rule picks. Returns the lane to wake.
    ///
    /// `MsgApp` goes to the msgapp stream if there is one; everything else, and `MsgApp` without it, to the message
    /// stream if there is one; else it goes by POST. `MsgSnap` never goes to a stream: it would block it.
    pub(crate) fn push(&self, mut message: raftpb::Message) -> Option<Kind> {
        if message.r#type() == raftpb::MessageType::MsgSnap {
            // Snapshots between members are not supported yet: say so to raft, which will try again.
            self.dropped(true, "snapshots between members are not supported yet");
            return None;
        }
        let is_append = message.r#type == Some(raftpb::MessageType::MsgApp.into());
        let choice: &[Kind] = match (self.standing, is_append) {
            (Standing::Remote, _) => &[],
            (Standing::Member, true) => &Kind::ALL,
            (Standing::Member, false) => &[Kind::Message],
        };
        for &kind in choice {
            match self.lane(kind).push(message) {
                Push::Queued => return Some(kind),
                Push::Full => {
                    self.overflow(kind.name());
                    return None;
                }
                Push::Detached(back) => message = back,
            }
        }
        if !self.posts.push(message) {
            self.overflow("pipeline");
        }
        None
    }

    fn overflow(&self, way: &str) {
        // No line per message: the unreachable report makes raft slow down, and the counter tells.
        slog::debug!(self.context.log, "dropped internal Raft message since sending buffer is full";
            "remote-peer-id" => hex(self.id), "remote-peer-name" => way);
        self.counters.failed();
        self.context.host().unreachable(self.id);
    }

    /// A message is lost for good: raft must know.
    pub(crate) fn dropped(&self, is_snapshot: bool, why: &str) {
        slog::debug!(self.context.log, "failed to send Raft message"; "remote-peer-id" => hex(self.id), "error" => why);
        self.counters.failed();
        self.context.host().unreachable(self.id);
        if is_snapshot {
            self.context.host().snapshot_status(self.id, false);
        }
    }

    /// A stream of this kind was opened by the peer.
    pub(crate) fn attach(&self, kind: Kind) -> Option<Attachment> {
        let attached = self.lane(kind).attach()?;
        self.activate();
        if attached.discarded {
            self.context.host().unreachable(self.id);
        }
        let what = "established TCP streaming connection with remote peer";
        if let Some(before) = self.context.tells(self.id, what) {
            slog::info!(self.context.log, "{}", what; "stream-writer-type" => kind.name(),
                "remote-peer-id" => hex(self.id), "replaced" => attached.replaced, "left-out" => before);
        }
        Some(attached.id)
    }

    /// A stream's response is gone. Whatever was in its connection's buffers is lost too, so raft is told in any case
    /// when it was the newest.
    pub(crate) fn detach(&self, kind: Kind, attachment: Attachment, leftover: bool) {
        let (newest, discarded) = self.lane(kind).detach(attachment);
        if leftover || discarded {
            self.counters.failed();
        }
        if newest {
            let what = "lost TCP streaming connection with remote peer";
            if let Some(before) = self.context.tells(self.id, what) {
                slog::warn!(self.context.log, "{}", what; "stream-writer-type" => kind.name(),
                    "remote-peer-id" => hex(self.id), "left-out" => before);
            }
            self.deactivate(kind.name(), "write", "connection closed");
        }
        if newest || leftover {
            self.context.host().unreachable(self.id);
        }
    }

    pub(crate) fn active_since(&self) -> Option<Instant> {
        *self.active()
    }

    pub(crate) fn activate(&self) {
        let mut active = self.active();
        if active.is_none() {
            *active = Some(Instant::now());
            drop(active);
            let what = "peer became active";
            if let Some(before) = self.context.tells(self.id, what) {
                slog::info!(self.context.log, "{}", what; "peer-id" => hex(self.id), "left-out" => before);
            }
        }
    }

    pub(crate) fn deactivate(&self, way: &str, action: &str, reason: &str) {
        if self.active().take().is_some() {
            self.counters.disconnects.fetch_add(1, Ordering::Relaxed);
            let error = format!("failed to {action} {} on {way} ({reason})", hex(self.id));
            let what = "peer became inactive (message send to peer failed)";
            if let Some(before) = self.context.tells(self.id, what) {
                slog::warn!(self.context.log, "{}", what;
                    "peer-id" => hex(self.id), "error" => error, "left-out" => before);
            }
        }
    }

    pub(crate) fn stats(&self) -> PeerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerStats {
            member: self.id,
            sent_bytes: read(&self.counters.sent_bytes),
            received_bytes: read(&self.counters.received_bytes),
            sent_failures: read(&self.counters.sent_failures),
            received_failures: read(&self.counters.received_failures),
            disconnects: read(&self.counters.disconnects),
            is_active: self.active_since().is_some(),
            round_trip: Duration::from_nanos(read(&self.counters.round_trip_nanos)),
        }
    }

    pub(crate) fn owns(&self, tasks: Vec<AbortHandle>) {
        *self.tasks.lock().expect("no panic while the tasks are held") = tasks;
    }

    /// Another entry of the table has its queue: what it is sending still arrives, as with etcd's remotes. A proposal
    /// lost here would be missed for as long as a request may take.
    pub(crate) fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
        self.posts.wake();
    }

    /// Ends its streams and tasks. Called once, when the peer leaves the table.
    pub(crate) fn stop(&self) {
        for task in self.tasks.lock().expect("no panic while the tasks are held").drain(..) {
            task.abort();
        }
        self.lanes.iter().for_each(Lane::close);
        self.context.forget(self.id);
    }

    fn active(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.active.lock().expect("no panic while the state is held")
    }
}
