//! The storage engine on RocksDB.
//!
//! ```text
//! Batch ─▶ one WriteBatch, no write-ahead log ─▶ memtables of three column families ─▶ atomic flush ─▶ SST files
//! ```
//!
//! Invariants:
//! * RocksDB's own log is off: the raft log is the write-ahead log. `atomic_flush` makes the families' files move
//!   together, so that what a crash leaves is the state after some whole batch, with its applied index in it.
//! * A background error is final: automatic resume is off, the next write returns a [`Fault`] and the member stops.
//!
//! What it does not do: it knows nothing of what rows mean, and no other crate names `rocksdb`.

mod options;

pub use options::Options;

use bytes::Bytes;
use engine::{Batch, Engine, Family, Fault, Moment, Op, Rows, Visit};
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBRawIterator, FlushOptions, ReadOptions,
    Snapshot, WriteBatch, WriteOptions,
};
use self_cell::self_cell;
use std::path::Path;
use std::sync::Arc;

/// Rows on disk, in RocksDB.
pub struct RocksEngine {
    db: DB,
    write: WriteOptions,
}

impl RocksEngine {
    /// Whether there is a database in the directory. Looks, and changes nothing.
    pub fn exists(path: &Path) -> bool {
        path.join("CURRENT").exists()
    }

    /// Opens the database in this directory, or creates it.
    ///
    /// Fails where another process holds the directory, where a file is damaged, and where the disk refuses.
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

    fn multi_get(&self, family: Family, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, Fault> {
        let sorted = keys.is_sorted();
        self.db
            .batched_multi_get_cf(self.family(family), keys, sorted)
            .into_iter()
            .map(|row| match row {
                Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
                Err(e) => Err(fault("read rows", e)),
            })
            .collect()
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

    fn moment(self: Arc<Self>) -> Box<Moment> {
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
        // Other compactions go on beside it: else files pile up on the first level until writes are held back.
        options.set_exclusive_manual_compaction(false);
        for family in Family::ALL {
            self.db.compact_range_cf_opt(self.family(family), None::<&[u8]>, None::<&[u8]>, &options);
        }
        // RocksDB's C interface tells no errors of it.
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
    /// All families between two batches: the snapshot, and the database that it is of.
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
        // Whoever reads everything once must not push out what others read again and again.
        read.fill_cache(false);
        let family = self.borrow_owner().family(family);
        walk(self.borrow_dependent().raw_iterator_cf_opt(family, read), from, visit)
    }
}

/// How the rows from one key on and before another are read; `None` where there are none between them.
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
