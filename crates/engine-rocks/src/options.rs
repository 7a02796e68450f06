//! Tuning: one place for every RocksDB knob, each with its reason.

use engine::Family;
use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, Options as Rocks};

/// The limits of the database, with what a server uses as their default. Small ones let a test reach flushes,
/// compactions and files by the dozen with a few rows.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for blocks read from disk, bytes. Default 24 MiB: lists stream past it, hot rows stay.
    pub block_cache_bytes: usize,
    /// Memory for rows not yet in files, all families together, bytes; one family is flushed at half of it. Default
    /// 32 MiB. RocksDB takes no less than 64 KiB a family.
    pub memtable_bytes: usize,
    /// Threads for flushes and compactions. Default 2.
    pub background_jobs: i32,
    /// A file of rows, bytes: where it ends and the next begins. Default 16 MiB: small enough that a compaction step is
    /// short on two cores.
    pub file_bytes: u64,
    /// A block, bytes. Default 8 KiB: lists read in sequence, so larger than RocksDB's 4 KiB; gets decompress one.
    pub block_bytes: usize,
    /// Tables kept open, each a file descriptor. Default 512: 8 GiB of data without opening one again. RocksDB takes at
    /// least 20; what it writes comes on top.
    pub open_tables_max: i32,
    /// How much of a file is written before its writing out begins, bytes, so that the sync at its end is short. Default
    /// 1 MiB. Says nothing about durability.
    pub write_out_bytes: u64,
    /// RocksDB's own log of what it does, bytes a file; two are kept. Default 1 MiB.
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

/// Bits a key of the Bloom filters: 1 % false positives.
const BLOOM_BITS: f64 = 10.0;

/// Options of the database as a whole.
pub(crate) fn database(settings: &Options) -> Result<Rocks, rocksdb::Error> {
    // A background error must stop the member, not be retried behind its back: only the string form can say so.
    let mut options = Rocks::default().get_options_from_string("max_bgerror_resume_count=0")?;
    options.set_atomic_flush(true);
    options.set_db_write_buffer_size(settings.memtable_bytes);
    options.set_max_background_jobs(settings.background_jobs);
    // RocksDB keeps ten of the number for itself.
    options.set_max_open_files(settings.open_tables_max);
    options.set_bytes_per_sync(settings.write_out_bytes);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(settings.log_file_bytes);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_paranoid_checks(true);
    // One writer thread: the machinery for concurrent inserts only costs.
    options.set_allow_concurrent_memtable_write(false);
    Ok(options)
}

/// Options of one family.
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
