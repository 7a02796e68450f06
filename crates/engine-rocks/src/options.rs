//! RocksDB's tuning: every knob in one place, each with its reason.

use engine::Family;
use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, Options as Rocks};

/// Limits of the database; the defaults are a server's. Small ones let tests reach flushes and compactions.
#[derive(Clone, Debug)]
pub struct Options {
    /// Block cache, bytes. Default 24 MiB: scans bypass it, hot rows stay.
    pub block_cache_bytes: usize,
    /// Memory for rows not yet in files, all families, bytes; at least 64 KiB each, flushed at half. Default 32 MiB.
    pub memtable_bytes: usize,
    /// Threads for flushes and compactions. Default 2.
    pub background_jobs: i32,
    /// Target size of a table file, bytes. Default 16 MiB: keeps one compaction step short on two cores.
    pub file_bytes: u64,
    /// Block size, bytes. Default 8 KiB: above RocksDB's 4 KiB for sequential scans; a get decompresses one block.
    pub block_bytes: usize,
    /// Tables kept open, at least 20; files being written come on top. Default 512: 8 GiB of data without reopening.
    pub open_tables_max: i32,
    /// Bytes of a file after which its write-back starts, so that the final sync is short. Default 1 MiB.
    pub write_out_bytes: u64,
    /// RocksDB's own informational log, bytes a file; two files are kept. Default 1 MiB.
    pub log_file_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            block_cache_bytes: 24 << 20,
            memtable_bytes: 32 << 20,
            background_jobs: 2,
            file_bytes: 16 << 20,
            block_bytes: 8 << 10,
            open_tables_max: 512,
            write_out_bytes: 1 << 20,
            log_file_bytes: 1 << 20,
        }
    }
}

/// Bits per key in Bloom filters: 1 % false positives.
const BLOOM_BITS: f64 = 10.0;

pub(crate) fn database(settings: &Options) -> Result<Rocks, rocksdb::Error> {
    // A background error must stop the member instead of being retried. Only the string form can set this.
    let mut options = Rocks::default().get_options_from_string("max_bgerror_resume_count=0")?;
    options.set_atomic_flush(true);
    options.set_db_write_buffer_size(settings.memtable_bytes);
    options.set_max_background_jobs(settings.background_jobs);
    // RocksDB reserves ten of these.
    options.set_max_open_files(settings.open_tables_max);
    options.set_bytes_per_sync(settings.write_out_bytes);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(settings.log_file_bytes);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_paranoid_checks(true);
    // There is one writer thread: support for concurrent inserts would only cost.
    options.set_allow_concurrent_memtable_write(false);
    Ok(options)
}

pub(crate) fn family(family: Family, settings: &Options, cache: &Cache) -> Rocks {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(settings.block_bytes);
    table.set_format_version(6);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if family != Family::Meta {
        table.set_bloom_filter(BLOOM_BITS, false);
    }
    let mut options = Rocks::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(settings.memtable_bytes / 2);
    options.set_target_file_size_base(settings.file_bytes);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}
