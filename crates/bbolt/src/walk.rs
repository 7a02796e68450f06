//! All of a file, once, with every check that the format allows: what bbolt's `Tx.Check` does, and the entries with it.

use crate::cursor::{Steps, Value};
use crate::format::{FREELIST, HEADER_BYTES, LONG_FREELIST, NO_FREELIST, u64_at};
use crate::reader::NO_BUCKET;
use crate::source::Claims;
use crate::{Bucket, ReadAt, ReadError, Reader};

/// Bytes of the freelist that are read at once.
const FREELIST_READ_BYTES: usize = 64 << 10;

/// What a walk meets: a bucket, before what is in it, or an entry with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// The names of the buckets that it is in, the outermost first.
    pub path: &'a [Vec<u8>],
    /// The key of the entry, or the bucket's name.
    pub key: &'a [u8],
    /// Its bytes, unless it is a bucket.
    pub value: Value<'a>,
    /// The sequence of a bucket; 0 for an entry.
    pub sequence: u64,
}

/// Called with each item; an error ends the walk.
pub type Visit<'a, E> = dyn FnMut(Item<'_>) -> Result<(), E> + 'a;

/// What a walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Buckets at all levels.
    pub buckets: u64,
    /// Entries with bytes, in all buckets.
    pub entries: u64,
    /// Pages in the freelist; 0 if the file has none.
    pub free_pages: u64,
}

impl<R: ReadAt> Reader<R> {
    /// Passes everything in the file to `visit`, in order: a bucket, what is in it, the next bucket.
    ///
    /// Damage may be found after much was visited: keep nothing of it before this returns without an error. Beyond what a
    /// cursor checks, no page is used twice and, if the file has a freelist, every page is either used or free. Memory is
    /// that of a cursor for each level of buckets, and one bit for each page.
    pub fn walk<E: From<ReadError>>(&self, visit: &mut Visit<'_, E>) -> Result<Summary, E> {
        let mut walk = Walk {
            reader: self,
            claims: Claims::each(self.source.pages),
            path: Vec::new(),
            summary: Summary::default(),
        };
        walk.claims.claim(0, 1, self.source.pages)?;
        walk.bucket(&self.root(), visit)?;
        walk.freelist()?;
        Ok(walk.summary)
    }

    /// Walks the file for its checks alone.
    pub fn check(&self) -> Result<Summary, ReadError> {
        self.walk(&mut |_| Ok(()))
    }
}

struct Walk<'r, R> {
    reader: &'r Reader<R>,
    claims: Claims,
    path: Vec<Vec<u8>>,
    summary: Summary,
}

impl<R: ReadAt> Walk<'_, R> {
    /// Calls itself for the buckets inside, at most `nesting_max` times.
    fn bucket<E: From<ReadError>>(
        &mut self,
        bucket: &Bucket<'_, R>,
        visit: &mut Visit<'_, E>,
    ) -> Result<(), E> {
        let mut steps = Steps::new(bucket.root.clone());
        while steps.next(&self.reader.source, &mut self.claims)? {
            let (entry, path) = (steps.entry(), &self.path[..]);
            let (page, raw) = steps.raw();
            if entry.value == Value::Bucket {
                let inner = bucket.inner(page, raw)?;
                visit(Item { path, key: entry.key, value: entry.value, sequence: inner.sequence() })?;
                self.summary.buckets += 1;
                self.path.push(entry.key.to_vec());
                self.bucket(&inner, visit)?;
                self.path.pop();
            } else if bucket.level == 0 {
                return Err(ReadError::corrupt(page, NO_BUCKET).into());
            } else {
                self.summary.entries += 1;
                visit(Item { path, key: entry.key, value: entry.value, sequence: 0 })?;
            }
        }
        Ok(())
    }

    /// Claims the free pages, and what is left then is damage.
    fn freelist(&mut self) -> Result<(), ReadError> {
        let (source, id) = (&self.reader.source, self.reader.meta.freelist);
        if id == NO_FREELIST {
            return Ok(());
        }
        let corrupt = |what: String| ReadError::corrupt(id, what);
        let mut head = [0; HEADER_BYTES + 8];
        source.read(id, &mut head, 0)?;
        let header = source.header(id, &head)?;
        if header.flags != FREELIST {
            return Err(corrupt(format!("its flags are {:#x}, and it should be a freelist", header.flags)));
        }
        self.claims.claim(id, header.overflow, source.pages)?;
        let is_long = header.count == LONG_FREELIST;
        let count = if is_long { u64_at(&head, HEADER_BYTES) } else { header.count.into() };
        let mut at = HEADER_BYTES + if is_long { 8 } else { 0 };
        let bytes = (u64::from(header.overflow) + 1) * u64::from(source.page_bytes);
        if count > (bytes - at as u64) / 8 {
            return Err(corrupt(format!("its {count} numbers take more than its {bytes} bytes")));
        }
        let mut left = count;
        let mut buffer = Vec::new();
        while left > 0 {
            let now = left.min(FREELIST_READ_BYTES as u64 / 8);
            buffer.resize(usize::try_from(now).expect("at most a buffer") * 8, 0);
            source.read(id, &mut buffer, at)?;
            for number in buffer.chunks_exact(8) {
                let page = u64_at(number, 0);
                if !(2..source.pages).contains(&page) {
                    return Err(corrupt(format!("page {page} is in it, which is no page in use")));
                }
                self.claims.claim(page, 0, source.pages)?;
            }
            at += buffer.len();
            left -= now;
        }
        self.summary.free_pages = count;
        match self.claims.first_free(source.pages) {
            Some(page) => Err(ReadError::corrupt(page, "it is neither used nor free")),
            None => Ok(()),
        }
    }
}
