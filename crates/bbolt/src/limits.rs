//! What a reader accepts of a file, as values, so that a test can set small ones.

/// The limits of a reader. A file beyond one is refused with an error that names the page and the limit.
///
/// A cursor holds at most `depth_max` branches of `branch_bytes_max` and one leaf of `leaf_bytes_max`, and never more
/// than the file's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pages in use, metas included. A walk has one bit for each: 128 MiB for the default, which is a file of 4 TiB with
    /// pages of 4 KiB. Without it a sparse file that claims to have exabytes costs as many bits.
    pub pages_max: u64,
    /// Levels of pages from a bucket's root to its leaves. A branch has two children at least, so 32 levels hold more
    /// leaves than page numbers make sense; etcd's largest files have six.
    pub depth_max: usize,
    /// Levels of buckets inside of buckets. etcd has one.
    pub nesting_max: usize,
    /// Bytes of a branch with its overflow pages. bbolt splits a branch beyond one page, unless it has four children
    /// or fewer: the largest holds four keys of 32 KiB, or fills a page of 64 KiB.
    pub branch_bytes_max: u64,
    /// Bytes of a leaf with its overflow pages, which a cursor holds at once. bbolt puts up to four values into a leaf
    /// whatever their length: this takes four of 128 MiB, and an entry of etcd's log has 64 MiB at most.
    pub leaf_bytes_max: u64,
    /// Bytes of the names that [`crate::Reader::names`] returns at once; a cursor lists any number.
    pub names_bytes_max: usize,
}

impl Limits {
    /// The limits that a server uses.
    pub const DEFAULT: Self = Self {
        pages_max: 1 << 30,
        depth_max: 32,
        nesting_max: 64,
        branch_bytes_max: 256 << 10,
        leaf_bytes_max: 513 << 20,
        names_bytes_max: 1 << 20,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
