//! The superblock: how far the log is known to be durable. etcd cannot tell a log that lost its end from one that was
//! never longer; with this file we can.
//!
//! After each sync of the log, the position reached is written to one of two slots in turn, unsynced (the log syncs it
//! every few MiB and at each new segment). A log that ends before it, or holds something else there, is refused.
//!
//! ```text
//! file `superblock`: slot at 0, slot at 4096, each 48 bytes, little-endian:
//!   0 magic "qwalsb01" · 8 generation · 16 segment · 24 offset · 32 running crc there · 36 zero · 40 zero · 44 crc
//! ```
//!
//! The slot with the greater generation counts. A slot fits in one sector, so it is written whole or not at all. etcd's
//! readers ignore the file, because its name does not end in `.wal`.

use crate::disk::{Disk, DiskFile};
use crate::error::WalError;

pub(crate) const NAME: &str = "superblock";

const MAGIC: &[u8; 8] = b"qwalsb01";
const SLOT_BYTES: usize = 48;
/// Slots are a page apart, so they never share a sector.
const SLOT_STRIDE_BYTES: u64 = 4096;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) seq: u64,
    /// The end of a record in that segment.
    pub(crate) offset: u64,
    pub(crate) crc: u32,
}

fn encode(generation: u64, mark: Mark) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..16].copy_from_slice(&generation.to_le_bytes());
    slot[16..24].copy_from_slice(&mark.seq.to_le_bytes());
    slot[24..32].copy_from_slice(&mark.offset.to_le_bytes());
    slot[32..36].copy_from_slice(&mark.crc.to_le_bytes());
    let crc = crc32c::crc32c(&slot[..44]);
    slot[44..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<(u64, Mark)> {
    let word = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| u32::from_le_bytes(slot[at..at + 4].try_into().expect("four bytes"));
    if &slot[..8] != MAGIC || half(44) != crc32c::crc32c(&slot[..44]) {
        return None;
    }
    Some((word(8), Mark { seq: word(16), offset: word(24), crc: half(32) }))
}

pub(crate) struct Superblock<F> {
    file: F,
    generation: u64,
}

impl<F: DiskFile> Superblock<F> {
    /// Creates the file without a position. The caller syncs the directory.
    pub(crate) fn create<D: Disk<File = F>>(disk: &D) -> Result<Self, WalError> {
        let file = disk.create(NAME, 2 * SLOT_STRIDE_BYTES).map_err(|e| WalError::io("create", NAME, e))?;
        Ok(Self { file, generation: 0 })
    }

    /// Opens the file and reads its position; `None` if there is none: etcd wrote the log.
    pub(crate) fn open<D: Disk<File = F>>(disk: &D) -> Result<Option<(Self, Option<Mark>)>, WalError> {
        let names = disk.list().map_err(|e| WalError::io("list", "the directory", e))?;
        if !names.iter().any(|name| name == NAME) {
            return Ok(None);
        }
        let file = disk.open(NAME).map_err(|e| WalError::io("open", NAME, e))?;
        let mut slots = [[0; SLOT_BYTES]; 2];
        for (slot, at) in slots.iter_mut().zip([0, SLOT_STRIDE_BYTES]) {
            // A truncated file reads as zeros: a crash came before the first position.
            file.read_up_to(slot, at).map_err(|e| WalError::io("read", NAME, e))?;
        }
        let newest = slots.iter().filter_map(decode).max_by_key(|&(generation, _)| generation);
        if newest.is_none() && slots.iter().all(|slot| slot.iter().any(|&byte| byte != 0)) {
            return Err(WalError::corrupt(NAME, 0, "neither of its two slots is whole"));
        }
        let generation = newest.map_or(0, |(generation, _)| generation);
        Ok(Some((Self { file, generation }, newest.map(|(_, mark)| mark))))
    }

    /// Stores a durable position, which becomes durable with [`Superblock::sync`], or when the kernel writes it out.
    pub(crate) fn remember(&mut self, mark: Mark) -> Result<(), WalError> {
        self.generation += 1;
        let at = SLOT_STRIDE_BYTES * (self.generation % 2);
        self.file.write_at(&encode(self.generation, mark), at).map_err(|e| WalError::io("write", NAME, e))
    }

    pub(crate) fn sync(&mut self) -> Result<(), WalError> {
        self.file.sync().map_err(|e| WalError::io("sync", NAME, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;

    fn remembered(disk: &MemDisk) -> Result<Option<Mark>, WalError> {
        Ok(Superblock::open(disk)?.expect("the file is there").1)
    }

    #[test]
    fn a_slot_is_written_without_touching_the_other_after_a_restart_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = crate::FsDisk::open(dir.path()).expect("open");
        drop(Superblock::create(&disk).expect("create"));
        for n in 1..=4 {
            // Reopened each time, so that nothing is remembered in memory.
            let (mut block, mark) = Superblock::open(&disk).expect("open").expect("the file is there");
            assert_eq!(mark.map_or(0, |mark| mark.seq), n - 1);
            block.remember(Mark { seq: n, offset: 8, crc: 7 }).expect("remember");
            let slots = [0, SLOT_STRIDE_BYTES].map(|at| {
                let mut slot = [0; SLOT_BYTES];
                block.file.read_at(&mut slot, at).expect("read");
                decode(&slot).map_or(0, |(generation, _)| generation)
            });
            assert_eq!(slots.into_iter().max(), Some(n));
            assert_eq!(slots.into_iter().min(), Some(n - 1), "the slot before is still there");
        }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let disk = MemDisk::new();
        assert!(Superblock::open(&disk).expect("open").is_none());
        let mut block = Superblock::create(&disk).expect("create");
        assert_eq!(remembered(&disk).expect("open"), None);
        let mark = |n: u64| Mark { seq: n, offset: 8 * n, crc: 7 };
        for n in 1..=5 {
            block.remember(mark(n)).expect("remember");
            assert_eq!(remembered(&disk).expect("open"), Some(mark(n)));
        }
        // Generation 5 is in the second slot: if that is torn, generation 4 counts.
        block.file.write_at(&[0xff; 8], SLOT_STRIDE_BYTES + 16).expect("tear");
        assert_eq!(remembered(&disk).expect("open"), Some(mark(4)));
        block.file.write_at(&[0xff; 8], 16).expect("tear");
        let error = remembered(&disk).expect_err("both are torn");
        assert_eq!(
            error.to_string(),
            "wal: superblock is corrupt at offset 0: neither of its two slots is whole"
        );
    }
}
