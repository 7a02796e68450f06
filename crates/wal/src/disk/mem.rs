//! A disk in memory that loses data and fails as real disks do, deterministically from a seed.
//!
//! Writes are readable at once and durable after a sync. [`MemDisk::crash`] keeps everything synced and, by the seed,
//! any subset of the unsynced sectors and writes, and a prefix of the unsynced creations, renames and removals.

use super::{Disk, DiskFile};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use types::mutant::{Mutant, is};

/// What a disk writes atomically, in bytes.
const SECTOR_BYTES: u64 = 512;

/// One directory in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Debug, Default)]
struct DiskState {
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Creations, renames and removals since the last sync of the directory.
    unsynced: Vec<Naming>,
    files: Vec<Contents>,
    /// Counts crashes: files opened in an earlier era answer errors.
    era: u64,
    operations: u64,
    fail_at: Option<u64>,
    trouble: Option<Trouble>,
}

/// Further faults of a disk, until a crash or [`MemDisk::heal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Every read returns an error.
    NoReads,
    /// No space is left: no file can be created or extended.
    NoSpace,
    /// The next sync fails and its data is lost, though still readable, as on Linux; later syncs do not write it.
    OneSyncFails,
}

#[derive(Clone, Debug)]
enum Naming {
    Set(String, usize),
    Move(String, String),
    Remove(String),
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Set(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Move(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

/// A file's contents: `data`, then zeros up to `len`, so that reserved space costs no memory.
#[derive(Clone, Debug, Default)]
struct Image {
    data: Vec<u8>,
    len: u64,
}

impl Image {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        let (start, end) = (at(offset), at(offset) + bytes.len());
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[start..end].copy_from_slice(bytes);
        self.len = self.len.max(end as u64);
    }

    fn set_len(&mut self, len: u64) {
        self.data.truncate(at(len));
        self.len = len;
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let count = buf.len().min(at(self.len.saturating_sub(offset)));
        let held = self.data.get(at(offset)..).unwrap_or_default();
        let held = &held[..held.len().min(count)];
        buf[..held.len()].copy_from_slice(held);
        buf[held.len()..count].fill(0);
        count
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("files in memory are addressable")
}

#[derive(Clone, Debug, Default)]
struct Contents {
    now: Image,
    durable: Image,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(Vec<u8>, u64),
    SetLen(u64),
}

impl Contents {
    fn change(&mut self, change: Change) {
        apply(&mut self.now, &change);
        self.unsynced.push(change);
    }

    /// Replaces clean pages with what is on the disk: see [`Disk::open`].
    fn read_again(&mut self) {
        self.now = self.durable.clone();
        self.unsynced.iter().for_each(|change| apply(&mut self.now, change));
    }

    fn forget(&mut self) {
        self.unsynced.clear();
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    /// Applies a power loss: half of all crashes lose the last changes, the others pick changes by sector.
    fn crash(&mut self, random: &mut Random) {
        let changes = std::mem::take(&mut self.unsynced);
        let end = changes.len() as u64;
        let whole = random.one_in(2).then(|| random.below(end + 1));
        // Each sector is left as it was after some of the changes: never a later one without the earlier.
        let mut kept: BTreeMap<u64, u64> = BTreeMap::new();
        for (n, change) in (0..).zip(&changes) {
            match change {
                Change::SetLen(_) if whole.is_some_and(|whole| n >= whole) => {}
                Change::SetLen(_) => apply(&mut self.durable, change),
                Change::Write(bytes, offset) => {
                    for (sector, start) in sectors(bytes, *offset) {
                        let draw = || if random.one_in(3) { random.below(end + 1) } else { end };
                        let kept = kept.entry(start / SECTOR_BYTES).or_insert_with(draw);
                        if n < whole.unwrap_or(*kept) {
                            self.durable.write(sector, start);
                        }
                    }
                }
            }
        }
        self.now = self.durable.clone();
    }
}

fn apply(image: &mut Image, change: &Change) {
    match change {
        Change::Write(bytes, offset) => image.write(bytes, *offset),
        Change::SetLen(len) => image.set_len(*len),
    }
}

fn sectors(bytes: &[u8], offset: u64) -> impl Iterator<Item = (&[u8], u64)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let start = offset + done as u64;
        let rest = bytes.get(done..).filter(|rest| !rest.is_empty())?;
        let length = rest.len().min(at(SECTOR_BYTES - start % SECTOR_BYTES));
        done += length;
        Some((&rest[..length], start))
    })
}

/// `SplitMix64`: small and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

impl MemDisk {
    /// A disk with an empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the process and starts another: files opened before answer errors. Writes remain, but are not durable.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.era += 1;
        state.heal();
    }

    /// Loses power and restarts. Files opened before answer errors: reopen the log.
    pub fn crash(&self, seed: u64) {
        let mut state = self.lock();
        let mut random = Random(seed);
        let unsynced = std::mem::take(&mut state.unsynced);
        let kept = random.below(unsynced.len() as u64 + 1);
        let mut names = std::mem::take(&mut state.durable_names);
        for naming in unsynced.iter().take(at(kept)) {
            naming.apply(&mut names);
        }
        state.names.clone_from(&names);
        state.durable_names = names;
        for file in &mut state.files {
            file.crash(&mut random);
        }
        state.era += 1;
        state.heal();
    }

    /// Adds a fault, until a crash, the end of the process, or [`MemDisk::heal`].
    pub fn trouble(&self, trouble: Trouble) {
        self.lock().trouble = Some(trouble);
    }

    /// Fails the n-th operation from now (1 = the next), perhaps half done, and all after it, until a crash or `heal`.
    pub fn fail_after(&self, n: u64) {
        let mut state = self.lock();
        state.fail_at = Some(state.operations + n);
    }

    /// Ends all faults: operations succeed again.
    pub fn heal(&self) {
        self.lock().heal();
    }

    /// The number of writes, syncs and name changes so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// An independent copy of the disk's current contents, with nothing unsynced.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        let state = self.lock();
        for (name, &file) in &state.names {
            let image = state.files[file].now.clone();
            copy.lock().insert(name, Contents { now: image.clone(), durable: image, unsynced: Vec::new() });
        }
        drop(state);
        let mut inner = copy.lock();
        inner.durable_names = inner.names.clone();
        inner.unsynced.clear();
        drop(inner);
        copy
    }

    /// A file's bytes up to the last one written.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        state.names.get(name).map(|&file| state.files[file].now.data.clone())
    }

    /// Corrupts bytes of a file, durably.
    pub fn damage(&self, name: &str, offset: u64, bytes: &[u8]) {
        let mut state = self.lock();
        let file = *state.names.get(name).expect("damage is done to a file that is there");
        state.files[file].now.write(bytes, offset);
        state.files[file].durable.write(bytes, offset);
    }

    /// Truncates a file, durably.
    pub fn damage_len(&self, name: &str, len: u64) {
        let mut state = self.lock();
        let file = *state.names.get(name).expect("damage is done to a file that is there");
        state.files[file].now.set_len(len);
        state.files[file].durable.set_len(len);
    }

    fn lock(&self) -> MutexGuard<'_, DiskState> {
        types::lock(&self.state)
    }
}

impl DiskState {
    fn insert(&mut self, name: &str, contents: Contents) -> usize {
        let file = self.files.len();
        self.files.push(contents);
        self.naming(Naming::Set(name.to_owned(), file));
        file
    }

    fn naming(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.unsynced.push(naming);
    }

    fn heal(&mut self) {
        (self.fail_at, self.trouble) = (None, None);
    }

    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.fail_at.is_some_and(|at| self.operations >= at) {
            return Err(injected());
        }
        Ok(())
    }

    fn space(&self) -> io::Result<()> {
        if self.trouble == Some(Trouble::NoSpace) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn injected() -> io::Error {
    io::Error::other("injected fault")
}

impl Disk for MemDisk {
    type File = MemFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str, preallocate_bytes: u64) -> io::Result<MemFile> {
        let mut state = self.lock();
        state.operation()?;
        state.space()?;
        let file = state.insert(name, Contents::default());
        state.files[file].change(Change::SetLen(preallocate_bytes));
        Ok(MemFile { disk: self.clone(), file, era: state.era })
    }

    fn open(&self, name: &str) -> io::Result<MemFile> {
        let mut state = self.lock();
        let file = state.find(name)?;
        if !is(Mutant::ReadWhatIsCached) {
            state.files[file].read_again();
        }
        Ok(MemFile { disk: self.clone(), file, era: state.era })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        state.find(from)?;
        state.naming(Naming::Move(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        state.find(name)?;
        state.naming(Naming::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        let names = state.names.clone();
        state.durable_names = names;
        state.unsynced.clear();
        Ok(())
    }
}

/// An open file on the disk in memory.
#[derive(Debug)]
pub struct MemFile {
    disk: MemDisk,
    file: usize,
    era: u64,
}

impl MemFile {
    fn with<T>(&self, change: impl FnOnce(&mut Contents) -> T) -> io::Result<T> {
        let mut state = self.disk.lock();
        if state.era != self.era {
            return Err(io::Error::other("opened before the crash"));
        }
        Ok(change(&mut state.files[self.file]))
    }

    fn verdict(&self, change: Option<&Change>) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operation()?;
        let len = state.files[self.file].now.len;
        let end = match change {
            Some(Change::Write(bytes, offset)) => offset + bytes.len() as u64,
            Some(Change::SetLen(end)) => *end,
            None => 0,
        };
        if end > len { state.space() } else { Ok(()) }
    }

    /// Counts the operation; a failing one takes effect by half.
    fn operation(&self, change: Option<Change>) -> io::Result<()> {
        let verdict = self.verdict(change.as_ref());
        let change = match (&verdict, change) {
            (Err(_), Some(Change::Write(mut bytes, offset))) => {
                // Cut at a sector: the kernel writes whole pages.
                let end = (offset + bytes.len() as u64 / 2) / SECTOR_BYTES * SECTOR_BYTES;
                bytes.truncate(at(end.saturating_sub(offset)));
                Some(Change::Write(bytes, offset))
            }
            (Err(_), _) => None,
            (Ok(()), change) => change,
        };
        if let Some(change) = change {
            self.with(|contents| contents.change(change))?;
        }
        verdict
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.disk.lock().trouble == Some(Trouble::NoReads) {
            return Err(injected());
        }
        self.with(|contents| contents.now.read(buf, offset))
    }

    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.operation(Some(Change::Write(buf.to_vec(), offset)))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.operation(None)?;
        if self.disk.lock().trouble.take_if(|trouble| *trouble == Trouble::OneSyncFails).is_some() {
            self.with(Contents::forget)?;
            return Err(injected());
        }
        self.with(Contents::sync)
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|contents| contents.now.len)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.operation(Some(Change::SetLen(len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_some_of_the_rest() {
        let mut tails = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let disk = MemDisk::new();
            let mut file = disk.create("x", 10_000).expect("create");
            disk.sync_dir().expect("sync");
            file.write_at(&[1; 700], 0).expect("write");
            file.sync().expect("sync");
            file.write_at(&[2; 2000], 700).expect("write");
            disk.crash(seed);
            assert!(file.read_at(&mut [0], 0).is_err(), "the file was opened before the crash");
            let after = disk.open("x").expect("the name was synced");
            let mut bytes = vec![9; 2700];
            assert_eq!(after.read_at(&mut bytes, 0).expect("read"), 2700);
            assert_eq!(bytes[..700], [1; 700]);
            assert!(bytes[700..].iter().all(|&byte| byte == 0 || byte == 2));
            tails.insert(bytes);
        }
        assert!(tails.len() > 5, "crashes should differ, there were {}", tails.len());
    }

    #[test]
    fn names_are_durable_after_a_sync_of_the_directory() {
        let disk = MemDisk::new();
        disk.create("kept", 0).expect("create");
        disk.sync_dir().expect("sync");
        disk.rename("kept", "moved").expect("rename");
        let crashed: Vec<_> = (0..20)
            .map(|seed| {
                let copy = MemDisk { state: Arc::new(Mutex::new(DiskState::default())) };
                copy.create("kept", 0).expect("create");
                copy.sync_dir().expect("sync");
                copy.rename("kept", "moved").expect("rename");
                copy.crash(seed);
                copy.list().expect("list")
            })
            .collect();
        assert!(crashed.contains(&vec!["kept".to_owned()]) && crashed.contains(&vec!["moved".to_owned()]));
    }

    #[test]
    fn faults_come_when_they_are_asked_for() {
        let disk = MemDisk::new();
        let mut file = disk.create("x", 0).expect("create");
        disk.fail_after(2);
        file.write_at(b"ab", 0).expect("the first");
        file.write_at(&[1; 1500], 2).expect_err("the second");
        file.sync().expect_err("and after it");
        disk.heal();
        file.sync().expect("healed");
        let bytes = disk.bytes("x").expect("bytes");
        assert_eq!((bytes.len(), &bytes[..3]), (512, &b"ab\x01"[..]), "the write that failed was half done");
        disk.trouble(Trouble::NoSpace);
        file.write_at(b"cd", 0).expect("there is space for it already");
        let full =
            [file.write_at(&[1; 1500], 2).expect_err("longer"), disk.create("y", 1).expect_err("another")];
        assert!(full.iter().all(|error| error.kind() == io::ErrorKind::StorageFull), "{full:?}");
        disk.trouble(Trouble::NoReads);
        file.read_at(&mut [0], 0).expect_err("it cannot be read");
        disk.heal();
        file.read_at(&mut [0], 0).expect("healed again");
    }
}
