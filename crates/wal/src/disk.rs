//! The boundary to the disk: one directory of files, no more than the log needs.
//!
//! The log above it is the same code on a real file system ([`FsDisk`]) and on the faulty disk of tests and the
//! simulator ([`MemDisk`]).

mod fs;
mod mem;

pub use fs::{FsDisk, FsFile, make_dir_all};
pub use mem::{MemDisk, MemFile, Trouble};

use std::io;

/// One directory.
pub trait Disk: Send + 'static {
    /// An open file of it.
    type File: DiskFile;

    /// The names of the files in it, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes an empty file, in place of one of that name, with this many bytes of zeros set aside for it.
    fn create(&self, name: &str, preallocate_bytes: u64) -> io::Result<Self::File>;

    /// Opens a file that exists, for reading and writing. A file that another process holds is
    /// [`io::ErrorKind::WouldBlock`].
    ///
    /// What is read then is on the disk, or will be synced: after a sync that failed, Linux keeps what could not be written
    /// in memory, takes it for written, and tells nobody who opens the file later.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Gives a file another name, in place of one of that name. Open files stay open.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable: files made, renamed and removed before.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send {
    /// Reads at an offset; fewer bytes than asked for only at the end of the file, 0 beyond it.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of it at an offset.
    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Told how far the file is written and how far it soon will be: space that was only set aside may be made cheap
    /// to write there. The file reads as before.
    fn zero_ahead(&mut self, end: u64, bytes: u64) -> io::Result<()> {
        let _ = (end, bytes);
        Ok(())
    }

    /// Makes what was written durable (fdatasync).
    fn sync(&mut self) -> io::Result<()>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file off, or makes it longer by zeros, for which space is set aside.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
}
