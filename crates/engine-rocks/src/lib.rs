//! The storage engine on RocksDB.
//!
//! ```text
//! Batch ─▶ one WriteBatch, no write-ahead log ─▶ memtables of three column families ─▶ atomic flush ─▶ SST files
//! ```
//!
//! Invariants:
//! * RocksDB's own log is off: the raft log takes its place. With `atomic_flush` the families move together, so a
//!   crash leaves the state after some whole batch, with the applied index in it.
//! * A background error is final: automatic resume is off, so the next write returns a [`Fault`] and the member stops.
//!
//! Not here: the meaning of rows. No other crate names `rocksdb`.

mod options;

pub use options::Options;

use bytes::Bytes;
use engine::{Batch, Engine, Family, Fault, Op, Rows, Visit};
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBRawIterator, FlushOptions, ReadOptions,
    Snapshot, WriteBatch, WriteOptions,
};
use self_cell::self_cell;
use std::path::Path;
use std::sync::Arc;

/// The storage engine on RocksDB.
pub struct RocksEngine {
    db: DB,
    write: WriteOptions,
}

impl RocksEngine {
    /// Whether the directory holds a database. Changes nothing.
    pub fn exists(path: &Path) -> bool {
        path.join("CURRENT").exists()
    }

    /// Opens or creates the database. Fails if another process has it open, a file is damaged, or the disk refuses.
    pub fn open(path: &Path, settings: &Options) -> Result<Self, Fault> {
        let fail = |source| fault("open the database", source);
        let mut db_options = options::database(settings).map_err(fail)?;
        db_options.create_if_missing(true);
        db_options.create_missing_column_families(true);
        let cache = rocksdb::Cache::new_lru_cache(settings.block_cache_bytes);
        let families =
            Family::ALL.map(|f| ColumnFamilyDescriptor::new(f.name(), options::family(f, settings, &cache)));
        let db = DB::open_cf_descriptors(&db_options, path, families).map_err(fail)?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(Self { db, write })
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family is created when the database is opened")
    }
}

fn fault(context: &'static str, source: rocksdb::Error) -> Fault {
    Fault { context, source: Box::new(source) }
}

impl Engine for RocksEngine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let row = self.db.get_pinned_cf(self.family(family), key).map_err(|e| fault("read a row", e))?;
        Ok(row.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        let Some(read) = between(from, to) else { return Ok(()) };
        walk(self.db.raw_iterator_cf_opt(self.family(family), read), from, visit)
    }

    fn snapshot(self: Arc<Self>) -> Box<engine::Snapshot> {
        Box::new(Held::new(self, |engine| engine.db.snapshot()))
    }

    fn write(&self, batch: Batch) -> Result<(), Fault> {
        let mut rows = WriteBatch::default();
        let families = Family::ALL.map(|f| self.family(f));
        for op in &batch.ops {
            match op {
                Op::Put(family, key, value) => rows.put_cf(families[*family as usize], key, value),
                Op::Delete(family, key) => rows.delete_cf(families[*family as usize], key),
            }
        }
        self.db.write_opt(rows, &self.write).map_err(|e| fault("write a batch", e))
    }

    fn flush(&self) -> Result<(), Fault> {
        let mut wait = FlushOptions::default();
        wait.set_wait(true);
        let families = Family::ALL.map(|f| self.family(f));
        let all: Vec<&&ColumnFamily> = families.iter().collect();
        self.db.flush_cfs_opt(&all, &wait).map_err(|e| fault("flush", e))
    }

    fn compact(&self) -> Result<(), Fault> {
        let before = self.background_errors()?;
        let mut options = CompactOptions::default();
        // Let other compactions run meanwhile: otherwise level 0 fills up and writes stall.
        options.set_exclusive_manual_compaction(false);
        for family in Family::ALL {
            self.db.compact_range_cf_opt(self.family(family), None::<&[u8]>, None::<&[u8]>, &options);
        }
        // RocksDB's C API does not report this call's errors.
        if self.background_errors()? > before {
            return Err(Fault { context: "compact", source: "RocksDB counts a background error".into() });
        }
        Ok(())
    }
}

impl RocksEngine {
    fn background_errors(&self) -> Result<u64, Fault> {
        let errors = self.db.property_int_value("rocksdb.background-errors");
        Ok(errors.map_err(|e| fault("read a property", e))?.unwrap_or(0))
    }
}

self_cell! {
    /// A RocksDB snapshot together with the engine it belongs to.
    struct Held {
        owner: Arc<RocksEngine>,
        #[covariant]
        dependent: Snapshot,
    }
}

impl Rows for Held {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let row = self.borrow_dependent().get_pinned_cf(self.borrow_owner().family(family), key);
        Ok(row.map_err(|e| fault("read a row", e))?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        let Some(mut read) = between(from, to) else { return Ok(()) };
        // A full scan must not evict what others read repeatedly.
        read.fill_cache(false);
        let family = self.borrow_owner().family(family);
        walk(self.borrow_dependent().raw_iterator_cf_opt(family, read), from, visit)
    }
}

/// Read options for the rows from `from` (inclusive) to `to` (exclusive); `None` for an empty range.
fn between(from: &[u8], to: Option<&[u8]>) -> Option<ReadOptions> {
    if to.is_some_and(|to| to <= from) {
        return None;
    }
    let mut read = ReadOptions::default();
    if let Some(to) = to {
        read.set_iterate_upper_bound(to);
    }
    Some(read)
}

fn walk(mut rows: DBRawIterator<'_>, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Fault> {
    rows.seek(from);
    while let Some((key, value)) = rows.item() {
        if visit(key, value).is_break() {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(|e| fault("scan rows", e))
}

#[cfg(test)]
mod tests;
