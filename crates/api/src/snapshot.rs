//! `Maintenance.Snapshot`: everything that is replicated, as one applied group left it, in pieces of 32 KiB.
//!
//! ```text
//! a moment of the engine ─ measure ─▶ step ─▶ 256 KiB of pieces ─▶ channel (1) ─▶ the client, as fast as it reads
//! all who wait share the next one     ▲ a turn on a blocking thread ◀─ one step ahead ─┘
//! ```
//!
//! The rows are read twice: etcd says with every piece how many bytes are still to come, so their sum must be known before
//! the first. One moment is measured at a time, and all who ask meanwhile share the next one. Between two steps a snapshot
//! has no thread and no turn, so clients that read slowly hold nobody else up. But each holds its moment, whose replaced
//! rows stay on disk: who does not keep [`Snapshots::pace`] is sent away.

use crate::{Api, Lane, grpc, lock, maintenance};
use bytes::Bytes;
use engine::{Fault, Moment};
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use proto::etcdserverpb::SnapshotResponse;
use snapshot::{Counter, Format, Native, Pieces, Writing};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc::Sender, time::timeout_at};
use tonic::Status;

/// How snapshots are made and sent. Fields are defaults of [`Snapshots::default`] unless a test draws smaller ones.
#[derive(Clone, Copy, Debug)]
pub struct Snapshots {
    /// On their way at one time: 64. Each holds what is overwritten meanwhile and two steps' bytes, 32 MiB all together: a
    /// bound for errors and attacks. Beyond it they are refused.
    pub sent_max: usize,
    /// What is written in one turn, in bytes, at least a block ([`snapshot::BLOCK_BYTES`]). 256 KiB: half a millisecond of
    /// work, and half of what a snapshot whose client is slow holds.
    pub step_bytes: u64,
    /// What is measured in one turn, in bytes, at least a block. 8 MiB: some milliseconds.
    pub measured_bytes: u64,
    /// How fast a client must take a snapshot: meanwhile what is overwritten keeps its space. 1 MiB a minute, twice what a
    /// modem did; etcd waits for ever.
    pub pace: Pace,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self {
            sent_max: 64,
            step_bytes: 256 << 10,
            measured_bytes: 8 << 20,
            pace: Pace { bytes_min: 1 << 20, window: Duration::from_mins(1) },
        }
    }
}

/// How fast a client must read.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// This many bytes …
    pub bytes_min: u64,
    /// … in each such time that it is waited for.
    pub window: Duration,
}

/// Begins to send. The stream ends with the checksum, with an error, or when nobody listens any more.
pub(crate) async fn start(api: Arc<Api>, pieces: Sender<Result<Bytes, Status>>) {
    let start = Instant::now();
    // Dropped with all it holds where the client goes away.
    let sent = tokio::select! {
        sent = api.steps.watch("Snapshot", admitted(&api, &pieces)) => sent,
        () = pieces.closed() => Err(Status::cancelled("context canceled")),
    };
    api.metrics.durations.snapshot.observe(start.elapsed().as_secs_f64());
    if let Err(status) = sent {
        slog::warn!(api.log, "failed to send the snapshot to a client"; "error" => status.message());
        // Waits for the client if need be, but holds nothing: a stream that just ended would look whole.
        let _ = pieces.send(Err(status)).await;
    }
}

async fn admitted(api: &Arc<Api>, pieces: &Sender<Result<Bytes, Status>>) -> Result<(), Status> {
    let Ok(_turn) = api.turns.snapshots.try_acquire() else {
        let text = format!("quorate: {} snapshots are being sent already", api.limits.snapshots.sent_max);
        return Err(Status::resource_exhausted(text));
    };
    send(api, pieces).await
}

async fn send(api: &Arc<Api>, pieces: &Sender<Result<Bytes, Status>>) -> Result<(), Status> {
    let (rows, total) = api.turns.measures.next(api).await?;
    let version = maintenance::storage_version(api).unwrap_or_default();
    slog::info!(api.log, "sending database snapshot to client";
        "total-bytes" => total, "storage-version" => &version);
    let mut client = Client::new(pieces, api.limits.snapshots.pace, version, total);
    let source = Source { rows, writing: Native.begin(), pieces: Pieces::default() };
    let mut made = step(api, source).await?;
    while let Some(source) = made.source.take() {
        // While the client takes these the next are made: neither waits for the other's thread.
        ((), made) = tokio::try_join!(client.give_all(made.ready), step(api, source))?;
    }
    client.give_all(made.ready).await?;
    slog::info!(api.log, "successfully sent database snapshot to client"; "total-bytes" => total);
    Ok(())
}

/// What a snapshot is made from, and how far it is.
struct Source {
    rows: Arc<Moment>,
    writing: Box<dyn Writing>,
    pieces: Pieces,
}

/// The pieces of one step.
struct Made {
    ready: Vec<Vec<u8>>,
    /// For the next step; `None` where this was the last one. Then nothing of the moment is held any more.
    source: Option<Source>,
}

/// Makes [`Snapshots::step_bytes`] of pieces in one turn.
async fn step(api: &Api, mut source: Source) -> Result<Made, Status> {
    let bytes = api.limits.snapshots.step_bytes;
    let made = api.slow.run(Lane::Snapshot, move |_| {
        let is_done = source.writing.step(&*source.rows, &mut source.pieces, bytes)?;
        if is_done {
            source.pieces.finish();
        }
        let ready = std::iter::from_fn(|| source.pieces.take()).collect();
        Ok::<_, Fault>(Made { ready, source: (!is_done).then_some(source) })
    });
    made.await?.map_err(|fault| Status::unknown(fault.to_string()))
}

/// A moment, and how long its snapshot is in bytes, without the checksum.
type Measured = Result<(Arc<Moment>, u64), Status>;

/// Measures moments, one after the other: each is read whole, so twenty who ask at once must not cause twenty.
#[derive(Default)]
pub(crate) struct Measures {
    one: tokio::sync::Mutex<()>,
    /// What has not begun yet. It is given up where nobody waits for it any more.
    next: Mutex<Option<WeakShared<BoxFuture<'static, Measured>>>>,
}

impl Measures {
    /// A moment not before this call.
    fn next(&self, api: &Arc<Api>) -> Shared<BoxFuture<'static, Measured>> {
        let mut next = lock(&self.next);
        if let Some(shared) = next.as_ref().and_then(WeakShared::upgrade) {
            return shared;
        }
        let shared = Self::measured(Arc::clone(api)).boxed().shared();
        *next = shared.downgrade();
        shared
    }

    async fn measured(api: Arc<Api>) -> Measured {
        let measures = &api.turns.measures;
        let _turn = measures.one.lock().await;
        // Who asks from now on may have seen what this moment does not have.
        *lock(&measures.next) = None;
        let own = Arc::clone(&api);
        let rows = api.slow.run(Lane::Snapshot, move |_| Arc::from(own.shared.moment())).await?;
        measure(&api, rows).await
    }
}

async fn measure(api: &Api, rows: Arc<Moment>) -> Measured {
    let (mut writing, mut counter): (Box<dyn Writing>, _) = (Native.begin(), Counter::default());
    let bytes = api.limits.snapshots.measured_bytes;
    loop {
        let read = Arc::clone(&rows);
        let step = api.slow.run(Lane::Snapshot, move |_| {
            let done = writing.step(&*read, &mut counter, bytes);
            (writing, counter, done)
        });
        let done;
        (writing, counter, done) = step.await?;
        if done.map_err(|fault| Status::unknown(fault.to_string()))? {
            return Ok((rows, counter.0));
        }
    }
}

/// Who takes the pieces, and how fast.
struct Client<'a> {
    pieces: &'a Sender<Result<Bytes, Status>>,
    pace: Pace,
    version: String,
    /// Bytes that are still to come, without the checksum.
    left: u64,
    /// When the time is over that is looked at.
    end: Instant,
    /// What was taken in it, in bytes.
    taken: u64,
}

impl<'a> Client<'a> {
    fn new(pieces: &'a Sender<Result<Bytes, Status>>, pace: Pace, version: String, left: u64) -> Self {
        Self { pieces, pace, version, left, end: Instant::now() + pace.window, taken: 0 }
    }

    async fn give_all(&mut self, ready: Vec<Vec<u8>>) -> Result<(), Status> {
        for piece in ready {
            let bytes = piece.len() as u64;
            self.left = self.left.saturating_sub(bytes);
            let (remaining_bytes, version) = (self.left, self.version.clone());
            let piece = SnapshotResponse { header: None, remaining_bytes, blob: piece.into(), version };
            self.give(grpc::encode(&piece), bytes).await?;
        }
        Ok(())
    }

    /// Hands a piece over when the client has taken the one before.
    async fn give(&mut self, piece: Bytes, bytes: u64) -> Result<(), Status> {
        let room = loop {
            match timeout_at(self.end.into(), self.pieces.reserve()).await {
                Ok(room) => break room.map_err(|_| Status::cancelled("context canceled"))?,
                Err(_) if self.taken < self.pace.bytes_min => return Err(self.too_slow()),
                Err(_) => self.begin(),
            }
        };
        // A time that ended while the client had nothing to wait for says nothing about it.
        if Instant::now() >= self.end {
            self.begin();
        }
        self.taken += bytes;
        room.send(Ok(piece));
        Ok(())
    }

    fn begin(&mut self) {
        (self.end, self.taken) = (Instant::now() + self.pace.window, 0);
    }

    fn too_slow(&self) -> Status {
        let Pace { bytes_min, window } = self.pace;
        let text = format!(
            "quorate: the client took {} bytes of the snapshot in {window:?}, and must take {bytes_min}",
            self.taken
        );
        Status::deadline_exceeded(text)
    }
}
