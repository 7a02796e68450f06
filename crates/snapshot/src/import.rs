//! Reads a database of etcd's: what it holds, or all of it into an engine.

use crate::{Progress, Status};
use bbolt::{Item, Limits, ReadAt, ReadError, Reader, Value};
use engine::{Batch, Engine, Fault};
use machine::{Import, Member, Point};
use mvcc::BackendRow;
use std::collections::HashSet;
use types::MemberId;
use types::mutant::{Mutant, is};

/// Size of one engine batch, in bytes of keys and values.
const BATCH_BYTES: usize = 1 << 20;

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file is no bbolt database, or a damaged one.
    #[error("the snapshot cannot be read: {0}")]
    File(ReadError),
    /// What the file holds is not what etcd writes.
    #[error("the snapshot cannot be read: {0}")]
    Content(machine::ImportError),
    /// It can be read, but is not what the leader's message announces, or for another member.
    #[error("the snapshot cannot be installed: {0}")]
    Unexpected(machine::ImportError),
    /// A database, but none of etcd's.
    #[error("the file is no snapshot of etcd: {0}")]
    Foreign(&'static str),
    /// The engine cannot be written to.
    #[error(transparent)]
    Engine(#[from] Fault),
}

// Not `#[from]`: the texts have their sources' already, and who prints a chain of errors would repeat them.
impl From<ReadError> for ImportError {
    fn from(error: ReadError) -> Self {
        Self::File(error)
    }
}

impl From<machine::ImportError> for ImportError {
    fn from(error: machine::ImportError) -> Self {
        use machine::ImportError::{Stranger, Unannounced};
        match error {
            Unannounced { .. } | Stranger(_) => Self::Unexpected(error),
            error => Self::Content(error),
        }
    }
}

/// Writes a new cluster's rows into an empty engine, durably; after an error it holds a part, which nobody may use.
pub fn load(file: impl ReadAt, engine: &dyn Engine, progress: &mut Progress<'_>) -> Result<(), ImportError> {
    let snapshot = open(file)?;
    let import = Import::begin(|bucket, key| snapshot.entry(bucket, key))?;
    snapshot.write(import, engine, progress)
}

/// Writes the rows with which `member` goes on in its own cluster into an empty engine, durably. `announced` is what the
/// leader's message says of the snapshot. After an error the engine holds a part, without an applied index.
pub fn load_member(
    file: impl ReadAt,
    engine: &dyn Engine,
    announced: &Point,
    member: MemberId,
    progress: &mut Progress<'_>,
) -> Result<(), ImportError> {
    let snapshot = open(file)?;
    let import = Import::begin_member(announced, member, |bucket, key| snapshot.entry(bucket, key))?;
    snapshot.write(import, engine, progress)
}

/// Where an etcd member's own database stands (`None` before it applied anything), and the members that it knows.
pub fn point(file: impl ReadAt) -> Result<(Option<Point>, Vec<Member>), ImportError> {
    let snapshot = open(file)?;
    let members = Import::members(&snapshot.entries(MEMBERS)?)?;
    let point = Import::point(|bucket, key| snapshot.entry(bucket, key), &members)?;
    Ok((point, members))
}

/// Reads everything that [`load_member`] reads, and writes nothing: whether it would be taken.
pub fn check_member(
    file: impl ReadAt,
    announced: &Point,
    member: MemberId,
    progress: &mut Progress<'_>,
) -> Result<(), ImportError> {
    let snapshot = open(file)?;
    let mut import = Import::begin_member(announced, member, |bucket, key| snapshot.entry(bucket, key))?;
    snapshot.walk(progress, &mut |bucket, entry| {
        let Some((key, value)) = entry else { return Ok(()) };
        Ok(import.entry(bucket, key, value, &mut Batch::default())?)
    })
}

/// What `etcdutl snapshot status` shows of the file.
pub fn status(file: impl ReadAt, progress: &mut Progress<'_>) -> Result<Status, ImportError> {
    let snapshot = open(file)?;
    let version = snapshot.entry("meta", "storageVersion")?.unwrap_or_default();
    let total_bytes = snapshot.bytes();
    let (mut revision, mut live, mut hash) = (0, HashSet::new(), 0);
    snapshot.walk(progress, &mut |bucket, entry| {
        let Some((key, value)) = entry else {
            hash = crc32c::crc32c_append(hash, bucket);
            return Ok(());
        };
        hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value);
        if bucket == KEY {
            let row =
                BackendRow::parse(key, value).map_err(|_| ImportError::Foreign("a key is no revision"))?;
            revision = row.at.main;
            if row.tombstone {
                live.remove(row.key);
            } else {
                live.insert(row.key.to_vec());
            }
        }
        Ok(())
    })?;
    let version = String::from_utf8_lossy(&version).into_owned();
    Ok(Status { hash, revision, total_keys: live.len() as u64, total_bytes, version })
}

/// The key and the value of an entry.
type Pair = (Vec<u8>, Vec<u8>);

const KEY: &[u8] = b"key";
const MEMBERS: &[u8] = b"members";

/// An open file with etcd's buckets in it.
struct Snapshot<R> {
    reader: Reader<R>,
}

fn open<R: ReadAt>(file: R) -> Result<Snapshot<R>, ImportError> {
    let reader = Reader::open(file, Limits::DEFAULT)?;
    if reader.bucket(KEY)?.is_none() {
        return Err(ImportError::Foreign("it has no bucket of keys"));
    }
    Ok(Snapshot { reader })
}

/// Called with a bucket's name, first without an entry, then with the key and value of each.
type Visit<'a> = dyn FnMut(&[u8], Option<(&[u8], &[u8])>) -> Result<(), ImportError> + 'a;

impl<R: ReadAt> Snapshot<R> {
    fn bytes(&self) -> u64 {
        self.reader.pages() * u64::from(self.reader.page_bytes())
    }

    /// The value of a key in a bucket.
    fn entry(&self, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, ImportError> {
        let Some(bucket) = self.reader.bucket(bucket.as_bytes())? else { return Ok(None) };
        let mut cursor = bucket.cursor();
        let found = cursor.seek(key.as_bytes())?.filter(|entry| entry.key == key.as_bytes());
        Ok(found.and_then(|entry| match entry.value {
            Value::Bytes(value) => Some(value.to_vec()),
            Value::Bucket => None,
        }))
    }

    /// All entries of a small bucket; none if it is missing.
    fn entries(&self, bucket: &[u8]) -> Result<Vec<Pair>, ImportError> {
        let Some(bucket) = self.reader.bucket(bucket)? else { return Ok(Vec::new()) };
        let (mut cursor, mut found) = (bucket.cursor(), Vec::new());
        while let Some(entry) = cursor.next_entry()? {
            if let Value::Bytes(value) = entry.value {
                found.push((entry.key.to_vec(), value.to_vec()));
            }
        }
        Ok(found)
    }

    /// Writes all rows, the last batch with what makes them whole, and flushes.
    fn write(
        &self,
        mut import: Import,
        engine: &dyn Engine,
        progress: &mut Progress<'_>,
    ) -> Result<(), ImportError> {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        self.walk(progress, &mut |bucket, entry| {
            let Some((key, value)) = entry else { return Ok(()) };
            import.entry(bucket, key, value, &mut batch)?;
            bytes += key.len() + value.len();
            if bytes >= BATCH_BYTES {
                bytes = 0;
                engine.write(std::mem::take(&mut batch))?;
            }
            Ok(())
        })?;
        import.finish(&mut batch);
        engine.write(batch)?;
        if is(Mutant::InstallUnflushed) {
            return Ok(());
        }
        Ok(engine.flush()?)
    }

    /// Visits all entries in order, with every check that the format allows.
    fn walk(&self, progress: &mut Progress<'_>, visit: &mut Visit<'_>) -> Result<(), ImportError> {
        let (mut done, mut told, total) = (0, 0, self.bytes());
        self.reader.walk(&mut |Item { path, key, value, .. }| {
            let bytes = match (path, value) {
                ([], Value::Bucket) => return visit(key, None),
                ([bucket], Value::Bytes(value)) => {
                    visit(bucket, Some((key, value)))?;
                    value.len()
                }
                _ => return Err(ImportError::Foreign("it has a bucket inside of a bucket")),
            };
            done += (key.len() + bytes) as u64;
            if done - told >= BATCH_BYTES as u64 {
                told = done;
                progress(done.min(total), total);
            }
            Ok(())
        })?;
        progress(total, total);
        Ok(())
    }
}
