//! A disk that a power cut takes back to what was synced, under a real process.
//!
//! ```text
//! server ── LD_PRELOAD power.so ──▶ root/   what the process sees        Disk::cut: root/ becomes what state/ says,
//!                          └──────▶ state/  what would be on disk         or that and some of the rest
//! ```
//!
//! The library (`preload/power.c`, built here with the C compiler that linking needs too) keeps beside each file what was
//! in it at its last sync, and beside each directory its names at its last sync. [`Disk::cut`], after the process was
//! killed, makes the directory what that says. [`Survives::Some`] lets some of what was not synced survive, as disks
//! write in any order: of each file some sectors, of each directory all changes of its names or none.
//!
//! What it does not do: single names of a directory in any order, torn sectors, damage to what was synced.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::Context as _;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use crate::preload;

/// What a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;
/// How much is compared and copied at once, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// What is left of the writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// None of the writes.
    Nothing,
    /// What this seed says.
    Some(u64),
}

/// The disk of one member.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    state: PathBuf,
    control: PathBuf,
}

impl Disk {
    /// An empty one, `<folder>/<name>.disk`, with what belongs to it beside it.
    pub fn new(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let at = |end: &str| folder.join(format!("{name}.{end}"));
        let disk = Self { root: at("disk"), state: at("state"), control: at("control") };
        fs::create_dir_all(&disk.root)?;
        disk.settle()?;
        Ok(disk)
    }

    /// What lies on it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What a process needs in its environment for its writes to go here.
    pub fn variables(&self) -> anyhow::Result<Vec<(String, String)>> {
        let text = |path: &Path| path.display().to_string();
        let pairs = [
            ("LD_PRELOAD", text(library()?)),
            ("POWER_DIR", text(&self.root)),
            ("POWER_STATE", text(&self.state)),
            ("POWER_CONTROL", text(&self.control)),
        ];
        Ok(pairs.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// What is to happen to syncs and writes from now on, in the words of `power.c`; an empty text: nothing.
    pub fn command(&self, lines: &str) -> anyhow::Result<()> {
        let next = self.control.with_extension("next");
        fs::write(&next, lines)?;
        Ok(fs::rename(&next, &self.control)?)
    }

    /// The commands that have struck, a line each: what, kind, path.
    pub fn struck(&self) -> Vec<String> {
        lines(&self.state.join("struck"))
    }

    /// Writes that the library did not see, where it was told to look for them (`POWER_VERIFY`).
    pub fn escaped(&self) -> Vec<String> {
        lines(&self.state.join("escaped"))
    }

    /// Cuts the power. No process may be using the disk.
    pub fn cut(&self, survives: Survives) -> anyhow::Result<()> {
        let next = self.root.with_extension("next");
        remove(&next)?;
        let random = match survives {
            Survives::Nothing => None,
            Survives::Some(seed) => Some(SmallRng::seed_from_u64(seed)),
        };
        let ino = fs::metadata(&self.root)?.ino();
        Rebuild { state: &self.state, random, placed: HashMap::new() }.folder(
            ino,
            Some(&self.root),
            &next,
        )?;
        remove(&self.root)?;
        fs::rename(&next, &self.root)?;
        self.settle()
    }

    /// Takes all that is there for synced.
    fn settle(&self) -> anyhow::Result<()> {
        remove(&self.state)?;
        for part in ["file", "data", "dir"] {
            fs::create_dir_all(self.state.join(part))?;
        }
        self.settle_folder(&self.root)
    }

    fn settle_folder(&self, folder: &Path) -> anyhow::Result<()> {
        let mut names = String::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (path, found) = (entry.path(), entry.metadata()?);
            let kind = if found.is_dir() { 'd' } else { 'f' };
            writeln!(names, "{kind} {} {}", found.ino(), entry.file_name().display())?;
            if found.is_dir() {
                self.settle_folder(&path)?;
            } else {
                let number = found.ino().to_string();
                fs::hard_link(&path, self.state.join("file").join(&number))?;
                copy(&path, &self.state.join("data").join(&number))?;
            }
        }
        Ok(fs::write(self.state.join("dir").join(fs::metadata(folder)?.ino().to_string()), names)?)
    }
}

/// A directory as it comes back.
struct Rebuild<'a> {
    state: &'a Path,
    random: Option<SmallRng>,
    /// Files that have been given a name, by number.
    placed: HashMap<u64, PathBuf>,
}

impl Rebuild<'_> {
    /// Makes `into` what directory number `ino` comes back as; `live`: where it is now, if it is.
    fn folder(&mut self, ino: u64, live: Option<&Path>, into: &Path) -> anyhow::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(into)?;
        let kept = fs::read_to_string(self.state.join("dir").join(ino.to_string())).unwrap_or_default();
        let mut entries: Vec<(bool, u64, String)> = Vec::new();
        for line in kept.lines() {
            let mut words = line.splitn(3, ' ');
            let (kind, number, name) = (words.next(), words.next(), words.next());
            let number = number.context("a number")?.parse()?;
            entries.push((kind == Some("d"), number, name.context("a name")?.to_owned()));
        }
        let newer = self.random.as_mut().is_some_and(|random| random.random_bool(0.5));
        if let Some(live) = live.filter(|_| newer) {
            entries.clear();
            for entry in fs::read_dir(live)? {
                let entry = entry?;
                let (found, name) = (entry.metadata()?, entry.file_name());
                entries.push((found.is_dir(), found.ino(), name.to_string_lossy().into_owned()));
            }
        }
        for (is_dir, number, name) in entries {
            let (now, place) = (live.map(|live| live.join(&name)), into.join(&name));
            if is_dir {
                let now = now.filter(|now| fs::metadata(now).is_ok_and(|found| found.ino() == number));
                self.folder(number, now.as_deref(), &place)?;
            } else {
                self.file(number, &place)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, number: u64, place: &Path) -> anyhow::Result<()> {
        if let Some(first) = self.placed.get(&number) {
            return Ok(fs::hard_link(first, place)?);
        }
        let part = |name: &str| self.state.join(name).join(number.to_string());
        let (kept, live) = (part("data"), part("file"));
        if !kept.exists() {
            File::create(&kept)?;
        }
        if let Some(random) = &mut self.random
            && live.exists()
        {
            mix(&live, &kept, random)?;
        }
        fs::rename(&kept, place)?;
        self.placed.insert(number, place.to_owned());
        Ok(())
    }
}

/// Lets some sectors of `live` come into `kept` where they differ, and the one length or the other.
fn mix(live: &Path, kept: &Path, random: &mut SmallRng) -> anyhow::Result<()> {
    let (live, kept) = (File::open(live)?, File::options().read(true).write(true).open(kept)?);
    let (long, durable) = (live.metadata()?.len(), kept.metadata()?.len());
    let length = if random.random_bool(0.5) { long } else { durable };
    // Mostly the last writes are lost; sometimes any.
    let rate = if random.random_bool(0.5) { 0.5 } else { 0.97 };
    let (mut new, mut old) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut at = 0;
    while at < length.min(long) {
        let count = read(&live, &mut new, at)?;
        let had = read(&kept, &mut old, at)?;
        old[had..].fill(0);
        let end = count.min(usize::try_from(length - at).unwrap_or(usize::MAX));
        for start in (0..end).step_by(SECTOR_BYTES) {
            let sector = start..(start + SECTOR_BYTES).min(end);
            if new[sector.clone()] != old[sector.clone()] && random.random_bool(rate) {
                kept.write_all_at(&new[sector], at + start as u64)?;
            }
        }
        if count == 0 {
            break;
        }
        at += count as u64;
    }
    Ok(kept.set_len(length)?)
}

/// Copies a file, leaving out what is zero.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let (from, to) = (File::open(from)?, File::create(to)?);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0;
    loop {
        let count = read(&from, &mut chunk, at)?;
        if count == 0 {
            return Ok(to.set_len(at)?);
        }
        if chunk[..count].iter().any(|&byte| byte != 0) {
            to.write_all_at(&chunk[..count], at)?;
        }
        at += count as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn read(file: &File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The library, built once by each test process.
fn library() -> anyhow::Result<&'static Path> {
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match LIBRARY.get_or_init(|| preload::build("power").map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(error) => anyhow::bail!("{error}"),
    }
}
