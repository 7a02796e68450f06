//! Goes on from the data directory of an etcd member that was stopped: the same member of the same cluster.
//!
//! | etcd's file | what becomes of it |
//! | --- | --- |
//! | `wal/*.wal` | the log goes on in it: the format is the same |
//! | `snap/db` | read once, into `kv`; kept as it is |
//! | `snap/*.snap` | looked at for keys of the API's version 2; kept as it is |
//!
//! `kv` appears whole, by a rename: a start that is cut short begins anew. What stands in the way is found before anything is
//! changed, and all of it is named. etcd can go on from the directory again for as long as the log still holds what follows
//! `snap/db`.

use crate::{snapshots, space};
use anyhow::{Context as _, bail, ensure};
use machine::Point;
use prost::Message as _;
use proto::{raftpb, snappb};
use raft_node::bootstrap::{self, Owner};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use types::MemberId;
use wal::{FsDisk, Inspected, Wal};

/// Time between two lines about the import.
const TOLD: Duration = Duration::from_secs(10);

/// The largest `.snap` file that is parsed, bytes. Without keys of version 2 one has some 10 KB; with more it has them.
const V2_BYTES_MAX: u64 = 64 << 20;

/// What an etcd member left, and what keeps this server from going on from it.
pub(crate) struct Findings {
    pub(crate) obstacles: Vec<String>,
    log: Option<Log>,
    database: Option<Database>,
}

struct Log {
    owner: Owner,
    found: Inspected,
}

struct Database {
    path: PathBuf,
    file: File,
    /// `None` before it applied anything.
    point: Option<Point>,
    members: Vec<machine::Member>,
}

fn database_of(member_dir: &Path) -> PathBuf {
    member_dir.join("snap").join("db")
}

/// Whether an etcd member ran here.
pub(crate) fn is_etcds(member_dir: &Path) -> bool {
    database_of(member_dir).exists() || newest_snap(member_dir).is_some()
}

/// Looks for everything that stands in the way, without reading the keys. Changes nothing.
pub(crate) fn look(member_dir: &Path, wal_dir: &Path) -> Findings {
    let mut obstacles = Vec::new();
    let mut noted = |error: anyhow::Error| obstacles.push(format!("{error:#}"));
    let log = read_log(wal_dir).map_err(&mut noted).ok();
    let mut database = read_database(member_dir).map_err(&mut noted).ok();
    if let Some(log) = &log {
        database = database.filter(|known| check_fit(log, known.point.as_ref()).map_err(&mut noted).is_ok());
    }
    if let Some(database) = &database {
        check_urls(&database.members).unwrap_or_else(&mut noted);
    }
    if let Some(snap) = newest_snap(member_dir) {
        check_v2(&snap).unwrap_or_else(&mut noted);
    }
    Findings { obstacles, log, database }
}

fn read_log(wal_dir: &Path) -> anyhow::Result<Log> {
    let show = || format!("the log in {} cannot be read", wal_dir.display());
    ensure!(
        wal_dir.is_dir(),
        "there is no log in {}: it was lost, or --wal-dir is not etcd's",
        wal_dir.display()
    );
    let disk = FsDisk::open(wal_dir).with_context(show)?;
    let found = Wal::inspect(&disk).with_context(show)?;
    let owner = bootstrap::read_metadata(&found.replayed.metadata);
    let owner =
        owner.with_context(|| format!("the log in {} does not say whose it is", wal_dir.display()))?;
    // It may be that of a member that joined: its first entries are then the others', not those of a new cluster.
    ensure!(found.index.last() > 0, "its log is empty: it has never run; begin with an empty directory");
    Ok(Log { owner, found })
}

fn read_database(member_dir: &Path) -> anyhow::Result<Database> {
    let path = database_of(member_dir);
    let show = || format!("its database {} cannot be read", path.display());
    let file = File::open(&path).with_context(show)?;
    // As a running etcd holds it.
    if let Err(fs::TryLockError::WouldBlock) = file.try_lock_shared() {
        bail!("another process uses {}", path.display());
    }
    let (point, members) = snapshot::point(&file).with_context(show)?;
    Ok(Database { path, file, point, members })
}

/// Whether the log goes on from where the database stands.
fn check_fit(log: &Log, point: Option<&Point>) -> anyhow::Result<()> {
    let (first, last) = (log.found.index.first(), log.found.index.last());
    let (index, term) = point.map_or((0, 0), |point| (point.index, point.term));
    let snapshot = log.found.replayed.snapshot.as_ref().map_or(0, proto::walpb::Snapshot::index);
    ensure!(
        snapshot <= index,
        "it was stopped while it installed a leader's snapshot at index {snapshot}: its database has only come to {index}; \
         start etcd on it once more"
    );
    ensure!(
        index + 1 >= first,
        "its log begins at index {first}, but its database has only come to {index}: one of them is of another time"
    );
    ensure!(
        index <= last,
        "its database has come to index {index}, but its log ends at {last}: one of them is of another time"
    );
    if let (Some(point), Some(written)) = (point, log.found.index.term(index)) {
        ensure!(
            written == term || index == 0,
            "its database is of term {term} at index {index}, its log of term {written}: one of them is another member's"
        );
        let member = log.owner.member;
        let is_known = point.conf.voters.contains(&member) || point.conf.learners.contains(&member);
        ensure!(is_known, "its database does not know the member {member:x}, whose log this is");
    }
    Ok(())
}

/// Whether this server can speak with the members: it would wait for them for ever. One that is alone needs nobody.
fn check_urls(members: &[machine::Member]) -> anyhow::Result<()> {
    let mut urls = members.iter().flat_map(|member| member.peer_urls.iter().map(move |url| (member, url)));
    let foreign = urls.find(|(_, url)| !url.starts_with("http://"));
    if let Some((member, url)) = foreign.filter(|_| members.len() > 1) {
        bail!(
            "the members reach {:x} ({}) at {url}: this version of quorate speaks plain HTTP alone",
            member.id,
            member.name
        );
    }
    Ok(())
}

/// The newest `.snap` file: their names begin with the term, then the index, in hexadecimal.
fn newest_snap(member_dir: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(member_dir.join("snap")).ok()?;
    let paths = files.filter_map(|file| Some(file.ok()?.path()));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "snap")).max()
}

/// Refuses keys that clients of etcd's API version 2 wrote: etcd 3.6 does not start with them either.
fn check_v2(snap: &Path) -> anyhow::Result<()> {
    let show = || format!("{} cannot be read", snap.display());
    let has_keys = if fs::metadata(snap).with_context(show)?.len() > V2_BYTES_MAX {
        true
    } else {
        let envelope =
            snappb::Snapshot::decode(&fs::read(snap).with_context(show)?[..]).with_context(show)?;
        let message = raftpb::Snapshot::decode(envelope.data()).with_context(show)?;
        // From 3.7 on there may be nothing.
        let dump: serde_json::Value = match message.data() {
            [] => serde_json::Value::Null,
            json => serde_json::from_slice(json).with_context(show)?,
        };
        dump.pointer("/Root/Children/1/Children")
            .and_then(|keys| keys.as_object())
            .is_some_and(|keys| !keys.is_empty())
    };
    ensure!(
        !has_keys,
        "it has keys of the API's version 2, which this server does not have: delete them, or go to etcd 3.6 first"
    );
    Ok(())
}

impl Findings {
    /// Reads all of the database besides, as the import does. Changes nothing.
    pub(crate) fn read_all(&mut self, progress: &mut snapshot::Progress<'_>) {
        let (Some(log), Some(database)) = (&self.log, &self.database) else { return };
        let Some(point) = &database.point else { return };
        if let Err(error) = snapshot::check_member(&database.file, point, log.owner.member, progress) {
            self.obstacles.push(format!("its database {}: {error}", database.path.display()));
        }
    }
}

/// What an etcd member left that stands in nobody's way; etcd cannot start on it meanwhile.
pub(crate) struct Ready {
    member: MemberId,
    database: Database,
}

/// Refuses what cannot be taken over, with all obstacles.
pub(crate) fn check(member_dir: &Path, wal_dir: &Path) -> anyhow::Result<Ready> {
    match look(member_dir, wal_dir) {
        Findings { obstacles, log: Some(log), database: Some(database) } if obstacles.is_empty() => {
            Ok(Ready { member: log.owner.member, database })
        }
        Findings { obstacles, .. } => bail!(
            "the data of an etcd member in {} cannot be taken over: {}; nothing was changed",
            member_dir.display(),
            obstacles.join("; ")
        ),
    }
}

/// Makes the first state of etcd's database. The caller holds the lock on the directory.
pub(crate) fn take_over(ready: Ready, member_dir: &Path, log: &slog::Logger) -> anyhow::Result<()> {
    let Ready { member, database: Database { path, file, point, .. } } = ready;
    let Some(point) = point else {
        // It has applied nothing: the log holds all there is.
        return Ok(());
    };
    let (bytes, begun) = (file.metadata()?.len(), Instant::now());
    slog::info!(log, "taking over the data of an etcd member"; "database" => path.display().to_string(), "bytes" => bytes,
        "index" => point.index, "term" => point.term);
    // Rows take about as much as the file; what is compressed takes less.
    space::check(member_dir, bytes)?;
    let mut told = begun;
    let mut progress = |done: u64, total: u64| {
        if told.elapsed() >= TOLD {
            told = Instant::now();
            slog::info!(log, "reading etcd's database"; "bytes" => done, "total-bytes" => total);
        }
    };
    snapshots::make_first(member_dir, |engine| {
        Ok(snapshot::load_member(&file, engine, &point, member, &mut progress)?)
    })?;
    slog::info!(log, "took over the data of an etcd member; its files in snap/ are not needed any more";
        "took" => format!("{:.1?}", begun.elapsed()));
    Ok(())
}
