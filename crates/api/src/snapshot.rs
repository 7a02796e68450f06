//! `Maintenance.Snapshot`: the replicated state after one applied group as a database of etcd's, in pieces of 32 KiB.
//!
//! ```text
//! engine's snapshot ─ measure ─▶ step ─▶ 256 KiB of pieces ─▶ channel (1) ─▶ the client, as fast as it reads
//! all that wait share the next one    ▲ a turn on a blocking thread ◀─ one step ahead ─┘
//! ```
//!
//! The rows are read twice: as in etcd, every piece states how many bytes follow. One snapshot is measured at a time;
//! requests that arrive meanwhile share the next one. Between steps a call holds no thread and no permit, only the
//! engine's snapshot, whose overwritten rows stay on disk: a client slower than [`crate::Snapshots::pace`] is
//! disconnected.

use crate::{limits::Pace, slow::Lane, state::Api, turns::Measured};
use engine::Snapshot;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use proto::etcdserverpb::SnapshotResponse;
use snapshot::{Export, ExportError, Exported, Measure};
use std::{sync::Arc, time::Instant};
use tokio::{sync::mpsc::Sender, time::timeout_at};
use tonic::Status;
use types::lock;

/// Sends a snapshot. The stream ends with the checksum, an error, or a disconnect.
pub(crate) async fn start(api: Arc<Api>, pieces: Sender<Result<SnapshotResponse, Status>>) {
    let start = Instant::now();
    // A disconnect drops the future with all it holds.
    let sent = tokio::select! {
        sent = api.steps.watch("Snapshot", admitted(&api, &pieces)) => sent,
        () = pieces.closed() => Err(Status::cancelled("context canceled")),
    };
    api.metrics.durations.snapshot.observe(start.elapsed().as_secs_f64());
    if let Err(status) = sent {
        slog::warn!(api.log, "failed to send the snapshot to a client"; "error" => status.message());
        // May wait for the client, but holds nothing. Without this error the stream would look complete.
        let _ = pieces.send(Err(status)).await;
    }
}

async fn admitted(api: &Arc<Api>, pieces: &Sender<Result<SnapshotResponse, Status>>) -> Result<(), Status> {
    let Ok(_turn) = api.turns.snapshots.try_acquire() else {
        let text = format!("quorate: {} snapshots are being sent already", api.limits.snapshots.sent_max);
        return Err(Status::resource_exhausted(text));
    };
    send(api, pieces).await
}

async fn send(api: &Arc<Api>, pieces: &Sender<Result<SnapshotResponse, Status>>) -> Result<(), Status> {
    let (rows, layout) = measured(api).await?;
    let total = layout.bytes();
    let version = api.storage_version().unwrap_or_default();
    slog::info!(api.log, "sending database snapshot to client";
        "total-bytes" => total, "storage-version" => &version);
    let mut client = Client::new(pieces, api.limits.snapshots.pace, version, total);
    let source = Source { rows, export: Export::begin(&layout).map_err(failed)? };
    let mut made = step(api, source).await?;
    while let Some(source) = made.source.take() {
        // The next pieces are made while the client reads these.
        ((), made) = tokio::try_join!(client.give_all(made.ready), step(api, source))?;
    }
    client.give_all(made.ready).await?;
    slog::info!(api.log, "successfully sent database snapshot to client"; "total-bytes" => total);
    Ok(())
}

struct Source {
    rows: Arc<Snapshot>,
    export: Export,
}

struct Made {
    ready: Vec<Vec<u8>>,
    /// `None` after the last step, which releases the engine's snapshot.
    source: Option<Source>,
}

/// Makes [`crate::Snapshots::step_bytes`] of pieces in one turn.
async fn step(api: &Api, mut source: Source) -> Result<Made, Status> {
    let bytes = api.limits.snapshots.step_bytes;
    let made = api.slow.run(Lane::Snapshot, move |_| {
        let Exported { pieces, is_done } = source.export.step(&*source.rows, bytes)?;
        Ok(Made { ready: pieces, source: (!is_done).then_some(source) })
    });
    made.await?.map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` passes it")]
fn failed(error: ExportError) -> Status {
    Status::unknown(error.to_string())
}

/// A snapshot of the engine taken after this call began, and its length.
fn measured(api: &Arc<Api>) -> Shared<BoxFuture<'static, Measured>> {
    let mut next = lock(&api.turns.next_measure);
    if let Some(shared) = next.as_ref().and_then(WeakShared::upgrade) {
        return shared;
    }
    let shared = measure_next(Arc::clone(api)).boxed().shared();
    *next = shared.downgrade();
    shared
}

async fn measure_next(api: Arc<Api>) -> Measured {
    let _turn = api.turns.measure.lock().await;
    // Later callers may have seen a write that this snapshot lacks.
    *lock(&api.turns.next_measure) = None;
    let own = Arc::clone(&api);
    let rows = api.slow.run(Lane::Snapshot, move |_| Arc::from(own.shared.snapshot())).await?;
    measure(&api, rows).await
}

async fn measure(api: &Api, rows: Arc<Snapshot>) -> Measured {
    let mut measure = Measure::begin();
    let bytes = api.limits.snapshots.measured_bytes;
    loop {
        let read = Arc::clone(&rows);
        let step = api.slow.run(Lane::Snapshot, move |_| {
            let done = measure.step(&*read, bytes);
            (measure, done)
        });
        let done;
        (measure, done) = step.await?;
        if done.map_err(failed)? {
            return Ok((rows, measure.finish().map_err(failed)?));
        }
    }
}

struct Client<'a> {
    pieces: &'a Sender<Result<SnapshotResponse, Status>>,
    pace: Pace,
    version: String,
    /// Bytes that follow, without the checksum.
    left: u64,
    end: Instant,
    /// Bytes read in the current window.
    taken: u64,
}

impl<'a> Client<'a> {
    fn new(
        pieces: &'a Sender<Result<SnapshotResponse, Status>>,
        pace: Pace,
        version: String,
        left: u64,
    ) -> Self {
        Self { pieces, pace, version, left, end: Instant::now() + pace.window, taken: 0 }
    }

    async fn give_all(&mut self, ready: Vec<Vec<u8>>) -> Result<(), Status> {
        for piece in ready {
            let bytes = piece.len() as u64;
            self.left = self.left.saturating_sub(bytes);
            let (remaining_bytes, version) = (self.left, self.version.clone());
            let piece = SnapshotResponse { header: None, remaining_bytes, blob: piece.into(), version };
            self.give(piece, bytes).await?;
        }
        Ok(())
    }

    /// Sends a piece once the client has read the last one.
    async fn give(&mut self, piece: SnapshotResponse, bytes: u64) -> Result<(), Status> {
        let room = loop {
            match timeout_at(self.end.into(), self.pieces.reserve()).await {
                Ok(room) => break room.map_err(|_| Status::cancelled("context canceled"))?,
                Err(_) if self.taken < self.pace.bytes_min => return Err(self.too_slow()),
                Err(_) => self.begin(),
            }
        };
        // A window that ended while no piece was ready says nothing about the client.
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
