//! A branch or a leaf: its elements, and every check that its own bytes allow.

use crate::format::{
    BRANCH, BUCKET_BYTES, ELEMENT_BYTES, HEADER_BYTES, Header, IS_BUCKET, KEY_BYTES_MAX, LEAF,
    VALUE_BYTES_MAX, u32_at, u64_at,
};

/// Buffers up to this size, in bytes, are kept for the next page; larger ones only if it is large too.
const KEPT_BYTES: usize = 128 << 10;

/// A checked page with its overflow pages, or the image of a leaf that an inline bucket is.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Its number; for an inline bucket, the page that it lies in.
    pub(crate) id: u64,
    pub(crate) is_leaf: bool,
    /// The number of elements.
    pub(crate) count: usize,
    bytes: Vec<u8>,
}

impl Page {
    /// The page's buffer with `length` bytes, to be filled before [`Page::check`].
    pub(crate) fn buffer(&mut self, length: usize) -> &mut [u8] {
        if self.bytes.capacity() > KEPT_BYTES.max(length) {
            self.bytes = Vec::new();
        }
        self.bytes.resize(length, 0);
        &mut self.bytes
    }

    /// Makes the buffer longer by zeros, and returns these.
    pub(crate) fn extend(&mut self, length: usize) -> &mut [u8] {
        let from = self.bytes.len();
        self.bytes.reserve_exact(length - from);
        self.bytes.resize(length, 0);
        &mut self.bytes[from..]
    }

    pub(crate) fn header(&self) -> Header {
        Header::read(&self.bytes)
    }

    /// Checks the elements of a file of `pages` pages; returns the bytes that they take with the header.
    pub(crate) fn check(&mut self, id: u64, pages: u64) -> Result<usize, String> {
        let header = self.header();
        self.id = id;
        self.is_leaf = header.flags == LEAF;
        self.count = header.count.into();
        check(&self.bytes, header, pages)
    }

    /// Takes over an inline bucket's page, the bytes after its root and sequence.
    pub(crate) fn inline(id: u64, image: &[u8]) -> Self {
        let count = Header::read(image).count.into();
        Self { id, is_leaf: true, count, bytes: image.to_vec() }
    }

    /// The key of an element, below `count`.
    pub(crate) fn key(&self, n: usize) -> &[u8] {
        let (start, key_bytes, _) = extent(&self.bytes, self.is_leaf, n);
        &self.bytes[start..start + key_bytes]
    }

    /// The value of a leaf's element.
    pub(crate) fn value(&self, n: usize) -> &[u8] {
        let (start, key_bytes, value_bytes) = extent(&self.bytes, true, n);
        &self.bytes[start + key_bytes..][..value_bytes]
    }

    /// Whether the value of a leaf's element is a bucket.
    pub(crate) fn is_bucket(&self, n: usize) -> bool {
        u32_at(&self.bytes, HEADER_BYTES + n * ELEMENT_BYTES) == IS_BUCKET
    }

    /// The page that a branch's element refers to.
    pub(crate) fn child(&self, n: usize) -> u64 {
        u64_at(&self.bytes, HEADER_BYTES + n * ELEMENT_BYTES + 8)
    }

    /// How many of the first elements have keys that `is_before` holds for, as `slice::partition_point`.
    pub(crate) fn partition(&self, is_before: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if is_before(self.key(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Where the key of an element begins, and the bytes of key and value.
fn extent(bytes: &[u8], is_leaf: bool, n: usize) -> (usize, usize, usize) {
    let at = HEADER_BYTES + n * ELEMENT_BYTES;
    let field = |n: usize| u32_at(bytes, at + 4 * n) as usize;
    if is_leaf {
        (at.saturating_add(field(1)), field(2), field(3))
    } else {
        (at.saturating_add(field(0)), field(1), 0)
    }
}

/// Checks what [`Page::check`] says. bbolt writes keys and values one after the other behind the elements: a position
/// that is not the end of the element before it is damage.
fn check(bytes: &[u8], header: Header, pages: u64) -> Result<usize, String> {
    let is_leaf = match header.flags {
        LEAF => true,
        BRANCH => false,
        flags => return Err(format!("its flags are {flags:#x}, and neither a branch nor a leaf has these")),
    };
    let count = usize::from(header.count);
    let mut end = HEADER_BYTES + count * ELEMENT_BYTES;
    if end > bytes.len() {
        return Err(format!("its {count} elements take more than its {} bytes", bytes.len()));
    }
    // Without elements nothing has a position that would be wrong. bbolt writes into zeroed pages.
    if count == 0 && bytes[end..].iter().take(ELEMENT_BYTES).any(|byte| *byte != 0) {
        return Err("it says that it is empty, and has an element".to_owned());
    }
    let mut previous: &[u8] = &[];
    for n in 0..count {
        let (start, key_bytes, value_bytes) = extent(bytes, is_leaf, n);
        if start != end {
            return Err(format!("element {n} has its key at {start}, and its place is {end}"));
        }
        if key_bytes == 0 || key_bytes > KEY_BYTES_MAX || value_bytes as u64 > VALUE_BYTES_MAX {
            return Err(format!("element {n} has a key of {key_bytes} bytes and a value of {value_bytes}"));
        }
        end = start.saturating_add(key_bytes).saturating_add(value_bytes);
        if end > bytes.len() {
            return Err(format!("element {n} ends at {end}, and the page has {} bytes", bytes.len()));
        }
        let key = &bytes[start..start + key_bytes];
        if key <= previous {
            return Err(format!("the key of element {n} is not above the one before it"));
        }
        previous = key;
        let at = HEADER_BYTES + n * ELEMENT_BYTES;
        if is_leaf {
            check_value(u32_at(bytes, at), &bytes[start + key_bytes..end], pages)
                .map_err(|what| format!("element {n} {what}"))?;
        } else {
            is_data(u64_at(bytes, at + 8), pages).map_err(|what| format!("element {n} refers to {what}"))?;
        }
    }
    Ok(end)
}

/// Checks that a page number is one of branches and leaves: neither a meta nor beyond the pages in use.
pub(crate) fn is_data(id: u64, pages: u64) -> Result<(), String> {
    if (2..pages).contains(&id) { Ok(()) } else { Err(format!("page {id}, outside of 2 to {pages}")) }
}

fn check_value(flags: u32, value: &[u8], pages: u64) -> Result<(), String> {
    match flags {
        0 => Ok(()),
        IS_BUCKET if value.len() < BUCKET_BYTES => {
            Err(format!("is a bucket, and its value has {} bytes", value.len()))
        }
        IS_BUCKET if u64_at(value, 0) == 0 => check_inline(&value[BUCKET_BYTES..]),
        IS_BUCKET if value.len() != BUCKET_BYTES => {
            Err(format!("is a bucket with pages, and its value has {} bytes", value.len()))
        }
        IS_BUCKET => {
            is_data(u64_at(value, 0), pages).map_err(|what| format!("is a bucket whose root is {what}"))
        }
        flags => Err(format!("has flags {flags:#x}")),
    }
}

/// Checks an inline bucket: a leaf that fills the rest of the value, with no buckets inside.
fn check_inline(image: &[u8]) -> Result<(), String> {
    if image.len() < HEADER_BYTES {
        return Err(format!("is an inline bucket, and its page has {} bytes", image.len()));
    }
    let header = Header::read(image);
    if header.id != 0 || header.flags != LEAF || header.overflow != 0 {
        return Err("is an inline bucket, and what it holds is no leaf".to_owned());
    }
    // Before the elements are checked, so that this does not call itself again for each level of a forged value.
    let count = usize::from(header.count);
    let flags =
        image[HEADER_BYTES..].chunks_exact(ELEMENT_BYTES).take(count).map(|element| u32_at(element, 0));
    if flags.into_iter().any(|flags| flags != 0) {
        return Err("is an inline bucket with a bucket inside".to_owned());
    }
    let end = check(image, header, 0).map_err(|what| format!("is an inline bucket: {what}"))?;
    if end == image.len() {
        Ok(())
    } else {
        Err(format!("is an inline bucket of {} bytes, and its elements end at {end}", image.len()))
    }
}
