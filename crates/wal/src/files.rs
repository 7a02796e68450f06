//! Segment files: their names and their creation.

use crate::disk::{Disk, DiskFile};
use crate::error::WalError;
use crate::options::Options;
use types::Index;

/// The name of a segment in preparation, as in etcd; never read as a segment.
const PREPARED: &str = "0.tmp";

#[derive(Clone, Debug)]
pub(crate) struct SegmentName {
    pub(crate) seq: u64,
    pub(crate) index: Index,
    pub(crate) name: String,
}

impl SegmentName {
    pub(crate) fn new(seq: u64, index: Index) -> Self {
        Self { seq, index, name: format!("{seq:016x}-{index:016x}.wal") }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (seq, index) = name.strip_suffix(".wal")?.split_once('-')?;
        let hex = |digits: &str| (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten();
        Some(Self { seq: hex(seq)?, index: hex(index)?, name: name.to_owned() })
    }
}

pub(crate) struct Segment<F> {
    pub(crate) seq: u64,
    pub(crate) name: String,
    pub(crate) file: F,
}

/// Creates a segment under a temporary name and renames it once it is durable.
pub(crate) fn publish<D: Disk>(
    disk: &D,
    name: SegmentName,
    head: &[u8],
    options: Options,
) -> Result<Segment<D::File>, WalError> {
    let mut file =
        disk.create(PREPARED, options.segment_bytes).map_err(|e| WalError::io("create", PREPARED, e))?;
    let written = file.write_at(head, 0);
    written
        .and_then(|()| file.zero_ahead(head.len() as u64, options.zero_ahead_bytes))
        .map_err(|e| WalError::io("write", PREPARED, e))?;
    file.sync().map_err(|e| WalError::io("sync", PREPARED, e))?;
    disk.rename(PREPARED, &name.name).map_err(|e| WalError::io("rename", PREPARED, e))?;
    disk.sync_dir().map_err(|e| WalError::io("sync", "the directory", e))?;
    Ok(Segment { seq: name.seq, name: name.name, file })
}
