//! The lower limit of the latency of a durable write: an append and fdatasync on this file system.

use std::{
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use serde::Serialize;

/// The size of a log segment, as servers preallocate it.
const FILE_BYTES: u64 = 64_000_000;

/// Sizes of appends, from one put of 256 B to a small batch.
const SIZES: [usize; 4] = [512, 1024, 2048, 4096];

const EACH: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sync {
    pub(crate) append_bytes: usize,
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Measures each size in a new file in `folder`.
pub(crate) fn measure(folder: &Path) -> anyhow::Result<Vec<Sync>> {
    let file =
        tempfile::tempfile_in(folder).with_context(|| format!("cannot write in {}", folder.display()))?;
    let zeros = vec![0; 1 << 20];
    fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES).context("cannot preallocate 64 MB")?;
    // Write it once, so that no sync has to convert unwritten extents.
    for offset in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_all()?;
    SIZES.iter().map(|size| one(&file, *size)).collect()
}

fn one(file: &std::fs::File, size: usize) -> anyhow::Result<Sync> {
    let bytes = vec![b'x'; size];
    let mut times = Vec::new();
    let begun = Instant::now();
    let mut offset = 0;
    while begun.elapsed() < EACH {
        let start = Instant::now();
        file.write_all_at(&bytes, offset)?;
        fdatasync(file)?;
        times.push(start.elapsed());
        offset = (offset + size as u64) % (FILE_BYTES - 4096);
    }
    let total = begun.elapsed();
    times.sort_unstable();
    let micros = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64() * 1e6;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let rate = times.len() as f64 / total.as_secs_f64();
    Ok(Sync { append_bytes: size, rate, p50_us: micros(50), p99_us: micros(99) })
}
