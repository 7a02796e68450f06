//! What the tests share: content as lines, inputs that count, and files put together page by page.

use bbolt::{Item, Limits, Options, ReadAt, ReadError, Reader, Value};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;

/// Values by their keys.
pub(crate) type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Buckets by name, each with its entries.
pub(crate) type Buckets = BTreeMap<Vec<u8>, Entries>;

/// One item of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) path: Vec<Vec<u8>>,
    pub(crate) key: Vec<u8>,
    /// The bytes of an entry, or the sequence of a bucket.
    pub(crate) value: Result<Vec<u8>, u64>,
}

impl From<Item<'_>> for Line {
    fn from(item: Item<'_>) -> Self {
        let value = match item.value {
            Value::Bytes(bytes) => Ok(bytes.to_vec()),
            Value::Bucket => Err(item.sequence),
        };
        Self { path: item.path.to_vec(), key: item.key.to_vec(), value }
    }
}

/// Everything in a file, by a walk.
pub(crate) fn walked<R: ReadAt>(reader: &Reader<R>) -> Result<Vec<Line>, ReadError> {
    let mut lines = Vec::new();
    reader.walk(&mut |item| {
        lines.push(item.into());
        Ok::<_, ReadError>(())
    })?;
    Ok(lines)
}

/// Bytes of lines after which [`read`] opens no more buckets: more than any test's file has.
const READ_BYTES_MAX: usize = 256 << 20;

/// Everything in a file, by a cursor for each bucket.
pub(crate) fn read<R: ReadAt>(reader: &Reader<R>) -> Result<Vec<Line>, ReadError> {
    let mut lines = Vec::new();
    read_bucket(&reader.root(), &mut Vec::new(), &mut lines, &mut 0)?;
    Ok(lines)
}

fn read_bucket<R: ReadAt>(
    bucket: &bbolt::Bucket<'_, R>,
    path: &mut Vec<Vec<u8>>,
    lines: &mut Vec<Line>,
    bytes: &mut usize,
) -> Result<(), ReadError> {
    let mut cursor = bucket.cursor();
    let mut last: Vec<u8> = Vec::new();
    while let Some(entry) = cursor.next_entry()? {
        assert!(entry.key > &last[..], "keys ascend whatever the bytes");
        last = entry.key.to_vec();
        if let Value::Bytes(value) = entry.value {
            *bytes += last.len() + value.len() + 500;
            lines.push(Line { path: path.clone(), key: last.clone(), value: Ok(value.to_vec()) });
            continue;
        }
        let inner = bucket.bucket(&last)?.expect("a bucket that the cursor met is found");
        lines.push(Line { path: path.clone(), key: last.clone(), value: Err(inner.sequence()) });
        // Buckets that refer to each other in a circle are each valid, and only a walk sees the circle.
        *bytes += path.iter().map(Vec::len).sum::<usize>() + 500;
        if *bytes > READ_BYTES_MAX {
            return Ok(());
        }
        path.push(last.clone());
        read_bucket(&inner, path, lines, bytes)?;
        path.pop();
    }
    Ok(())
}

/// The lines that a file of these buckets has.
pub(crate) fn lines(buckets: &Buckets) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, entries) in buckets {
        lines.push(Line { path: Vec::new(), key: name.clone(), value: Err(0) });
        for (key, value) in entries {
            lines.push(Line { path: vec![name.clone()], key: key.clone(), value: Ok(value.clone()) });
        }
    }
    lines
}

/// The file of these buckets.
pub(crate) fn file(options: Options, buckets: &Buckets) -> Vec<u8> {
    let measured = bbolt::measure(options, buckets).expect("the buckets are in order");
    let bytes = bbolt::write(Vec::new(), &measured, buckets).expect("a vector takes all");
    assert_eq!(bytes.len() as u64, measured.bytes());
    bytes
}

/// Numbers that look random, the same for each seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// Buckets of many shapes: empty, one leaf, several levels, long keys, values beyond a page.
pub(crate) fn some_buckets(dice: &mut Dice, page_bytes: usize) -> Buckets {
    let mut buckets = Buckets::new();
    for n in 0..=dice.below(6) {
        let mut entries = BTreeMap::new();
        let count = [0, 1, 4, 60, 700][dice.below(5)];
        for _ in 0..count {
            let long = match dice.below(60) {
                0 => dice.below((3 * page_bytes).min(32_000)),
                _ => 0,
            };
            let mut key = dice.next().to_be_bytes().to_vec();
            key.resize(8 + long, 7);
            let length = match dice.below(50) {
                0 => dice.below(6 * page_bytes),
                // A leaf that is exactly full.
                1 => (page_bytes * (1 + dice.below(3))).saturating_sub(32 + key.len()),
                _ => dice.below(80),
            };
            let value = dice.bytes(length);
            entries.insert(key, value);
        }
        let mut name = format!("bucket{n}").into_bytes();
        let long = if dice.below(8) == 0 { 900 } else { 0 };
        name.extend(dice.bytes(long));
        buckets.insert(name, entries);
    }
    buckets
}

/// A file that counts what is read of it.
pub(crate) struct Metered<'a> {
    pub(crate) file: &'a [u8],
    pub(crate) read: Cell<u64>,
    pub(crate) longest: Cell<usize>,
}

impl<'a> Metered<'a> {
    pub(crate) fn new(file: &'a [u8]) -> Self {
        Self { file, read: Cell::new(0), longest: Cell::new(0) }
    }
}

impl ReadAt for Metered<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read.set(self.read.get() + buffer.len() as u64);
        self.longest.set(self.longest.get().max(buffer.len()));
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

/// A sparse file of the largest size, with these bytes at its beginning.
pub(crate) struct Sparse(pub(crate) Vec<u8>);

impl ReadAt for Sparse {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        assert!(buffer.len() <= 1 << 20, "one read of {} bytes", buffer.len());
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let bytes = &self.0[from..self.0.len().min(from + buffer.len())];
        buffer.fill(0);
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

pub(crate) fn open(file: &[u8]) -> Result<Reader<&[u8]>, ReadError> {
    Reader::open(file, Limits::DEFAULT)
}

/// A file put together page by page, valid or not.
pub(crate) struct Forge {
    pub(crate) page_bytes: usize,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) const BRANCH: u16 = 1;
pub(crate) const LEAF: u16 = 2;
pub(crate) const FREELIST: u16 = 16;

impl Forge {
    /// A file of so many pages with valid metas, without a freelist; the rest is zeros.
    pub(crate) fn new(page_bytes: usize, pages: usize, root: u64) -> Self {
        let mut forge = Self { page_bytes, bytes: vec![0; page_bytes * pages] };
        for id in 0..2 {
            forge.meta(id, root, u64::MAX, pages as u64);
        }
        forge
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn header(&mut self, id: u64, flags: u16, count: u16, overflow: u32) {
        let at = self.at(id);
        self.put(at, &id.to_le_bytes());
        self.put(at + 8, &flags.to_le_bytes());
        self.put(at + 10, &count.to_le_bytes());
        self.put(at + 12, &overflow.to_le_bytes());
    }

    pub(crate) fn meta(&mut self, id: u64, root: u64, freelist: u64, pages: u64) {
        self.header(id, 4, 0, 0);
        let (at, page_bytes) = (self.at(id), u32::try_from(self.page_bytes).expect("small"));
        for (n, word) in [0xED0C_DAED, 2, page_bytes, 0].into_iter().enumerate() {
            self.put(at + 16 + 4 * n, &word.to_le_bytes());
        }
        for (n, word) in [root, 0, freelist, pages, id].into_iter().enumerate() {
            self.put(at + 32 + 8 * n, &word.to_le_bytes());
        }
        sign(&mut self.bytes[at..]);
    }

    pub(crate) fn at(&self, id: u64) -> usize {
        usize::try_from(id).expect("small") * self.page_bytes
    }

    /// A leaf of elements (flags, key, value), with the overflow pages that it needs.
    pub(crate) fn leaf(&mut self, id: u64, elements: &[(u32, &[u8], &[u8])]) {
        let image = leaf_image(elements);
        let at = self.at(id);
        self.put(at, &image);
        let overflow = u32::try_from(image.len().div_ceil(self.page_bytes) - 1).expect("small");
        self.header(id, LEAF, u16::try_from(elements.len()).expect("small"), overflow);
    }

    /// A branch of elements (key, child).
    pub(crate) fn branch(&mut self, id: u64, elements: &[(&[u8], u64)]) {
        let mut bytes = Vec::new();
        let mut position = 16 * elements.len();
        for (key, child) in elements {
            bytes.extend(u32::try_from(position).expect("small").to_le_bytes());
            bytes.extend(u32::try_from(key.len()).expect("small").to_le_bytes());
            bytes.extend(child.to_le_bytes());
            position = position + key.len() - 16;
        }
        for (key, _) in elements {
            bytes.extend_from_slice(key);
        }
        let at = self.at(id);
        self.put(at + 16, &bytes);
        self.header(id, BRANCH, u16::try_from(elements.len()).expect("small"), 0);
    }

    pub(crate) fn freelist(&mut self, id: u64, free: &[u64]) {
        let at = self.at(id);
        for (n, page) in free.iter().enumerate() {
            self.put(at + 16 + 8 * n, &page.to_le_bytes());
        }
        self.header(id, FREELIST, u16::try_from(free.len()).expect("small"), 0);
    }
}

/// The page of a leaf of elements (flags, key, value), with number 0.
pub(crate) fn leaf_image(elements: &[(u32, &[u8], &[u8])]) -> Vec<u8> {
    let mut image = vec![0; 16];
    image[8..10].copy_from_slice(&LEAF.to_le_bytes());
    image[10..12].copy_from_slice(&u16::try_from(elements.len()).expect("small").to_le_bytes());
    let mut position = 16 * elements.len();
    for (flags, key, value) in elements {
        for field in [*flags as usize, position, key.len(), value.len()] {
            image.extend(u32::try_from(field).expect("small").to_le_bytes());
        }
        position = position + key.len() + value.len() - 16;
    }
    for (_, key, value) in elements {
        image.extend_from_slice(key);
        image.extend_from_slice(value);
    }
    image
}

/// The value of a bucket: its root page, sequence 0, and an inline page if there is one.
pub(crate) fn bucket_value(root: u64, image: &[u8]) -> Vec<u8> {
    [&root.to_le_bytes()[..], &[0; 8], image].concat()
}

/// Gives a meta page the checksum of what it says.
pub(crate) fn sign(meta: &mut [u8]) {
    let sum = meta[16..72].iter().fold(0xCBF2_9CE4_8422_2325_u64, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    meta[72..80].copy_from_slice(&sum.to_le_bytes());
}
