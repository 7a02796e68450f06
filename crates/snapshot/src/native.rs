//! Our own layout, until snapshots are bbolt files. docs/format.md has it in prose.
//!
//! ```text
//! file   = head · block* · end block · zeros to a multiple of 512 bytes
//! head   = "quorate snapshot" · u32 version · u32 sum
//! block  = u8 kind · u8 family · u32 rows · u32 length · payload · u32 sum
//! rows   = (varint length · key · varint length · value)*          kind 1: rows of one family, in order
//! end    = u64 rows of each family, in order of their numbers      kind 2: says that nothing is missing
//! sum    = CRC-32C of all bytes so far but the sums, so that no block can be left out, doubled or moved
//! ```
//!
//! Numbers are big-endian. Families come in the order meta, revs, latest: whose snapshot it is comes first.

use crate::format::{Format, SECTOR_BYTES, Sink, Writing};
use engine::{Family, Fault, Rows};
use std::ops::ControlFlow;
use types::varint;

/// A block's rows, in bytes, after which it ends; a longer row gets a block of its own.
pub const BLOCK_BYTES: usize = 64 << 10;

pub(crate) const MAGIC: &[u8; 16] = b"quorate snapshot";
pub(crate) const VERSION: u32 = 1;
pub(crate) const ROWS: u8 = 1;
pub(crate) const END: u8 = 2;
/// A block's head: kind, family, rows, length.
pub(crate) const BLOCK_HEAD_BYTES: usize = 1 + 1 + 4 + 4;

pub(crate) const ORDER: [Family; 3] = [Family::Meta, Family::Revs, Family::Latest];

/// A family's number in the file: its place in [`Family::ALL`], which is stable on disk.
pub(crate) fn number(family: Family) -> u8 {
    family as u8
}

/// quorate's own layout of a snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

impl Format for Native {
    fn begin(&self) -> Box<dyn Writing> {
        Box::new(Writer {
            sum: 0,
            written: 0,
            block: Vec::with_capacity(BLOCK_BYTES),
            rows: 0,
            counts: [0; Family::ALL.len()],
            place: None,
            next: Vec::new(),
        })
    }
}

struct Writer {
    sum: u32,
    written: u64,
    block: Vec<u8>,
    rows: u32,
    /// Rows of each family, by number.
    counts: [u64; Family::ALL.len()],
    /// The current family's place in [`ORDER`]; `None` before the head is written.
    place: Option<usize>,
    /// The family's first key that is not in a block yet.
    next: Vec<u8>,
}

impl Writing for Writer {
    fn step(&mut self, rows: &dyn Rows, out: &mut dyn Sink, bytes: u64) -> Result<bool, Fault> {
        let goal = self.written.saturating_add(bytes.max(1)); // every step gets somewhere
        let mut place = if let Some(place) = self.place {
            place
        } else {
            self.head(out);
            0
        };
        while let Some(&family) = ORDER.get(place) {
            self.place = Some(place);
            if !self.family(rows, family, goal, out)? {
                return Ok(false);
            }
            self.next.clear();
            place += 1;
        }
        self.block.extend(self.counts.iter().flat_map(|count| count.to_be_bytes()));
        self.end_block(END, 0, out);
        self.pad(out);
        Ok(true)
    }
}

impl Writer {
    fn head(&mut self, out: &mut dyn Sink) {
        self.put_summed(MAGIC, out);
        self.put_summed(&VERSION.to_be_bytes(), out);
        self.put_sum(out);
    }

    /// Writes about `bytes` more of a family; returns whether the family is complete.
    fn family(
        &mut self,
        rows: &dyn Rows,
        family: Family,
        goal: u64,
        out: &mut dyn Sink,
    ) -> Result<bool, Fault> {
        let (mut is_done, from) = (true, std::mem::take(&mut self.next));
        rows.scan(family, &from, None, &mut |key, value| {
            if self.written >= goal {
                self.next.extend_from_slice(key);
                is_done = false;
                return ControlFlow::Break(());
            }
            self.row(family, key, value, out);
            ControlFlow::Continue(())
        })?;
        if is_done && self.rows > 0 {
            self.end_block(ROWS, number(family), out);
        }
        Ok(is_done)
    }

    fn row(&mut self, family: Family, key: &[u8], value: &[u8], out: &mut dyn Sink) {
        if self.rows > 0 && self.block.len() + key.len() + value.len() > BLOCK_BYTES {
            self.end_block(ROWS, number(family), out);
        }
        for part in [key, value] {
            varint::put(&mut self.block, part.len() as u64);
            self.block.extend_from_slice(part);
        }
        self.rows += 1;
        self.counts[usize::from(number(family))] += 1;
    }

    fn end_block(&mut self, kind: u8, family: u8, out: &mut dyn Sink) {
        let length = u32::try_from(self.block.len()).expect("a row fits a request, which is far below 4 GiB");
        let mut head = vec![kind, family];
        head.extend(self.rows.to_be_bytes());
        head.extend(length.to_be_bytes());
        self.put_summed(&head, out);
        let mut block = std::mem::take(&mut self.block);
        self.put_summed(&block, out);
        block.clear();
        block.shrink_to(BLOCK_BYTES);
        (self.block, self.rows) = (block, 0);
        self.put_sum(out);
    }

    fn pad(&mut self, out: &mut dyn Sink) {
        let length = self.written.next_multiple_of(SECTOR_BYTES) - self.written;
        out.put(&vec![0; usize::try_from(length).expect("below a sector")]);
    }

    fn put_summed(&mut self, bytes: &[u8], out: &mut dyn Sink) {
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        self.written += bytes.len() as u64;
        out.put(bytes);
    }

    fn put_sum(&mut self, out: &mut dyn Sink) {
        let sum = self.sum.to_be_bytes();
        self.written += sum.len() as u64;
        out.put(&sum);
    }
}
