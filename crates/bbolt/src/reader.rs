//! Opens a file by its metas, and buckets by their names.

use crate::cursor::{Cursor, Root, Steps, Value};
use crate::format::{BUCKET_BYTES, META_BYTES, Meta, NO_FREELIST, PAGE_BYTES_MAX, PAGE_BYTES_MIN, u64_at};
use crate::page::is_data;
use crate::source::{Claims, Source};
use crate::{Limits, ReadAt, ReadError};

/// An open file. It can be read by several cursors at once.
#[derive(Debug)]
pub struct Reader<R> {
    pub(crate) source: Source<R>,
    pub(crate) meta: Meta,
    damaged: Option<ReadError>,
}

impl<R: ReadAt> Reader<R> {
    /// Opens a file by the valid meta page with the higher transaction. What follows the last page in use is not read:
    /// bbolt's own files are longer than their pages, and a client's snapshot ends with a SHA-256.
    pub fn open(input: R, limits: Limits) -> Result<Self, ReadError> {
        let size = input.size().map_err(|source| ReadError::Io { page: 0, source })?;
        let (meta, damaged) = choose(&input, size)?;
        let Meta { page_bytes, root, freelist, pages, .. } = meta;
        let refers = |what: &str, id| {
            is_data(id, pages).map_err(|id| ReadError::corrupt(0, format!("the {what} is {id}")))
        };
        refers("root", root)?;
        if freelist != NO_FREELIST {
            refers("freelist", freelist)?;
        }
        if size / u64::from(page_bytes) < pages {
            let what = format!("the file has {size} bytes, and {pages} pages of {page_bytes} are in use");
            return Err(ReadError::corrupt(size / u64::from(page_bytes), what));
        }
        if pages > limits.pages_max {
            let what = format!("{pages} pages in use");
            return Err(ReadError::Limit { page: 0, what, limit: "pages_max" });
        }
        Ok(Self { source: Source { input, limits, page_bytes, pages }, meta, damaged })
    }

    /// The size of a page, in bytes.
    pub fn page_bytes(&self) -> u32 {
        self.meta.page_bytes
    }

    /// The pages in use, metas included: one more than the highest page number.
    pub fn pages(&self) -> u64 {
        self.meta.pages
    }

    /// The number of the transaction that wrote the file last.
    pub fn transaction(&self) -> u64 {
        self.meta.transaction
    }

    /// What is wrong with one of the two meta pages, if the other one is valid. If the damaged one was the newer, the
    /// file is read as it was one transaction before.
    pub fn damaged_meta(&self) -> Option<&ReadError> {
        self.damaged.as_ref()
    }

    /// The bucket that holds the top-level buckets.
    pub fn root(&self) -> Bucket<'_, R> {
        let root = Root::Page(self.meta.root);
        Bucket { source: &self.source, root, sequence: self.meta.sequence, level: 0 }
    }

    /// A top-level bucket; `None` if there is none of this name.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'_, R>>, ReadError> {
        self.root().bucket(name)
    }

    /// The names of the top-level buckets, in order. A key that is no bucket is refused: bbolt has none there.
    pub fn names(&self) -> Result<Vec<Vec<u8>>, ReadError> {
        let (mut names, mut bytes) = (Vec::new(), 0);
        let mut steps = Steps::new(Root::Page(self.meta.root));
        let mut claims = Claims::Count(0);
        while steps.next(&self.source, &mut claims)? {
            let (page, entry) = (steps.raw().0, steps.entry());
            if entry.value != Value::Bucket {
                return Err(ReadError::corrupt(page, NO_BUCKET));
            }
            bytes += entry.key.len();
            if bytes > self.source.limits.names_bytes_max {
                let what = format!("{bytes} bytes of names");
                return Err(ReadError::Limit { page, what, limit: "names_bytes_max" });
            }
            names.push(entry.key.to_vec());
        }
        Ok(names)
    }
}

/// What is wrong with a top-level key that is none.
pub(crate) const NO_BUCKET: &str = "it has a top-level key that is no bucket";

/// The meta that counts, and what is wrong with the other.
fn choose<R: ReadAt>(input: &R, size: u64) -> Result<(Meta, Option<ReadError>), ReadError> {
    let first = read_meta(input, size, 0, 0)?;
    let second = if let Ok(meta) = &first {
        read_meta(input, size, 1, meta.page_bytes)?
    } else {
        find_second(input, size)?
    };
    match (first, second) {
        (Ok(first), Ok(second)) => {
            Ok((if second.transaction > first.transaction { second } else { first }, None))
        }
        (Ok(first), Err(what)) => Ok((first, Some(ReadError::corrupt(1, what)))),
        (Err(what), Ok(second)) => Ok((second, Some(ReadError::corrupt(0, what)))),
        (Err(first), Err(second)) => Err(ReadError::NoMeta { first, second }),
    }
}

/// Reads meta page 1 of a file whose meta page 0 does not tell where it is: it stands where its own page size says. If
/// none does, this tells what is wrong at the smallest page size.
fn find_second<R: ReadAt>(input: &R, size: u64) -> Result<Result<Meta, String>, ReadError> {
    let mut second = read_meta(input, size, 1, PAGE_BYTES_MIN)?;
    for bits in PAGE_BYTES_MIN.ilog2() + 1..=PAGE_BYTES_MAX.ilog2() {
        if second.is_err() {
            second = read_meta(input, size, 1, 1 << bits)?.or(second);
        }
    }
    Ok(second)
}

/// Reads meta page `id` at this offset, which is the page size for page 1.
fn read_meta<R: ReadAt>(
    input: &R,
    size: u64,
    id: u64,
    offset: u32,
) -> Result<Result<Meta, String>, ReadError> {
    if size < u64::from(offset) + META_BYTES as u64 {
        return Ok(Err(format!("the file has {size} bytes")));
    }
    let mut bytes = [0; META_BYTES];
    input.read_at(&mut bytes, offset.into()).map_err(|source| ReadError::Io { page: id, source })?;
    let meta = Meta::read(&bytes, id);
    Ok(match meta {
        Ok(meta) if id == 1 && meta.page_bytes != offset => {
            Err(format!("it stands at {offset}, and its page size is {} bytes", meta.page_bytes))
        }
        meta => meta,
    })
}

/// A bucket: entries and further buckets by their keys.
#[derive(Debug)]
pub struct Bucket<'r, R> {
    pub(crate) source: &'r Source<R>,
    pub(crate) root: Root,
    sequence: u64,
    /// How many buckets it is inside of, the root included.
    pub(crate) level: usize,
}

impl<'r, R: ReadAt> Bucket<'r, R> {
    /// The number that bbolt's `NextSequence` returned last; 0 before.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// A cursor before the first entry.
    pub fn cursor(&self) -> Cursor<'r, R> {
        Cursor::new(self.source, self.root.clone())
    }

    /// The bucket of this name, directly in this one; `None` also if the key has bytes. A forged file can have a bucket
    /// that is inside of itself: only [`Reader::walk`] sees that, and `nesting_max` ends it here.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Self>, ReadError> {
        let mut steps = Steps::new(self.root.clone());
        let found = steps.seek(name, self.source, &mut Claims::Count(0))?;
        if !found || steps.entry().key != name || steps.entry().value != Value::Bucket {
            return Ok(None);
        }
        let (page, value) = steps.raw();
        self.inner(page, value).map(Some)
    }

    /// The bucket that an entry of this one refers to by its value, in this page. The page's checks cover the value.
    pub(crate) fn inner(&self, page: u64, value: &[u8]) -> Result<Self, ReadError> {
        let nesting_max = self.source.limits.nesting_max;
        if self.level >= nesting_max {
            let what = format!("more than {nesting_max} levels of buckets");
            return Err(ReadError::Limit { page, what, limit: "nesting_max" });
        }
        let root = match u64_at(value, 0) {
            0 => Root::Inline(page, value[BUCKET_BYTES..].to_vec()),
            id => Root::Page(id),
        };
        Ok(Self { source: self.source, root, sequence: u64_at(value, 8), level: self.level + 1 })
    }
}
