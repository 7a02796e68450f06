//! The engines of a member: the current one, and beside it that of a leader's snapshot until the log goes on from it.
//!
//! | directory | what it holds |
//! | --- | --- |
//! | `kv` | the member's first state |
//! | `kv-<index>` | a leader's snapshot at this index, perhaps only a part of it |
//!
//! The log says which of them is current, with what they have applied: see [`bootstrap::current_state`]. It is told of a
//! snapshot only when that is whole and durable. What is not current is removed at the next start, or when nobody uses it
//! any more.

use crate::threads;
use anyhow::{Context as _, ensure};
use engine::Engine as _;
use engine_rocks::{Options, RocksEngine};
use machine::{Machine, Point};
use raft_node::bootstrap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, io};
use types::{Index, lock};

const FIRST: &str = "kv";
/// The first state while it is made of something else than the log.
const UNFINISHED: &str = "kv.unfinished";
const LATER: &str = "kv-";

/// How often it is looked whether the last reader of an engine is gone.
const LOOKED: Duration = Duration::from_millis(200);

/// All engines that are open.
pub(crate) struct Engines {
    member_dir: PathBuf,
    options: Options,
    state: Mutex<State>,
    log: slog::Logger,
}

struct State {
    open: Vec<Open>,
    /// A machine that is to be dropped: it holds the engine that was current.
    former: Option<Machine>,
}

struct Open {
    /// 0 = the first state.
    index: Index,
    /// `None` while it is closed and its directory removed.
    engine: Option<Arc<RocksEngine>>,
    is_current: bool,
}

/// Whether the directory has any state in it. Changes nothing.
pub(crate) fn is_any(member_dir: &Path) -> bool {
    let is_state = |name: &String| index_of(name).is_some() && RocksEngine::exists(&member_dir.join(name));
    names(member_dir).is_ok_and(|names| names.iter().any(is_state))
}

/// The engine of a member that is being made, where no server runs.
pub(crate) fn open_first(member_dir: &Path) -> anyhow::Result<RocksEngine> {
    make(&member_dir.join(FIRST), &Options::default())
}

/// Makes a member's first state, which appears whole: `fill` writes it into an empty engine, durably.
pub(crate) fn make_first(
    member_dir: &Path,
    fill: impl FnOnce(&RocksEngine) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (unfinished, first) = (member_dir.join(UNFINISHED), member_dir.join(FIRST));
    // What an attempt left that was cut short.
    remove(&unfinished)?;
    let engine = make(&unfinished, &Options::default())?;
    fill(&engine)?;
    drop(engine);
    // Replaces an empty directory, and nothing else.
    fs::rename(&unfinished, &first).with_context(|| format!("cannot name {}", first.display()))?;
    let synced = fs::File::open(member_dir).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("cannot sync {}", member_dir.display()))
}

fn make(dir: &Path, options: &Options) -> anyhow::Result<RocksEngine> {
    wal::make_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    RocksEngine::open(dir, options).with_context(|| format!("cannot open the state in {}", dir.display()))
}

/// The index of the snapshot that a state came with, by its directory's name.
fn index_of(name: &str) -> Option<Index> {
    if name == FIRST { Some(0) } else { Index::from_str_radix(name.strip_prefix(LATER)?, 16).ok() }
}

fn names(member_dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(member_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_str().map(str::to_owned));
    entries.filter_map(|entry| name(entry).transpose()).collect()
}

fn dir_of(index: Index) -> String {
    if index == 0 { FIRST.to_owned() } else { format!("{LATER}{index:016x}") }
}

impl Engines {
    /// Opens the state that a log with this first entry goes on from, and removes all others.
    pub(crate) fn open(
        member_dir: &Path,
        options: Options,
        log_first: Index,
        log: slog::Logger,
    ) -> anyhow::Result<Arc<Self>> {
        let show = || format!("cannot read {}", member_dir.display());
        let names = names(member_dir).with_context(show)?;
        let mut all = Vec::new();
        for index in names.iter().filter_map(|name| index_of(name)) {
            // One that the log has not passed never counts, and may be damaged: it is not opened.
            let engine = if index < log_first {
                Some(Arc::new(make(&member_dir.join(dir_of(index)), &options)?))
            } else {
                None
            };
            let point =
                engine.as_ref().map(|engine| Point::of(&*Arc::clone(engine).snapshot())).transpose()?;
            all.push((index, point.map_or(0, |point| point.index), engine));
        }
        let points = all.iter().map(|(index, applied, _)| (*index, *applied));
        let current = bootstrap::current_state(log_first, points);
        // The state before a snapshot's goes only when the log goes on from that.
        ensure!(
            current.is_some() || all.is_empty(),
            "the log begins at index {log_first}, before every state in {}: an older log was put back, or --wal-dir is not \
             what it was; nothing was changed",
            member_dir.display()
        );
        let current = current.unwrap_or(0);
        let mut open = Vec::new();
        for (index, _, engine) in all {
            if index == current {
                open.push(Open { index, engine, is_current: true });
                continue;
            }
            slog::info!(log, "removing a state that the log does not go on from"; "index" => index);
            drop(engine);
            remove(&member_dir.join(dir_of(index)))?;
        }
        if open.is_empty() {
            let engine = Arc::new(make(&member_dir.join(FIRST), &options)?);
            open.push(Open { index: 0, engine: Some(engine), is_current: true });
        }
        let state = Mutex::new(State { open, former: None });
        Ok(Arc::new(Self { member_dir: member_dir.to_owned(), options, state, log }))
    }

    /// Where the states are.
    pub(crate) fn member_dir(&self) -> &Path {
        &self.member_dir
    }

    /// The engine that is current.
    pub(crate) fn current(&self) -> Arc<RocksEngine> {
        let state = lock(&self.state);
        let current = state.open.iter().find(|open| open.is_current).and_then(|open| open.engine.clone());
        current.expect("there is always one")
    }

    /// Makes the state of a snapshot: `fill` writes it into an empty engine, durably.
    pub(crate) fn stage(
        self: &Arc<Self>,
        index: Index,
        fill: impl FnOnce(&RocksEngine) -> anyhow::Result<()>,
    ) -> anyhow::Result<Arc<RocksEngine>> {
        let engine = self.begin(index)?;
        fill(&engine)?;
        Ok(engine)
    }

    fn begin(self: &Arc<Self>, index: Index) -> anyhow::Result<Arc<RocksEngine>> {
        let mut state = lock(&self.state);
        let is_new = state.open.iter().all(|open| open.index != index);
        ensure!(is_new, "the snapshot at index {index} was received before");
        let dir = self.member_dir.join(dir_of(index));
        // What an attempt left that failed, if it could not be removed then.
        remove(&dir)?;
        let engine = Arc::new(make(&dir, &self.options)?);
        if state.open.len() == 1 {
            self.look_after();
        }
        state.open.push(Open { index, engine: Some(Arc::clone(&engine)), is_current: false });
        Ok(engine)
    }

    /// The log goes on from this snapshot. The former machine is dropped elsewhere: its index may be large.
    pub(crate) fn installed(&self, index: Index, former: Machine) {
        let mut state = lock(&self.state);
        state.open.iter_mut().for_each(|open| open.is_current = open.index == index);
        state.former = Some(former);
    }

    /// Closes and removes what nobody needs any more, on a thread of its own, until only the current one is left.
    fn look_after(self: &Arc<Self>) {
        let own = Arc::downgrade(self);
        let looks = move || {
            while own.upgrade().is_some_and(|engines| engines.remove_unused()) {
                std::thread::sleep(LOOKED);
            }
        };
        if let Err(error) = threads::spawn("engine-remove", looks) {
            slog::warn!(self.log, "old states stay on the disk until the next start"; "error" => %error);
        }
    }

    /// Returns whether there is more than the current one.
    fn remove_unused(&self) -> bool {
        let former = lock(&self.state).former.take();
        drop(former);
        for (index, engine) in self.unused() {
            // Closed first: until then it writes files.
            drop(engine);
            if let Err(error) = remove(&self.member_dir.join(dir_of(index))) {
                slog::warn!(self.log, "cannot remove a state"; "error" => format!("{error:#}"));
            }
            lock(&self.state).open.retain(|open| open.index != index);
            slog::info!(self.log, "removed a state that nobody reads any more"; "index" => index);
        }
        lock(&self.state).open.len() > 1
    }

    fn unused(&self) -> Vec<(Index, Option<Arc<RocksEngine>>)> {
        let mut state = lock(&self.state);
        let unused = |open: &&mut Open| {
            !open.is_current && open.engine.as_ref().is_some_and(|engine| Arc::strong_count(engine) == 1)
        };
        state.open.iter_mut().filter(unused).map(|open| (open.index, open.engine.take())).collect()
    }
}

/// Removes a directory with all its files, if it is there.
fn remove(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Entry, EntryKind};

    /// A state that has applied up to this index, closed.
    fn put(member_dir: &Path, name: Index, applied: Index) {
        let engine = Arc::new(make(&member_dir.join(dir_of(name)), &Options::default()).expect("it opens"));
        if applied > 0 {
            let entry = |index| Entry { term: 1, index, kind: EntryKind::Normal, data: "".into() };
            let entries: Vec<Entry> = (1..=applied).map(entry).collect();
            let opened = Machine::open(engine.clone(), machine::Settings::new(1, 2));
            opened.expect("it opens").apply(&entries).expect("it applies");
            engine.flush().expect("it flushes");
        }
    }

    fn opened(states: &[(Index, Index)], log_first: Index) -> (Index, Vec<String>) {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, applied) in states {
            put(dir.path(), *name, *applied);
        }
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let engines = Engines::open(dir.path(), Options::default(), log_first, log).expect("it opens");
        let applied = Point::of(&*engines.current().snapshot()).expect("its own rows").index;
        (applied, names(dir.path()).expect("names"))
    }

    #[test]
    fn a_start_goes_on_from_what_the_log_follows_and_removes_the_rest() {
        assert_eq!(opened(&[], 1), (0, vec!["kv".to_owned()]));
        assert_eq!(opened(&[(0, 7), (20, 20)], 1), (7, vec!["kv".to_owned()]));
        assert_eq!(opened(&[(0, 7), (20, 20)], 21), (20, vec!["kv-0000000000000014".to_owned()]));
        // The member came further by itself, and its log was released: whole or in part, the snapshot is old.
        assert_eq!(opened(&[(0, 50), (20, 20)], 41), (50, vec!["kv".to_owned()]));
        assert_eq!(opened(&[(0, 50), (20, 0)], 41), (50, vec!["kv".to_owned()]));
    }

    /// What a power cut left of a snapshot that was being read must not keep the member down.
    #[test]
    fn a_damaged_part_of_a_snapshot_that_the_log_was_not_told_of_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        put(dir.path(), 0, 7);
        let part = dir.path().join(dir_of(20));
        fs::create_dir(&part).expect("a directory");
        fs::write(part.join("CURRENT"), "MANIF").expect("a file");
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let engines = Engines::open(dir.path(), Options::default(), 1, log).expect("it opens");
        assert_eq!(Point::of(&*engines.current().snapshot()).expect("its own rows").index, 7);
        assert_eq!(names(dir.path()).expect("names"), ["kv"]);
    }
}
