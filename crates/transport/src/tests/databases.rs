//! Databases that are made while they are sent, and read while they come.

use std::{
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use proto::raftpb::{ConfState, Message, MessageType, Snapshot, SnapshotMetadata};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use super::world::Node;
use crate::{Answer, IncomingSnapshot, OutgoingSnapshot, SnapshotRefusal};

/// The index in raft's message, and the newer one of what the host sends.
pub(super) const WANTED: u64 = 40;
pub(super) const MADE: u64 = 57;

/// A part of the endless database in which each byte is its own place modulo 251.
pub(super) fn content(at: u64, length: usize) -> Bytes {
    static PATTERN: LazyLock<Bytes> = LazyLock::new(|| (0..=250).cycle().take(3 << 20).collect());
    let from = usize::try_from(at % 251).unwrap();
    PATTERN.slice(from..from + length)
}

/// The SHA-256 of the first bytes of [`content`].
pub(super) fn sum(bytes: u64) -> String {
    let mut hash = Sha256::new();
    let mut at = 0;
    while at < bytes {
        let piece = content(at, usize::try_from((bytes - at).min(1 << 20)).unwrap());
        hash.update(&piece);
        at += piece.len() as u64;
    }
    format!("{:x}", hash.finalize())
}

/// What raft asks to send.
pub(super) fn wanted(from: u64, to: u64) -> Message {
    let metadata = SnapshotMetadata { index: Some(WANTED), term: Some(3), ..Default::default() };
    Message {
        r#type: Some(MessageType::MsgSnap.into()),
        to: Some(to),
        from: Some(from),
        term: Some(3),
        snapshot: Some(Snapshot { metadata: Some(metadata), data: None }),
        ..Default::default()
    }
}

/// What the host makes of it.
pub(super) fn made(mut message: Message) -> Message {
    let conf_state = ConfState { voters: vec![0xa1, 0xb2], ..Default::default() };
    let metadata = SnapshotMetadata { index: Some(MADE), term: Some(3), conf_state: Some(conf_state) };
    message.snapshot = Some(Snapshot { metadata: Some(metadata), data: Some("{}".into()) });
    message
}

/// What a host gives.
#[derive(Clone)]
pub(super) struct Plan {
    /// The announced length, in bytes.
    pub(super) bytes: u64,
    /// What is given of it before the pieces end, in bytes.
    pub(super) given: u64,
    pub(super) piece: usize,
    /// The time before each piece.
    pub(super) pause: Duration,
    /// An error after the last piece.
    pub(super) error: Option<&'static str>,
}

impl Plan {
    pub(super) fn of(bytes: u64) -> Self {
        Self { bytes, given: bytes, piece: 64 << 10, pause: Duration::ZERO, error: None }
    }
}

/// Counts what a host gives.
#[derive(Clone, Default)]
pub(super) struct Source {
    /// Bytes that were taken from the host.
    pub(super) given: Arc<AtomicU64>,
    /// The messages that it was asked with.
    pub(super) asked: Arc<Mutex<Vec<Message>>>,
    /// Producers that have ended.
    pub(super) ended: Arc<AtomicUsize>,
}

impl Source {
    /// From now on the node sends this to whoever needs a snapshot.
    pub(super) fn of(node: &Node, plan: Plan) -> Self {
        let source = Self::default();
        let made_by = source.clone();
        let make = move |message: Message| -> Answer<Result<OutgoingSnapshot, String>> {
            made_by.asked.lock().unwrap().push(message.clone());
            let (sender, pieces) = mpsc::channel(1);
            tokio::spawn(produce(plan.clone(), made_by.clone(), sender));
            let bytes = plan.bytes;
            Box::pin(async move { Ok(OutgoingSnapshot { message: made(message), bytes, pieces }) })
        };
        *node.host.make.lock().unwrap() = Some(Box::new(make));
        source
    }

    pub(super) fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    pub(super) fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn produce(plan: Plan, source: Source, pieces: mpsc::Sender<Result<Bytes, String>>) {
    let mut at = 0;
    while at < plan.given {
        if !plan.pause.is_zero() {
            sleep(plan.pause).await;
        }
        let length = usize::try_from((plan.given - at).min(plan.piece as u64)).unwrap();
        if pieces.send(Ok(content(at, length))).await.is_err() {
            source.ended.fetch_add(1, Ordering::Relaxed);
            return;
        }
        at += length as u64;
        source.given.fetch_add(length as u64, Ordering::Relaxed);
    }
    if let Some(error) = plan.error {
        // Nobody may be there any more.
        let _ = pieces.send(Err(error.to_owned())).await;
    }
    source.ended.fetch_add(1, Ordering::Relaxed);
}

/// How a host reads.
#[derive(Clone, Default)]
pub(super) struct Habit {
    /// Waited for after the first piece.
    pub(super) gate: Option<Arc<Notify>>,
    /// After each of the first ten pieces.
    pub(super) pause: Duration,
    /// After this many bytes it refuses.
    pub(super) refusal: Option<(u64, SnapshotRefusal)>,
    /// After the end of the database.
    pub(super) install: Duration,
}

/// What a host got.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Received {
    pub(super) message: Message,
    pub(super) bytes: u64,
    pub(super) sum: String,
    pub(super) error: Option<String>,
}

/// Remembers what a host got.
#[derive(Clone, Default)]
pub(super) struct Sink {
    /// Snapshots that it began to read.
    pub(super) begun: Arc<AtomicUsize>,
    /// Bytes that it has read.
    pub(super) read: Arc<AtomicU64>,
    taken: Arc<Mutex<Vec<Received>>>,
}

impl Sink {
    /// From now on the node takes snapshots in this way.
    pub(super) fn of(node: &Node, habit: Habit) -> Self {
        let sink = Self::default();
        let taken_by = sink.clone();
        let take = move |message, database| -> Answer<Result<(), SnapshotRefusal>> {
            Box::pin(taken_by.clone().take(habit.clone(), message, database))
        };
        *node.host.take.lock().unwrap() = Some(Box::new(take));
        sink
    }

    /// The snapshots that were read to their end, whatever it was.
    pub(super) fn taken(&self) -> Vec<Received> {
        self.taken.lock().unwrap().clone()
    }

    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    async fn take(
        self,
        habit: Habit,
        message: Message,
        mut database: IncomingSnapshot,
    ) -> Result<(), SnapshotRefusal> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let (mut hash, mut bytes, mut pieces, mut error) = (Sha256::new(), 0, 0, None);
        while let Some(piece) = database.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(e) => {
                    error = Some(e.to_string());
                    let again = database.next().await.expect("an error stays").unwrap_err();
                    assert_eq!((again.kind(), again.to_string()), (e.kind(), e.to_string()));
                    break;
                }
            };
            hash.update(&piece);
            bytes += piece.len() as u64;
            pieces += 1;
            self.read.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if let Some(gate) = habit.gate.as_ref().filter(|_| pieces == 1) {
                gate.notified().await;
            }
            if pieces <= 10 && !habit.pause.is_zero() {
                sleep(habit.pause).await;
            }
            if let Some((_, refusal)) = habit.refusal.as_ref().filter(|(after, _)| bytes >= *after) {
                return Err(refusal.clone());
            }
        }
        if error.is_none() {
            sleep(habit.install).await;
        }
        let sum = format!("{:x}", hash.finalize());
        self.taken.lock().unwrap().push(Received { message, bytes, sum, error: error.clone() });
        error.map_or(Ok(()), |error| Err(SnapshotRefusal::Save(error)))
    }
}

/// What a host gets of a database that crosses whole.
pub(super) fn whole(from: &Node, to: &Node, bytes: u64) -> Received {
    Received { message: made(wanted(from.id, to.id)), bytes, sum: sum(bytes), error: None }
}

/// What raft was told of snapshots.
pub(super) fn statuses(node: &Node) -> Vec<(u64, bool)> {
    node.host.snapshots.lock().unwrap().clone()
}

/// The value of a series without its help: `name{label="value"}`.
pub(super) fn metric(node: &Node, series: &str) -> Option<f64> {
    let registry = prometheus::Registry::new();
    for collector in node.transport.snapshot_metrics() {
        registry.register(collector).unwrap();
    }
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let line = text.lines().find(|line| line.starts_with(series));
    line.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}
