//! A peer: its lanes, queues, URLs, counters and state.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use proto::raftpb;
use tokio::task::AbortHandle;

use crate::{
    codec::Kind,
    context::{Context, hex, log_limited},
    lane::{Attachment, Lane, Push},
    post_queue::PostQueue,
    snapshot_queue::SnapshotQueue,
    urls::Picker,
};

/// Counters of one peer since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// The ID of the peer.
    pub member: u64,
    /// Bytes of raft messages sent, including link heartbeats.
    pub sent_bytes: u64,
    /// Bytes of raft messages received, including link heartbeats.
    pub received_bytes: u64,
    /// Messages dropped, POSTs failed, streams lost with messages waiting.
    pub sent_failures: u64,
    /// Streams that failed while they were read.
    pub received_failures: u64,
    /// How often it became inactive.
    pub disconnects: u64,
    /// Whether it is active now.
    pub is_active: bool,
    /// The round trip of the last probe; zero before the first.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerKind {
    /// A member of the cluster: has streams in both directions, and POSTs.
    Member,
    /// Known only from its requests, while it or this member joins: answered by POST.
    Remote,
}

pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) kind: PeerKind,
    pub(crate) urls: Picker,
    /// A remote that becomes a member passes this on to its successor.
    pub(crate) posts: Arc<PostQueue>,
    pub(crate) snapshots: SnapshotQueue,
    /// Tells the POST workers to end after their current message.
    pub(crate) is_retired: AtomicBool,
    pub(crate) counters: Counters,
    lanes: [Lane; 2],
    /// Since when the peer is active; `None` if it is not.
    active: Mutex<Option<Instant>>,
    tasks: Mutex<Vec<AbortHandle>>,
    /// Sends its snapshots; of a member only.
    snapshot_task: OnceLock<AbortHandle>,
    context: Arc<Context>,
}

impl Peer {
    pub(crate) fn new(
        context: Arc<Context>,
        id: u64,
        urls: &[String],
        kind: PeerKind,
        posts: Arc<PostQueue>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            kind,
            urls: Picker::new(urls),
            posts,
            snapshots: SnapshotQueue::default(),
            is_retired: AtomicBool::new(false),
            counters: Counters::default(),
            lanes: [Lane::new(&context.limits), Lane::new(&context.limits)],
            active: Mutex::new(None),
            tasks: Mutex::new(Vec::new()),
            snapshot_task: OnceLock::new(),
            context,
        })
    }

    pub(crate) fn lane(&self, kind: Kind) -> &Lane {
        &self.lanes[kind as usize]
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Queues a message by etcd's rule: `MsgApp` on the msgapp stream if open; else, like all others, on the message
    /// stream if open; else by POST. `MsgSnap` has a way of its own, with a database. Returns the lane to wake.
    pub(crate) fn push(&self, mut message: raftpb::Message) -> Option<Kind> {
        if message.r#type() == raftpb::MessageType::MsgSnap {
            match self.kind {
                PeerKind::Member => self.snapshots.push(message),
                // Raft will try again.
                PeerKind::Remote => self.dropped(true, "the peer is not known as a member yet"),
            }
            return None;
        }
        let is_append = message.r#type == Some(raftpb::MessageType::MsgApp.into());
        let choice: &[Kind] = match (self.kind, is_append) {
            (PeerKind::Remote, _) => &[],
            (PeerKind::Member, true) => &Kind::ALL,
            (PeerKind::Member, false) => &[Kind::Message],
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
        // No warning per message: raft slows down when told, and there is a counter.
        slog::debug!(self.context.log, "dropped internal Raft message since sending buffer is full";
            "remote-peer-id" => hex(self.id), "remote-peer-name" => way);
        self.counters.failed();
        self.context.host().unreachable(self.id);
    }

    pub(crate) fn dropped(&self, is_snapshot: bool, why: &str) {
        slog::debug!(self.context.log, "failed to send Raft message"; "remote-peer-id" => hex(self.id), "error" => why);
        self.counters.failed();
        self.context.host().unreachable(self.id);
        if is_snapshot {
            self.context.host().snapshot_status(self.id, false);
        }
    }

    pub(crate) fn attach(&self, kind: Kind) -> Option<Attachment> {
        let attached = self.lane(kind).attach()?;
        self.activate();
        if attached.discarded {
            self.context.host().unreachable(self.id);
        }
        log_limited!(info, self.context, self.id, "established TCP streaming connection with remote peer";
            "stream-writer-type" => kind.name(), "remote-peer-id" => hex(self.id), "replaced" => attached.replaced);
        Some(attached.id)
    }

    /// A stream has ended. What its connection had buffered is lost, so if it was the newest, raft is always told.
    pub(crate) fn detach(&self, kind: Kind, attachment: Attachment, leftover: bool) {
        let (newest, discarded) = self.lane(kind).detach(attachment);
        if leftover || discarded {
            self.counters.failed();
        }
        if newest {
            log_limited!(warn, self.context, self.id, "lost TCP streaming connection with remote peer";
                "stream-writer-type" => kind.name(), "remote-peer-id" => hex(self.id));
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
            log_limited!(info, self.context, self.id, "peer became active"; "peer-id" => hex(self.id));
        }
    }

    pub(crate) fn deactivate(&self, way: &str, action: &str, reason: &str) {
        if self.active().take().is_some() {
            self.counters.disconnects.fetch_add(1, Ordering::Relaxed);
            let error = format!("failed to {action} {} on {way} ({reason})", hex(self.id));
            log_limited!(warn, self.context, self.id, "peer became inactive (message send to peer failed)";
                "peer-id" => hex(self.id), "error" => error);
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

    pub(crate) fn set_tasks(&self, tasks: Vec<AbortHandle>) {
        *self.tasks.lock().expect("no panic while the tasks are held") = tasks;
    }

    /// Called once, before the peer is used.
    pub(crate) fn set_snapshot_task(&self, task: AbortHandle) {
        self.snapshot_task.set(task).expect("a peer has one");
    }

    /// A member that leaves needs no state any more, whatever else is on its way to it.
    pub(crate) fn give_up_snapshot(&self) {
        if let Some(task) = self.snapshot_task.get() {
            task.abort();
        }
    }

    /// A successor has its queue. What it is sending still arrives, as with etcd's remotes: loss costs a timeout.
    pub(crate) fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
        self.posts.wake();
    }

    /// Ends its streams and tasks. Called once, when the peer is removed from the table.
    pub(crate) fn stop(&self) {
        for task in self.tasks.lock().expect("no panic while the tasks are held").drain(..) {
            task.abort();
        }
        self.give_up_snapshot();
        self.lanes.iter().for_each(Lane::close);
        self.context.forget(self.id);
    }

    fn active(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.active.lock().expect("no panic while the state is held")
    }
}
