//! The layout of a file: numbers are little-endian, page n begins at n times the page size.

/// Bytes of a page's header: id u64, flags u16, count u16, overflow u32.
pub(crate) const HEADER_BYTES: usize = 16;
/// Bytes of an element. Leaf: flags, position, key and value bytes, all u32. Branch: position, key bytes, child u64.
pub(crate) const ELEMENT_BYTES: usize = 16;
/// Bytes of a bucket's value before an inline page: root page u64, sequence u64.
pub(crate) const BUCKET_BYTES: usize = 16;
/// Bytes from the beginning of a meta page to the end of its checksum.
pub(crate) const META_BYTES: usize = 80;

pub(crate) const BRANCH: u16 = 0x01;
pub(crate) const LEAF: u16 = 0x02;
pub(crate) const META: u16 = 0x04;
pub(crate) const FREELIST: u16 = 0x10;

/// The flag of a leaf's element whose value is a bucket.
pub(crate) const IS_BUCKET: u32 = 0x01;
/// The page number that stands for "no freelist", as etcd has it.
pub(crate) const NO_FREELIST: u64 = u64::MAX;
/// The count of a freelist whose true count is its first number.
pub(crate) const LONG_FREELIST: u16 = u16::MAX;

/// The smallest page, in bytes, that bbolt looks for.
pub const PAGE_BYTES_MIN: u32 = 1 << 10;
/// The largest page, in bytes: the largest of any operating system's, which is where bbolt takes it from.
pub const PAGE_BYTES_MAX: u32 = 64 << 10;
/// The longest key and the longest name of a bucket, in bytes: bbolt's `MaxKeySize`.
pub const KEY_BYTES_MAX: usize = 32768;
/// The longest value, in bytes: bbolt's `MaxValueSize`.
pub const VALUE_BYTES_MAX: u64 = (1 << 31) - 2;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// The offsets in a meta page; the root's sequence is at 40, flags that bbolt does not use at 28.
const MAGIC_AT: usize = 16;
const VERSION_AT: usize = 20;
const PAGE_BYTES_AT: usize = 24;
const ROOT_AT: usize = 32;
const SEQUENCE_AT: usize = 40;
const FREELIST_AT: usize = 48;
const PAGES_AT: usize = 56;
const TRANSACTION_AT: usize = 64;
const CHECKSUM_AT: usize = 72;

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The first bytes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u64,
    pub(crate) flags: u16,
    pub(crate) count: u16,
    /// Pages that follow and have no header of their own.
    pub(crate) overflow: u32,
}

impl Header {
    /// Reads at least [`HEADER_BYTES`] bytes.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        Self {
            id: u64_at(bytes, 0),
            flags: u16_at(bytes, 8),
            count: u16_at(bytes, 10),
            overflow: u32_at(bytes, 12),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }
}

/// What a meta page says of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_bytes: u32,
    /// The root page of the bucket that holds the top-level buckets, and its sequence.
    pub(crate) root: u64,
    pub(crate) sequence: u64,
    pub(crate) freelist: u64,
    /// One more than the highest page in use: bbolt's high-water mark.
    pub(crate) pages: u64,
    pub(crate) transaction: u64,
}

impl Meta {
    /// Reads the first [`META_BYTES`] of page `id`, which is 0 or 1.
    pub(crate) fn read(bytes: &[u8], id: u64) -> Result<Self, String> {
        let header = Header::read(bytes);
        if header.id != id || header.flags != META {
            return Err(format!("its header says page {}, flags {:#x}", header.id, header.flags));
        }
        if u32_at(bytes, MAGIC_AT) != MAGIC {
            return Err("it lacks the magic number of bbolt".to_owned());
        }
        if u64_at(bytes, CHECKSUM_AT) != fnv(&bytes[MAGIC_AT..CHECKSUM_AT]) {
            return Err("its checksum is wrong".to_owned());
        }
        let (version, page_bytes) = (u32_at(bytes, VERSION_AT), u32_at(bytes, PAGE_BYTES_AT));
        if version != VERSION {
            return Err(format!("it has version {version}, and only {VERSION} is known"));
        }
        if !is_page_size(page_bytes) {
            return Err(format!("its page size is {page_bytes} bytes"));
        }
        Ok(Self {
            page_bytes,
            root: u64_at(bytes, ROOT_AT),
            sequence: u64_at(bytes, SEQUENCE_AT),
            freelist: u64_at(bytes, FREELIST_AT),
            pages: u64_at(bytes, PAGES_AT),
            transaction: u64_at(bytes, TRANSACTION_AT),
        })
    }

    /// The bytes of meta page `id`, without the zeros that fill the page.
    pub(crate) fn to_bytes(self, id: u64) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[..HEADER_BYTES].copy_from_slice(&Header { id, flags: META, count: 0, overflow: 0 }.to_bytes());
        bytes[MAGIC_AT..VERSION_AT].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[VERSION_AT..PAGE_BYTES_AT].copy_from_slice(&VERSION.to_le_bytes());
        bytes[PAGE_BYTES_AT..PAGE_BYTES_AT + 4].copy_from_slice(&self.page_bytes.to_le_bytes());
        bytes[ROOT_AT..SEQUENCE_AT].copy_from_slice(&self.root.to_le_bytes());
        bytes[SEQUENCE_AT..FREELIST_AT].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[FREELIST_AT..PAGES_AT].copy_from_slice(&self.freelist.to_le_bytes());
        bytes[PAGES_AT..TRANSACTION_AT].copy_from_slice(&self.pages.to_le_bytes());
        bytes[TRANSACTION_AT..CHECKSUM_AT].copy_from_slice(&self.transaction.to_le_bytes());
        let sum = fnv(&bytes[MAGIC_AT..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}

/// Whether pages may have this many bytes.
pub(crate) fn is_page_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&bytes)
}

/// FNV-1a with 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_fnv_1a() {
        assert_eq!(fnv(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_F739_67E8);
    }

    #[test]
    fn a_meta_page_is_read_as_it_was_written_and_every_changed_bit_is_seen() {
        let meta =
            Meta { page_bytes: 4096, root: 3, sequence: 9, freelist: NO_FREELIST, pages: 4, transaction: 7 };
        let bytes = meta.to_bytes(1);
        assert_eq!(Meta::read(&bytes, 1), Ok(meta));
        assert!(Meta::read(&bytes, 0).is_err());
        // The header's count and overflow have no meaning in a meta page.
        let meaningful = (0..10).chain(16..META_BYTES);
        for at in meaningful {
            for bit in 0..8 {
                let mut bytes = bytes;
                bytes[at] ^= 1 << bit;
                assert!(Meta::read(&bytes, 1).is_err(), "byte {at}, bit {bit}");
            }
        }
    }
}
