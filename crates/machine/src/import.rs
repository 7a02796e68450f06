//! Rows made of etcd's buckets: [`crate::buckets`] the other way round, for a new cluster. So members, former ones
//! included, raft's configuration and the applied index are left out.

use crate::{Downgrade, rows, version};
use engine::Batch;
use mvcc::Compacted;
use prost::Message as _;
use proto::etcdserverpb::AlarmMember;
use proto::leasepb;

/// Why a database is refused. Nobody may use what was written of it.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The key space is not one that etcd writes.
    #[error(transparent)]
    History(#[from] mvcc::ImportError),
    /// An entry of another bucket is not one that etcd writes.
    #[error("the entry {key} of the bucket {bucket} is damaged: {what}")]
    Entry {
        /// The name of the bucket.
        bucket: String,
        /// The entry's key, escaped.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// It has users, roles or authentication, and whoever restores it without them opens it to everybody.
    #[error("it has users and roles, which this version of quorate does not know")]
    Auth,
}

/// A new cluster's rows in the making.
#[derive(Debug)]
pub struct Import {
    history: mvcc::Import,
}

impl Import {
    /// Begins; `mark` returns an entry of the bucket `meta`.
    pub fn begin<E: From<ImportError>>(
        mut mark: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, E> {
        let (scheduled, finished) = (mark("scheduledCompactRev")?, mark("finishedCompactRev")?);
        let compacted = Compacted::of_marks(scheduled.as_deref(), finished.as_deref());
        let compacted =
            compacted.ok_or_else(|| damaged("meta", b"scheduledCompactRev", "it is no revision"))?;
        if let Some(version) = mark("storageVersion")? {
            check_version("meta", b"storageVersion", &version)?;
        }
        Ok(Self { history: mvcc::Import::new(compacted) })
    }

    /// Adds an entry of a bucket; entries and buckets ascend. The batch goes into an empty engine.
    pub fn entry(
        &mut self,
        bucket: &[u8],
        key: &[u8],
        value: &[u8],
        batch: &mut Batch,
    ) -> Result<(), ImportError> {
        match bucket {
            b"key" => self.history.row(key, value, batch)?,
            b"lease" => rows::put_lease(batch, &lease(key, value)?),
            b"alarm" => {
                let alarm = AlarmMember::decode(key).map_err(|error| damaged("alarm", key, error))?;
                rows::put_alarm(batch, alarm.member_id, alarm.alarm);
            }
            b"cluster" => cluster(key, value, batch)?,
            b"authUsers" | b"authRoles" => return Err(ImportError::Auth),
            b"auth" if key == b"authEnabled" && value != [0] => return Err(ImportError::Auth),
            // etcd, too, ignores buckets that it does not know.
            _ => {}
        }
        Ok(())
    }

    /// Ends with the rows that need all others.
    pub fn finish(self, batch: &mut Batch) {
        self.history.finish(batch);
    }
}

fn lease(key: &[u8], value: &[u8]) -> Result<lease::Lease, ImportError> {
    let message = leasepb::Lease::decode(value).map_err(|error| damaged("lease", key, error))?;
    if key != message.id.to_be_bytes() {
        return Err(damaged("lease", key, "it has another ID"));
    }
    Ok(lease::Lease::new(message.id, message.ttl, message.remaining_ttl))
}

fn cluster(key: &[u8], value: &[u8], batch: &mut Batch) -> Result<(), ImportError> {
    match key {
        b"clusterVersion" => rows::put_cluster_version(batch, check_version("cluster", key, value)?),
        b"downgrade" => {
            let downgrade: Downgrade =
                serde_json::from_slice(value).map_err(|error| damaged("cluster", key, error))?;
            rows::put_downgrade(batch, &downgrade);
        }
        _ => {}
    }
    Ok(())
}

fn check_version<'v>(bucket: &str, key: &[u8], value: &'v [u8]) -> Result<&'v str, ImportError> {
    let text = std::str::from_utf8(value).map_err(|error| damaged(bucket, key, error))?;
    version::check_cluster_version(text).map_err(|error| damaged(bucket, key, error))?;
    Ok(text)
}

fn damaged(bucket: &str, key: &[u8], what: impl std::fmt::Display) -> ImportError {
    ImportError::Entry {
        bucket: bucket.to_owned(),
        key: key.escape_ascii().to_string(),
        what: what.to_string(),
    }
}
