//! The interface to the disk: one directory of files, reduced to what the log needs. [`FsDisk`] is a real file system,
//! [`MemDisk`] the faulty one of tests and the simulator.

mod fs;
mod mem;

pub use fs::{FsDisk, FsFile, make_dir_all};
pub use mem::{MemDisk, MemFile, Trouble};

use std::io;

/// One directory of a file system.
pub trait Disk: Send + 'static {
    /// The type of an open file.
    type File: DiskFile;

    /// The names of its files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates an empty file, replacing one of that name, and reserves this many bytes of zeros for it.
    fn create(&self, name: &str, preallocate_bytes: u64) -> io::Result<Self::File>;

    /// Opens an existing file for reading and writing; [`io::ErrorKind::WouldBlock`] if another process holds it.
    /// Reads must return what is on the disk or will be synced: after a failed sync, Linux keeps the unwritten pages in
    /// its cache, marks them clean, and does not tell whoever opens the file later.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Renames a file, replacing one of the new name. Open files stay open.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file, which must exist.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes earlier creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file, read and written at offsets.
pub trait DiskFile: Send {
    /// Reads at an offset. Returns fewer bytes than asked for only at the end of the file, 0 beyond it.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads until the buffer is full or the file ends; returns how much of the buffer is filled.
    fn read_up_to(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_at(&mut buf[done..], offset + done as u64)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }

    /// Writes the whole buffer at an offset.
    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// A hint: writes from `end` to `end + bytes` come soon. Space there may be prepared; contents do not change.
    fn zero_ahead(&mut self, end: u64, bytes: u64) -> io::Result<()> {
        let _ = (end, bytes);
        Ok(())
    }

    /// Makes earlier writes durable (fdatasync).
    fn sync(&mut self) -> io::Result<()>;

    /// The file's length, bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file's length is zero.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Truncates the file, or extends it with zeros, for which space is reserved.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
}
