//! The leader's side: the database that a member gets that lacks what the log no longer has.

use crate::threads;
use anyhow::Context as _;
use bytes::Bytes;
use machine::{Point, Shared};
use proto::raftpb;
use snapshot::{Export, Measure};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use transport::OutgoingSnapshot;

/// Bytes of rows that a step reads; between two of them it is looked whether the receiver is still there.
const STEP_BYTES: u64 = 256 << 10;
/// Pieces of 32 KiB that are made ahead of the network.
const AHEAD: usize = 16;

type Pieces = mpsc::Sender<Result<Bytes, String>>;

/// The rows as they are now, as a database. `asked` is raft's message; what is sent includes at least what that names.
pub(crate) async fn outgoing(
    shared: Arc<Shared>,
    asked: raftpb::Message,
) -> Result<OutgoingSnapshot, String> {
    let (begin, begun) = oneshot::channel();
    let (pieces, taken) = mpsc::channel(AHEAD);
    let run = move || {
        let made = begin_at(&shared, asked, &pieces).map_err(|error| format!("{error:#}"));
        let (rows, measured) = match made {
            Ok((rows, measured, message)) => {
                let snapshot = OutgoingSnapshot { message, bytes: measured.bytes(), pieces: taken };
                // Nobody waits for it any more: the pieces find nobody either.
                let _ = begin.send(Ok(snapshot));
                (rows, measured)
            }
            Err(error) => return drop(begin.send(Err(error))),
        };
        if let Err(error) = make(&*rows, &measured, &pieces) {
            // The receiver sees that the database ends too early.
            let _ = pieces.blocking_send(Err(format!("{error:#}")));
        }
    };
    threads::spawn("snapshot-send", run).map_err(|error| format!("cannot start a thread: {error}"))?;
    begun.await.unwrap_or_else(|_| Err("the thread that makes it ended early".to_owned()))
}

/// The engine's snapshot, its length as a database, and the message that says what it is.
fn begin_at(
    shared: &Shared,
    mut message: raftpb::Message,
    pieces: &Pieces,
) -> anyhow::Result<(Box<engine::Snapshot>, snapshot::Measured, raftpb::Message)> {
    let rows = shared.snapshot();
    let point = Point::of(&*rows)?;
    let asked = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    let asked = asked.map_or(0, raftpb::SnapshotMetadata::index);
    anyhow::ensure!(point.index >= asked, "the rows are at index {}, before {asked}", point.index);
    let mut measure = Measure::begin();
    while !measure.step(&*rows, STEP_BYTES)? {
        anyhow::ensure!(!pieces.is_closed(), "nobody waits for it any more");
    }
    let data = machine::v2_store(&*rows).context("the members for older versions of etcd")?;
    message.snapshot = Some(raftpb::Snapshot { data: Some(data.into()), metadata: Some(point.metadata()) });
    Ok((rows, measure.finish()?, message))
}

fn make(rows: &engine::Snapshot, measured: &snapshot::Measured, pieces: &Pieces) -> anyhow::Result<()> {
    let mut export = Export::begin_for_peer(measured)?;
    loop {
        let step = export.step(rows, STEP_BYTES)?;
        for piece in step.pieces {
            if pieces.blocking_send(Ok(piece.into())).is_err() {
                return Ok(());
            }
        }
        if step.is_done {
            return Ok(());
        }
    }
}
