//! The real file system.
//!
//! Space is reserved with `fallocate`. The first sync of a reserved but unwritten block costs a journal commit, so the
//! log writes zeros ahead of its records. Every open file is locked twice: with `flock`, which excludes other quorate
//! processes, and with a record lock, which excludes etcd.

use super::{Disk, DiskFile};
use rustix::fs::{Advice, FallocateFlags, FlockOperation};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use types::mutant::{Mutant, is};

/// One directory of the real file system.
#[derive(Debug)]
pub struct FsDisk {
    path: PathBuf,
    dir: File,
}

impl FsDisk {
    /// Opens a directory; creates it, private to its owner, if it is missing.
    pub fn open(path: &Path) -> io::Result<Self> {
        make_dir_all(path)?;
        Ok(Self { path: path.to_owned(), dir: File::open(path)? })
    }
}

/// Creates a directory and its parents, for the owner only; all names are durable, even ones a crash left unsynced.
pub fn make_dir_all(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    let there = missing.last().map_or(Some(path), |dir| dir.parent());
    if let Some(there) = there.filter(|dir| !dir.as_os_str().is_empty()) {
        match sync_name(there) {
            // Another user created it where we have no access: not ours to sync.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    for dir in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => made?,
        }
        sync_name(dir)?;
    }
    // Refuse a file in place of the last directory.
    if path.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

fn sync_name(dir: &Path) -> io::Result<()> {
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

impl Disk for FsDisk {
    type File = FsFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // Names that are not UTF-8 are never ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, name: &str, preallocate_bytes: u64) -> io::Result<FsFile> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path.join(name))?;
        // Lock before truncating: another process may use the file.
        lock(&file)?;
        file.set_len(0)?;
        let mut file = FsFile { file, len: 0, zeroed_to: 0 };
        file.set_len(preallocate_bytes)?;
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<FsFile> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        lock(&file)?;
        let len = file.metadata()?.len();
        // Drop clean pages so that reads come from the disk: a sync of an earlier process may have failed.
        if !is(Mutant::ReadWhatIsCached) {
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        }
        Ok(FsFile { file, len, zeroed_to: 0 })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }
}

fn lock(file: &File) -> io::Result<()> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?;
    match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        // POSIX allows either error for a lock that is held.
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(()),
    }
}

/// An open, locked file.
#[derive(Debug)]
pub struct FsFile {
    file: File,
    len: u64,
    /// Blocks below this offset were written, or are being written, since the file was opened.
    zeroed_to: u64,
}

impl DiskFile for FsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buf, offset)
    }

    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)?;
        self.len = self.len.max(offset + buf.len() as u64);
        Ok(())
    }

    fn zero_ahead(&mut self, end: u64, bytes: u64) -> io::Result<()> {
        if end > self.zeroed_to {
            let to = (end + bytes).min(self.len);
            write_zeros(&self.file, end, to)?;
            self.zeroed_to = to.max(end);
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        if len <= self.len {
            self.file.set_len(len)?;
            self.zeroed_to = self.zeroed_to.min(len);
        } else {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
                // Not supported by every file system; then only the length changes.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.file.set_len(len)?,
                other => other?,
            }
        }
        self.len = len;
        Ok(())
    }
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let mut at = from;
    while at < to {
        let length = usize::try_from(to - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        file.write_all_at(&ZEROS[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_zeros_as_far_as_it_was_not_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = FsDisk::open(&dir.path().join("a/b")).expect("open");
        let mut file = disk.create("x", 3 << 20).expect("create");
        file.write_at(b"hello", 10).expect("write");
        file.zero_ahead(15, 1 << 20).expect("zeros");
        file.sync().expect("sync");
        assert_eq!(file.len().expect("len"), 3 << 20);
        let mut all = vec![1; 3 << 20];
        assert_eq!(file.read_at(&mut all, 0).expect("read"), 3 << 20);
        assert_eq!(&all[10..15], b"hello");
        assert!(all[15..].iter().chain(&all[..10]).all(|&byte| byte == 0));
        file.set_len(12).expect("cut");
        file.set_len(100).expect("lengthen");
        let mut all = vec![1; 200];
        assert_eq!(file.read_at(&mut all, 0).expect("read"), 100);
        assert_eq!(&all[10..15], b"he\0\0\0");
        let mut names = disk.list().expect("list");
        names.sort();
        assert_eq!(names, ["x"]);
    }

    #[test]
    fn a_file_that_is_open_cannot_be_opened_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = FsDisk::open(dir.path()).expect("open");
        let held = disk.create("x", 0).expect("create");
        assert_eq!(disk.open("x").map(|_| ()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(disk.create("x", 0).map(|_| ()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        disk.open("x").expect("free again");
    }
}
