//! Loads pages from the input, each checked against its number, its header, the limits and what was loaded before.

use crate::format::{BRANCH, Header};
use crate::page::{Page, is_data};
use crate::{Limits, ReadAt, ReadError};

/// The input, and what the meta says of its pages.
#[derive(Debug)]
pub(crate) struct Source<R> {
    pub(crate) input: R,
    pub(crate) limits: Limits,
    pub(crate) page_bytes: u32,
    /// One more than the highest page in use.
    pub(crate) pages: u64,
}

impl<R: ReadAt> Source<R> {
    /// Fills `buffer` from the page's first bytes on.
    pub(crate) fn read(&self, id: u64, buffer: &mut [u8], skip: usize) -> Result<(), ReadError> {
        let offset = id * u64::from(self.page_bytes) + skip as u64;
        self.input.read_at(buffer, offset).map_err(|source| ReadError::Io { page: id, source })
    }

    /// The header of a page of this number, of which the overflow pages are in use too.
    pub(crate) fn header(&self, id: u64, bytes: &[u8]) -> Result<Header, ReadError> {
        let header = Header::read(bytes);
        if header.id != id {
            return Err(ReadError::corrupt(id, format!("it says that it is page {}", header.id)));
        }
        if u64::from(header.overflow) >= self.pages - id {
            let what = format!("its {} overflow pages end beyond the {} in use", header.overflow, self.pages);
            return Err(ReadError::corrupt(id, what));
        }
        Ok(header)
    }

    /// Loads a branch or leaf into `page`. Its memory grows only with pages that are in use, and within the limits.
    pub(crate) fn load(&self, id: u64, page: &mut Page, claims: &mut Claims) -> Result<(), ReadError> {
        is_data(id, self.pages).map_err(|what| ReadError::corrupt(0, format!("it refers to {what}")))?;
        let page_bytes = self.page_bytes as usize;
        self.read(id, page.buffer(page_bytes), 0)?;
        let header = self.header(id, &page.header().to_bytes())?;
        let bytes = (u64::from(header.overflow) + 1) * u64::from(self.page_bytes);
        let (limit, name) = match header.flags {
            BRANCH => (self.limits.branch_bytes_max, "branch_bytes_max"),
            _ => (self.limits.leaf_bytes_max, "leaf_bytes_max"),
        };
        let length = usize::try_from(bytes).ok().filter(|_| bytes <= limit);
        let length = length.ok_or_else(|| ReadError::Limit {
            page: id,
            what: format!("its {bytes} bytes"),
            limit: name,
        })?;
        claims.claim(id, header.overflow, self.pages)?;
        if length > page_bytes {
            self.read(id, page.extend(length), page_bytes)?;
        }
        let end = page.check(id, self.pages).map_err(|what| ReadError::corrupt(id, what))?;
        // bbolt rounds up; its versions before 1.3.4 added a page if nothing was left of the last one.
        if length != end.next_multiple_of(page_bytes) && length != (end / page_bytes + 1) * page_bytes {
            let what = format!("it has {} overflow pages, and its elements end at {end}", header.overflow);
            return Err(ReadError::corrupt(id, what));
        }
        Ok(())
    }
}

/// Which pages were loaded, so that no damage makes a reader go round for ever.
#[derive(Debug)]
pub(crate) enum Claims {
    /// How many, which cannot be more than there are. For a cursor.
    Count(u64),
    /// Each of them, one bit a page. For a walk.
    Each(Vec<u64>),
}

impl Claims {
    /// No page of `pages` is claimed yet.
    pub(crate) fn each(pages: u64) -> Self {
        // A file has at most `pages_max` of them.
        Self::Each(vec![0; usize::try_from(pages / 64 + 1).expect("the limit of pages can be addressed")])
    }

    /// Claims a page and its overflow pages.
    pub(crate) fn claim(&mut self, id: u64, overflow: u32, pages: u64) -> Result<(), ReadError> {
        match self {
            Self::Count(count) => {
                *count += u64::from(overflow) + 1;
                if *count > pages {
                    let what = format!("it is reached after all {pages} pages: there is a cycle");
                    return Err(ReadError::corrupt(id, what));
                }
            }
            Self::Each(bits) => {
                for page in id..=id + u64::from(overflow) {
                    let (word, bit) = place(page);
                    if bits[word] & bit != 0 {
                        return Err(ReadError::corrupt(page, "it is used twice"));
                    }
                    bits[word] |= bit;
                }
            }
        }
        Ok(())
    }

    /// The first page below `pages` that was not claimed.
    pub(crate) fn first_free(&self, pages: u64) -> Option<u64> {
        let Self::Each(bits) = self else { return None };
        (0..pages).find(|&page| {
            let (word, bit) = place(page);
            bits[word] & bit == 0
        })
    }
}

fn place(page: u64) -> (usize, u64) {
    (usize::try_from(page / 64).expect("a page below the file's pages"), 1 << (page % 64))
}
