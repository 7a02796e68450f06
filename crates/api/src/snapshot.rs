//! `Maintenance.Snapshot`: everything that is replicated, as one applied group left it, in pieces of 32 KiB.
//!
//! ```text
//! a blocking thread: at one moment ─ measure ─ write ─▶ pieces ─▶ channel (1) ─▶ the client, as fast as it reads
//! ```
//!
//! The rows are read twice: etcd says with every piece how many bytes are still to come, so their sum must be known before
//! the first. A client that stops reading holds one moment of the engine, whose replaced rows stay on disk; after
//! [`crate::Limits::snapshot_stall_max`] it is sent away.

use crate::{Api, grpc, maintenance};
use bytes::Bytes;
use proto::etcdserverpb::SnapshotResponse;
use snapshot::{Format, Gone, Native, Pieces, WriteError, length};
use std::{sync::Arc, time::Instant};
use tokio::{runtime::Handle, sync::mpsc::Sender, time::timeout};
use tonic::Status;

/// Snapshots at work at one time: each has a thread, and holds what is overwritten meanwhile. More wait their turn.
pub(crate) const SNAPSHOTS_MAX: usize = 4;

/// Begins to send. The stream ends with the checksum, with an error, or when nobody listens any more.
pub(crate) async fn start(api: Arc<Api>, pieces: Sender<Result<Bytes, Status>>) {
    let turn = tokio::select! {
        turn = Arc::clone(&api.turns.snapshots).acquire_owned() => turn,
        () = pieces.closed() => return,
    };
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        let sent = send(&api, &runtime, &pieces);
        api.metrics.durations.snapshot.observe(start.elapsed().as_secs_f64());
        if let Err(status) = sent {
            slog::warn!(api.log, "failed to send the snapshot to a client"; "error" => status.message());
            // Waits for the client if need be, but holds nothing: a stream that just ended would look whole.
            runtime.spawn(async move { drop(pieces.send(Err(status)).await) });
        }
        drop(turn);
    });
}

fn send(api: &Api, runtime: &Handle, pieces: &Sender<Result<Bytes, Status>>) -> Result<(), Status> {
    let mut sent = Ok(());
    let mut read = |rows: &dyn engine::Rows| {
        sent = write(api, runtime, rows, pieces);
        Ok(())
    };
    api.shared.at_one_moment(&mut read).map_err(|fault| Status::unknown(fault.to_string()))?;
    sent
}

fn write(
    api: &Api,
    runtime: &Handle,
    rows: &dyn engine::Rows,
    pieces: &Sender<Result<Bytes, Status>>,
) -> Result<(), Status> {
    let failed = |error: WriteError| match error {
        WriteError::Gone(_) => Status::cancelled("context canceled"),
        WriteError::Engine(fault) => Status::unknown(fault.to_string()),
    };
    let version = maintenance::storage_version(api).unwrap_or_default();
    let total = length(&Native, rows).map_err(failed)?;
    slog::info!(api.log, "sending database snapshot to client";
        "total-bytes" => total, "storage-version" => &version);
    let (mut left, mut stalled) = (total, false);
    let stall_max = api.limits.snapshot_stall_max;
    let mut out = Pieces::new(|piece: Vec<u8>| {
        left = left.saturating_sub(piece.len() as u64);
        let version = version.clone();
        let piece = SnapshotResponse { header: None, remaining_bytes: left, blob: piece.into(), version };
        let taken = runtime.block_on(timeout(stall_max, pieces.send(Ok(grpc::encode(&piece)))));
        stalled = taken.is_err();
        if matches!(taken, Ok(Ok(()))) { Ok(()) } else { Err(Gone) }
    });
    let written = Native.write(rows, &mut out).and_then(|()| Ok(out.finish()?));
    if stalled {
        let text = format!("quorate: the client took nothing of the snapshot for {stall_max:?}");
        return Err(Status::deadline_exceeded(text));
    }
    written.map_err(failed)?;
    slog::info!(api.log, "successfully sent database snapshot to client"; "total-bytes" => total);
    Ok(())
}
