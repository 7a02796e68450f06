//! `Maintenance.Snapshot`: everything that is replicated, as one applied group left it, in pieces of 32 KiB.
//!
//! ```text
//! a moment of the engine ─ measure ─▶ step ─▶ 256 KiB of pieces ─▶ channel (1) ─▶ the client, as fast as it reads
//!                                      ▲ a turn on a blocking thread ◀─ one step ahead ─┘
//! ```
//!
//! The rows are read twice: etcd says with every piece how many bytes are still to come, so their sum must be known before
//! the first. Between two steps a snapshot has no thread and no turn, so clients that read slowly hold nobody else up.
//! But each holds its moment, whose replaced rows stay on disk: who does not keep [`crate::Limits::snapshot_pace`] is sent
//! away.

use crate::{Api, Lane, grpc, maintenance};
use bytes::Bytes;
use engine::{Fault, Moment};
use proto::etcdserverpb::SnapshotResponse;
use snapshot::{Counter, Format, Native, Pieces, Writing};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc::Sender, time::timeout_at};
use tonic::Status;

/// Snapshots on their way at one time. Each holds what is overwritten meanwhile and two steps' bytes, 32 MiB all together:
/// a bound for errors and attacks. Beyond it they are refused.
pub(crate) const SNAPSHOTS_MAX: usize = 64;

/// What is written in one turn, in bytes: half a millisecond of work, and half of what a snapshot
/// whose client is slow holds.
const STEP_BYTES: u64 = 256 << 10;

/// What is measured in one turn, in bytes: some milliseconds.
const MEASURED_BYTES: u64 = 8 << 20;

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
        let text = format!("quorate: {SNAPSHOTS_MAX} snapshots are being sent already");
        return Err(Status::resource_exhausted(text));
    };
    send(api, pieces).await
}

async fn send(api: &Arc<Api>, pieces: &Sender<Result<Bytes, Status>>) -> Result<(), Status> {
    let own = Arc::clone(api);
    let mut rows = api.slow.run(Lane::Snapshot, move |_| own.shared.moment()).await?;
    let total;
    (rows, total) = measure(api, rows).await?;
    let version = maintenance::storage_version(api).unwrap_or_default();
    slog::info!(api.log, "sending database snapshot to client";
        "total-bytes" => total, "storage-version" => &version);
    let mut client = Client::new(pieces, api.limits.snapshot_pace, version, total);
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
    rows: Box<Moment>,
    writing: Box<dyn Writing>,
    pieces: Pieces,
}

/// The pieces of one step.
struct Made {
    ready: Vec<Vec<u8>>,
    /// For the next step; `None` where this was the last one. Then nothing of the moment is held any more.
    source: Option<Source>,
}

/// Makes [`STEP_BYTES`] of pieces in one turn.
async fn step(api: &Api, mut source: Source) -> Result<Made, Status> {
    let made = api.slow.run(Lane::Snapshot, move |_| {
        let is_done = source.writing.step(&*source.rows, &mut source.pieces, STEP_BYTES)?;
        if is_done {
            source.pieces.finish();
        }
        let ready = std::iter::from_fn(|| source.pieces.take()).collect();
        Ok::<_, Fault>(Made { ready, source: (!is_done).then_some(source) })
    });
    made.await?.map_err(|fault| Status::unknown(fault.to_string()))
}

/// How long the snapshot is, in bytes, without its checksum.
async fn measure(api: &Api, mut rows: Box<Moment>) -> Result<(Box<Moment>, u64), Status> {
    let (mut writing, mut counter): (Box<dyn Writing>, _) = (Native.begin(), Counter::default());
    loop {
        let step = api.slow.run(Lane::Snapshot, move |_| {
            let done = writing.step(&*rows, &mut counter, MEASURED_BYTES);
            (rows, writing, counter, done)
        });
        let done;
        (rows, writing, counter, done) = step.await?;
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
