//! Writes a file in one pass, after a pass that measured it.

use crate::WriteError;
use crate::format::{
    BUCKET_BYTES, FREELIST, HEADER_BYTES, Header, IS_BUCKET, KEY_BYTES_MAX, Meta, VALUE_BYTES_MAX,
    is_page_size,
};
use crate::tree::{Content, Sink, Tree};
use std::io::Write;

/// Pages before the first one with data: two metas and the freelist.
const HEAD_PAGES: u64 = 3;
/// The page of the freelist, as in a file that bbolt created.
const FREELIST_PAGE: u64 = 2;
/// Pages up to this size, in bytes, are put together and written at once; longer ones in parts.
const WHOLE_BYTES: u64 = 64 << 10;

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The size of a page, in bytes: a power of two from [`crate::PAGE_BYTES_MIN`] to [`crate::PAGE_BYTES_MAX`].
    pub page_bytes: u32,
    /// How much of a page is filled before the next begins, in percent, from 10 to 100. etcd's defragmentation uses 90,
    /// so that a later change does not split every page.
    pub fill_percent: u8,
}

impl Options {
    /// What etcd writes on Linux.
    pub const DEFAULT: Self = Self { page_bytes: 4096, fill_percent: 90 };

    fn check(self) -> Result<(), WriteError> {
        if !is_page_size(self.page_bytes) {
            return Err(WriteError::PageBytes(self.page_bytes));
        }
        if !(10..=100).contains(&self.fill_percent) {
            return Err(WriteError::FillPercent(self.fill_percent));
        }
        Ok(())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The first pass: takes every bucket and the lengths of its entries, in order.
#[derive(Debug)]
pub struct Measuring {
    build: Build,
    pages: Counting,
}

impl Measuring {
    /// Begins a file without buckets.
    pub fn new(options: Options) -> Result<Self, WriteError> {
        options.check()?;
        let pages = Counting { page_bytes: options.page_bytes, next: HEAD_PAGES };
        Ok(Self { build: Build::new(options), pages })
    }

    /// Begins the next top-level bucket; names ascend.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.build.bucket(name, &mut self.pages)
    }

    /// Adds an entry to the last bucket; keys ascend.
    pub fn entry(&mut self, key: &[u8], value_bytes: u64) -> Result<(), WriteError> {
        self.build.entry(key, Content::Length(value_bytes), &mut self.pages)
    }

    /// Ends the file; its length is known now.
    pub fn finish(mut self) -> Result<Measured, WriteError> {
        let (root, counts) = self.build.finish(&mut self.pages)?;
        Ok(Measured { options: self.build.options, pages: self.pages.next, root, counts })
    }
}

/// The layout of a file that can now be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    options: Options,
    pages: u64,
    root: u64,
    counts: Counts,
}

impl Measured {
    /// The length of the file, in bytes: a whole number of pages.
    pub fn bytes(&self) -> u64 {
        self.pages * u64::from(self.options.page_bytes)
    }

    /// The number of pages, metas and freelist included.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The number of top-level buckets.
    pub fn buckets(&self) -> u64 {
        self.counts.buckets
    }

    /// The number of entries of all buckets.
    pub fn entries(&self) -> u64 {
        self.counts.entries
    }
}

/// The second pass: takes the same buckets and entries again, and writes a page as soon as it is complete.
///
/// It holds a page of each level of two trees, and no value longer than a page. Each page is one call of `out`, longer ones
/// a few: give a `BufWriter` for a file. After an error, `out` has a part of a file.
#[derive(Debug)]
pub struct Writer<W> {
    build: Build,
    pages: Stream<W>,
    measured: Measured,
    is_failed: bool,
}

impl<W: Write> Writer<W> {
    /// Writes the metas and an empty freelist.
    pub fn new(out: W, measured: &Measured) -> Result<Self, WriteError> {
        let Measured { options, pages: end, root, .. } = *measured;
        let page_bytes = options.page_bytes;
        let mut pages = Stream { out, page_bytes, next: HEAD_PAGES, end, buffer: Vec::new() };
        let freelist = FREELIST_PAGE;
        let meta = Meta { page_bytes, root, sequence: 0, freelist, pages: end, transaction: 0 };
        pages.put(&[&meta.to_bytes(0)])?;
        pages.put(&[&Meta { transaction: 1, ..meta }.to_bytes(1)])?;
        let freelist = Header { id: FREELIST_PAGE, flags: FREELIST, count: 0, overflow: 0 };
        pages.put(&[&freelist.to_bytes()])?;
        Ok(Self { build: Build::new(options), pages, measured: *measured, is_failed: false })
    }

    /// Begins the next top-level bucket; names ascend.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.run(|build, pages| build.bucket(name, pages))
    }

    /// Adds an entry to the last bucket; keys ascend.
    pub fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.run(|build, pages| build.entry(key, Content::Bytes(value), pages))
    }

    /// The output, so that what was written so far can be taken out of it.
    pub fn output(&mut self) -> &mut W {
        &mut self.pages.out
    }

    /// Ends the file, of exactly the measured length. The output is returned, not flushed.
    pub fn finish(mut self) -> Result<W, WriteError> {
        let (root, counts) = self.run(|build, pages| build.finish(pages))?;
        let written = Measured { options: self.measured.options, pages: self.pages.next, root, counts };
        if written != self.measured {
            return Err(WriteError::Differs(format!("{written:?} written, {:?} measured", self.measured)));
        }
        Ok(self.pages.out)
    }

    /// After an error, pages and metas do not fit each other: nothing more is written.
    fn run<T>(
        &mut self,
        step: impl FnOnce(&mut Build, &mut Stream<W>) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        if self.is_failed {
            return Err(WriteError::Failed);
        }
        let result = step(&mut self.build, &mut self.pages);
        self.is_failed = result.is_err();
        result
    }
}

/// Measures what [`write`] will write: buckets by name, each with keys and values, all in order.
pub fn measure<N, B, K, V>(
    options: Options,
    buckets: impl IntoIterator<Item = (N, B)>,
) -> Result<Measured, WriteError>
where
    N: AsRef<[u8]>,
    B: IntoIterator<Item = (K, V)>,
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let mut measuring = Measuring::new(options)?;
    for (name, entries) in buckets {
        measuring.bucket(name.as_ref())?;
        for (key, value) in entries {
            measuring.entry(key.as_ref(), value.as_ref().len() as u64)?;
        }
    }
    measuring.finish()
}

/// Writes what [`measure`] measured. The output is returned, not flushed.
pub fn write<W, N, B, K, V>(
    out: W,
    measured: &Measured,
    buckets: impl IntoIterator<Item = (N, B)>,
) -> Result<W, WriteError>
where
    W: Write,
    N: AsRef<[u8]>,
    B: IntoIterator<Item = (K, V)>,
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let mut writer = Writer::new(out, measured)?;
    for (name, entries) in buckets {
        writer.bucket(name.as_ref())?;
        for (key, value) in entries {
            writer.entry(key.as_ref(), value.as_ref())?;
        }
    }
    writer.finish()
}

/// What was put into a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    buckets: u64,
    entries: u64,
    /// A sum over the lengths of all names, keys and values in order: equal lengths give an equal layout.
    lengths: u64,
}

impl Counts {
    fn add(&mut self, key: &[u8], value_bytes: u64) {
        // FNV's step with whole numbers in place of bytes: it finds mistakes, nobody forges it.
        for length in [key.len() as u64, value_bytes] {
            self.lengths = (self.lengths.rotate_left(29) ^ length).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
}

/// What both passes do: the tree of the bucket that is being filled, and the one of the buckets.
#[derive(Debug)]
struct Build {
    options: Options,
    root: Tree,
    name: Vec<u8>,
    bucket: Option<Tree>,
    last_key: Vec<u8>,
    counts: Counts,
}

impl Build {
    fn new(options: Options) -> Self {
        let root = Tree::new(options.page_bytes, options.fill_percent);
        let counts = Counts::default();
        Self { options, root, name: Vec::new(), bucket: None, last_key: Vec::new(), counts }
    }

    fn bucket(&mut self, name: &[u8], sink: &mut dyn Sink) -> Result<(), WriteError> {
        check_key(name)?;
        // Names are not empty, so the first one is above none.
        if name <= &self.name[..] {
            return Err(WriteError::Order(format!("bucket {:?}", String::from_utf8_lossy(name))));
        }
        self.end_bucket(sink)?;
        self.name.clear();
        self.name.extend_from_slice(name);
        self.last_key.clear();
        self.bucket = Some(Tree::new(self.options.page_bytes, self.options.fill_percent));
        self.counts.buckets += 1;
        self.counts.add(name, 0);
        Ok(())
    }

    fn entry(&mut self, key: &[u8], value: Content<'_>, sink: &mut dyn Sink) -> Result<(), WriteError> {
        let Some(bucket) = &mut self.bucket else { return Err(WriteError::NoBucket) };
        check_key(key)?;
        if value.length() > VALUE_BYTES_MAX {
            return Err(WriteError::ValueBytes(value.length()));
        }
        if key <= &self.last_key[..] {
            let (name, key) = (String::from_utf8_lossy(&self.name), key.escape_ascii());
            return Err(WriteError::Order(format!("key \"{key}\" of bucket {name:?}")));
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.counts.entries += 1;
        self.counts.add(key, value.length());
        bucket.add(0, key, value, sink)
    }

    fn end_bucket(&mut self, sink: &mut dyn Sink) -> Result<(), WriteError> {
        let Some(bucket) = self.bucket.take() else { return Ok(()) };
        let mut value = [0; BUCKET_BYTES];
        value[..8].copy_from_slice(&bucket.finish(sink)?.to_le_bytes());
        self.root.add(IS_BUCKET, &self.name, Content::Bytes(&value), sink)
    }

    /// Ends the last bucket and the file; returns the root page, which is the last.
    fn finish(&mut self, sink: &mut dyn Sink) -> Result<(u64, Counts), WriteError> {
        self.end_bucket(sink)?;
        let empty = Tree::new(self.options.page_bytes, self.options.fill_percent);
        Ok((std::mem::replace(&mut self.root, empty).finish(sink)?, self.counts))
    }
}

fn check_key(key: &[u8]) -> Result<(), WriteError> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) { Ok(()) } else { Err(WriteError::KeyBytes(key.len())) }
}

/// Counts pages, in the pass that measures.
#[derive(Debug)]
struct Counting {
    page_bytes: u32,
    next: u64,
}

impl Sink for Counting {
    fn page(&mut self, _: u16, _: usize, bytes: u64, _: &[&[u8]]) -> Result<u64, WriteError> {
        let id = self.next;
        self.next += bytes.div_ceil(self.page_bytes.into());
        Ok(id)
    }
}

/// Writes pages one after the other, and none beyond the measured end.
#[derive(Debug)]
struct Stream<W> {
    out: W,
    page_bytes: u32,
    next: u64,
    end: u64,
    buffer: Vec<u8>,
}

impl<W: Write> Stream<W> {
    /// Writes the parts of a page, and zeros up to its end.
    fn put(&mut self, parts: &[&[u8]]) -> Result<(), WriteError> {
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let page_bytes = u64::from(self.page_bytes);
        let padding = usize::try_from(bytes.next_multiple_of(page_bytes) - bytes).expect("less than a page");
        self.buffer.clear();
        for part in parts {
            if bytes <= WHOLE_BYTES {
                self.buffer.extend_from_slice(part);
            } else {
                self.out.write_all(part)?;
            }
        }
        self.buffer.resize(self.buffer.len() + padding, 0);
        self.out.write_all(&self.buffer)?;
        Ok(())
    }
}

impl<W: Write> Sink for Stream<W> {
    fn page(&mut self, flags: u16, count: usize, bytes: u64, parts: &[&[u8]]) -> Result<u64, WriteError> {
        let (id, pages) = (self.next, bytes.div_ceil(self.page_bytes.into()));
        if pages > self.end - id {
            return Err(WriteError::Differs(format!(
                "there is more than for the {} pages measured",
                self.end
            )));
        }
        let count = u16::try_from(count).expect("a page of 64 KiB has room for 4,096 elements");
        let overflow = u32::try_from(pages - 1).expect("a value has less than 2 GiB");
        let header: [u8; HEADER_BYTES] = Header { id, flags, count, overflow }.to_bytes();
        match *parts {
            [] => self.put(&[&header])?,
            [table, data] => self.put(&[&header, table, data])?,
            [table, key, value] => self.put(&[&header, table, key, value])?,
            _ => unreachable!("a page has at most three parts"),
        }
        self.next += pages;
        Ok(id)
    }
}
