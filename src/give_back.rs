//! A data directory on which etcd starts, made of that of a member that was stopped: the same member of the same cluster.
//!
//! ```text
//! the current engine ─▶ snap/db, and snap/<term>-<index>.snap, which says where it stands ─┐
//! the log after that ─▶ wal/, from a record of that snapshot on ──────────────────────────┴─▶ <directory>, renamed last
//! ```
//!
//! The member's own directory stays as it is, but neither may be used once the other was: both vote as one member.

use crate::snapshots::{self, Engines};
use crate::{boot, divergence, new_log, threads};
use anyhow::{Context as _, ensure};
use engine::Engine as _;
use machine::Point;
use prost::Message as _;
use proto::{raftpb, snappb};
use raft_node::bootstrap::{self, Owner};
use snapshot::{Export, Measure};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use types::HardState;
use wal::{FsDisk, Wal};

/// Bytes of rows that a step reads.
const STEP_BYTES: u64 = 1 << 20;
/// Bytes of the log that are copied at once.
const GROUP_BYTES: u64 = 4 << 20;

/// Makes `to`, which holds nothing yet, for the member whose data and log these are.
pub(crate) fn give_back(
    data_dir: &Path,
    wal_dir: &Path,
    to: &Path,
    progress: &mut snapshot::Progress<'_>,
) -> anyhow::Result<()> {
    threads::give_way();
    let member_dir = data_dir.join("member");
    ensure!(
        snapshots::is_any(&member_dir),
        "there is no data of a member of quorate in {}",
        member_dir.display()
    );
    ensure!(
        !divergence::is_noted(&member_dir),
        "this member's data was found wrong ({}): remove the member, and add it again with an empty directory",
        member_dir.join("diverged").display()
    );
    let _lock = boot::lock(&member_dir)?;
    let disk =
        FsDisk::open(wal_dir).with_context(|| format!("cannot open the log in {}", wal_dir.display()))?;
    let (log, _) =
        Wal::open(disk).with_context(|| format!("cannot open the log in {}", wal_dir.display()))?;
    let silent = slog::Logger::root(slog::Discard, slog::o!());
    let engines = Engines::open(&member_dir, engine_rocks::Options::default(), log.first_index(), silent)?;
    let rows = engines.current().snapshot();
    let point = Point::of(&*rows)?;
    ensure!(point.index > 0, "this member has applied nothing yet: begin with an empty directory");
    let made = to.join("member");
    boot::make_dir(&made.join("snap"))?;
    write_database(&*rows, &made.join("snap").join("db"), progress)?;
    write_snap(&*rows, &point, &made.join("snap"))?;
    write_log(&log, &point, &made.join("wal"))
}

fn write_database(
    rows: &engine::Snapshot,
    path: &Path,
    progress: &mut snapshot::Progress<'_>,
) -> anyhow::Result<()> {
    let mut measure = Measure::begin();
    while !measure.step(rows, STEP_BYTES)? {}
    let measured = measure.finish()?;
    let mut export = Export::begin_for_peer(&measured)?;
    let show = || format!("cannot write {}", path.display());
    let (mut file, mut done) = (File::create_new(path).with_context(show)?, 0);
    loop {
        let step = export.step(rows, STEP_BYTES)?;
        for piece in &step.pieces {
            file.write_all(piece).with_context(show)?;
            done += piece.len() as u64;
        }
        progress(done, measured.bytes());
        if step.is_done {
            return file.sync_all().with_context(show);
        }
    }
}

/// etcd's `.snap` file: a raft snapshot with its checksum, whose data is the members as etcd 3.5 and 3.6 want them.
fn write_snap(rows: &engine::Snapshot, point: &Point, dir: &Path) -> anyhow::Result<()> {
    let snapshot =
        raftpb::Snapshot { data: Some(machine::v2_store(rows)?.into()), metadata: Some(point.metadata()) }
            .encode_to_vec();
    let envelope = snappb::Snapshot { crc: Some(crc32c::crc32c(&snapshot)), data: Some(snapshot.into()) };
    let path = dir.join(format!("{:016x}-{:016x}.snap", point.term, point.index));
    let show = || format!("cannot write {}", path.display());
    let mut file = File::create_new(&path).with_context(show)?;
    file.write_all(&envelope.encode_to_vec()).with_context(show)?;
    file.sync_all().with_context(show)?;
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(show)
}

/// The log from the database on, with everything after that: it may have been acknowledged to a leader.
fn write_log(log: &Wal<FsDisk>, point: &Point, dir: &Path) -> anyhow::Result<()> {
    let owner = bootstrap::read_metadata(log.metadata()).context("the log does not say whose it is")?;
    let Owner { member, cluster, .. } = owner;
    let state = log.hard_state();
    // A crash may have lost how far it was known to be committed, never that it was.
    let state = HardState { commit: state.commit.max(point.index), ..state };
    new_log::write(dir, &bootstrap::metadata(member, cluster), &point.record(), |copy| {
        let mut next = point.index + 1;
        while next <= log.last_index() {
            let entries = log.entries(next, log.last_index() + 1, GROUP_BYTES)?;
            next += entries.len() as u64;
            copy.append(&entries, None)?;
        }
        Ok(copy.append(&[], Some(&state))?)
    })
}
