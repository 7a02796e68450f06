//! The other side: what a leader sends becomes a file, then an engine, then the member's state.

use super::Engines;
use crate::observed::Observed;
use crate::{space, threads};
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use machine::{Machine, Point, Settings};
use prometheus::IntGauge;
use proto::raftpb;
use raft_node::{Handle, SnapshotHead};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use transport::{IncomingSnapshot, SnapshotRefusal};

/// Bytes after which the file is synced: the log's next sync, on the same disk, does not wait for more.
const SYNC_BYTES: u64 = 4 << 20;
/// Pieces from the network that wait to be written.
const AHEAD: usize = 16;
/// Time between two lines about the import.
const TOLD: Duration = Duration::from_secs(10);

/// What a received snapshot needs.
pub(crate) struct Incoming {
    path: PathBuf,
    engines: Arc<Engines>,
    settings: Settings,
    observed: Arc<Observed>,
    applying: IntGauge,
    log: slog::Logger,
}

impl Incoming {
    /// Removes what an earlier process may have left half received. Machines are opened with these settings, on engines
    /// observed with that one.
    pub(crate) fn new(
        engines: Arc<Engines>,
        settings: Settings,
        observed: Arc<Observed>,
        log: slog::Logger,
    ) -> anyhow::Result<Arc<Self>> {
        let path = engines.member_dir().join(FILE);
        remove(&path)?;
        let help = "1 if the server is applying the incoming snapshot. 0 if none.";
        let applying = IntGauge::new("etcd_server_snapshot_apply_in_progress_total", help);
        let applying = applying.expect("a constant, valid metric name");
        Ok(Arc::new(Self { path, engines, settings, observed, applying, log }))
    }

    /// Whether a snapshot is being read, as etcd's metric.
    pub(crate) fn metric(&self) -> IntGauge {
        self.applying.clone()
    }

    /// Receives a snapshot and hands it to the node, whose state it will be unless it has come further meanwhile.
    pub(crate) async fn receive(
        self: Arc<Self>,
        node: Handle,
        message: raftpb::Message,
        mut body: IncomingSnapshot,
    ) -> Result<(), SnapshotRefusal> {
        let head =
            node.check_snapshot(&message).map_err(|error| SnapshotRefusal::Process(error.to_string()))?;
        let (index, _) = head.point();
        let committed = node.status().commit;
        if committed >= index {
            slog::info!(self.log, "a snapshot is not needed: this member has come further by itself";
                "index" => index, "committed" => committed);
            // Told that it failed, a leader would send it again, for ever if nothing else is written: its raft learns how
            // far this member is only from what follows the snapshot.
            while let Some(piece) = body.next().await {
                piece.map_err(|error| SnapshotRefusal::Save(error.to_string()))?;
            }
            return Ok(());
        }
        let save = |error: &dyn std::fmt::Display| SnapshotRefusal::Save(error.to_string());
        let (pieces, arriving) = mpsc::channel(AHEAD);
        let (done, saved) = oneshot::channel();
        let run = move || {
            let installed = self.install(&node, head, arriving).map_err(|error| format!("{error:#}"));
            // The leader may be gone by now.
            let _ = done.send(installed);
        };
        threads::spawn("snapshot-receive", run).map_err(|error| save(&error))?;
        while let Some(piece) = body.next().await {
            let broken = piece.is_err();
            // The thread may have failed: its error is the one to tell.
            if pieces.send(Some(piece.map_err(|error| error.to_string()))).await.is_err() || broken {
                break;
            }
        }
        // That was all: without it the thread takes the body for cut short.
        let _ = pieces.send(None).await;
        drop(pieces);
        saved.await.unwrap_or_else(|_| Err("the thread ended early".to_owned())).map_err(|error| save(&error))
    }

    fn install(&self, node: &Handle, head: SnapshotHead, pieces: Pieces) -> anyhow::Result<()> {
        self.applying.set(1);
        let result = self.save(pieces).and_then(|file| self.open(&file, &head));
        self.applying.set(0);
        // It is in the engine now, or it is of no use.
        remove(&self.path)?;
        node.install(head, result?);
        Ok(())
    }

    /// Writes the database into a file, and syncs it.
    fn save(&self, mut pieces: Pieces) -> anyhow::Result<File> {
        let path = &self.path;
        let opened =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(path);
        let mut file = opened.with_context(|| format!("cannot create {}", path.display()))?;
        let mut unsynced = 0;
        loop {
            let piece = pieces.blocking_recv().context("the snapshot was given up")?;
            let Some(piece) = piece else { break };
            let piece: Bytes = piece.map_err(anyhow::Error::msg)?;
            file.write_all(&piece).with_context(|| format!("cannot write {}", path.display()))?;
            unsynced += piece.len() as u64;
            if unsynced >= SYNC_BYTES {
                unsynced = 0;
                file.sync_data().with_context(|| format!("cannot sync {}", path.display()))?;
                space::check(self.engines.member_dir(), SYNC_BYTES)?;
            }
        }
        file.sync_data().with_context(|| format!("cannot sync {}", path.display()))?;
        Ok(file)
    }

    /// Reads the database into an engine beside the current one, and opens a machine on it.
    fn open(&self, file: &File, head: &SnapshotHead) -> anyhow::Result<Machine> {
        let ((index, term), begun) = (head.point(), Instant::now());
        let bytes = file.metadata()?.len();
        // Rows take about as much as the file; what is compressed takes less.
        space::check(self.engines.member_dir(), bytes)?;
        let (announced, member) = (Point { index, term, conf: head.conf_state() }, self.settings.member);
        let mut told = begun;
        let mut progress = |done: u64, total: u64| {
            if told.elapsed() >= TOLD {
                told = Instant::now();
                slog::info!(self.log, "reading a snapshot"; "index" => index, "bytes" => done, "total-bytes" => total);
            }
        };
        let engine = self.engines.stage(index, |engine| {
            Ok(snapshot::load_member(file, engine, &announced, member, &mut progress)?)
        })?;
        let engine = Arc::new(self.observed.beside(engine));
        let machine = Machine::open(engine, self.settings).context("cannot read the snapshot's state")?;
        ensure!(machine.applied() == (index, term), "the state is not of index {index}");
        slog::info!(self.log, "read a snapshot"; "index" => index, "bytes" => bytes,
            "took" => format!("{:.1?}", begun.elapsed()));
        Ok(machine)
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Pieces of the body, then `None`; without it the body was cut short.
type Pieces = mpsc::Receiver<Option<Result<Bytes, String>>>;

/// The database while it is received and read.
const FILE: &str = "incoming.db";
