//! Errors of reading and of writing. Each names what was found, and where.

use std::io;

/// Why a file, or a part of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The input returned an error.
    #[error("bbolt: cannot read page {page}: {source}")]
    Io {
        /// The page that was to be read.
        page: u64,
        /// The input's own error.
        #[source]
        source: io::Error,
    },
    /// Neither of the two meta pages is valid: this is no bbolt file, or one that is damaged there.
    #[error("bbolt: no valid meta page (page 0: {first}; page 1: {second})")]
    NoMeta {
        /// What is wrong with page 0.
        first: String,
        /// What is wrong with page 1.
        second: String,
    },
    /// A page cannot be as bbolt wrote it.
    #[error("bbolt: page {page} is corrupt: {what}")]
    Corrupt {
        /// The page; for an inline bucket, the page that it lies in.
        page: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The file may be valid, but is beyond a field of [`crate::Limits`].
    #[error("bbolt: page {page}: {what} exceed {limit}")]
    Limit {
        /// The page that exceeds the limit.
        page: u64,
        /// The size that was met.
        what: String,
        /// The name of the limit.
        limit: &'static str,
    },
    /// The cursor returned an error before, so its position is not known.
    #[error("bbolt: the cursor stopped at an earlier error")]
    Failed,
}

impl ReadError {
    pub(crate) fn corrupt(page: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { page, what: what.into() }
    }
}

/// Why a file cannot be measured or written. The file is then incomplete.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The output returned an error.
    #[error("bbolt: cannot write: {0}")]
    Io(#[from] io::Error),
    /// The page size is none that bbolt can open.
    #[error("bbolt: pages of {0} bytes: not a power of two from 1,024 to 65,536")]
    PageBytes(u32),
    /// The fill is outside of bbolt's range.
    #[error("bbolt: a fill of {0} %: not from 10 to 100")]
    FillPercent(u8),
    /// An entry before the first bucket.
    #[error("bbolt: an entry without a bucket")]
    NoBucket,
    /// A bucket's name, or a key, of no or too many bytes.
    #[error("bbolt: a key of {0} bytes: not from 1 to 32,768")]
    KeyBytes(usize),
    /// A value of too many bytes.
    #[error("bbolt: a value of {0} bytes: more than 2,147,483,646")]
    ValueBytes(u64),
    /// A bucket's name, or a key, that is not above the one before it.
    #[error("bbolt: {0} is out of order")]
    Order(String),
    /// What is written is not what was measured.
    #[error("bbolt: the entries differ from the measured ones: {0}")]
    Differs(String),
    /// An earlier call returned an error.
    #[error("bbolt: stopped at an earlier error")]
    Failed,
}
