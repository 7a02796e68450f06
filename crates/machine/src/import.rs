//! Rows made of etcd's buckets: [`crate::buckets`] the other way round. A member of the same cluster takes them all; a
//! new cluster has members of its own, so it takes neither members, former ones included, nor raft's configuration and
//! the applied index.

use crate::{Downgrade, Member, Point, point, rows, version};
use engine::Batch;
use mvcc::Compacted;
use prost::Message as _;
use proto::etcdserverpb::AlarmMember;
use proto::leasepb;
use types::{ConfState, MemberId};

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
    /// It is of another point of the log than the leader's message announces.
    #[error("its {what} is {}, but the leader announces {announced}", shown(*found))]
    Unannounced {
        /// What differs, by etcd's name.
        what: &'static str,
        /// The number in the database; `None` without one.
        found: Option<u64>,
        /// The number in the message.
        announced: u64,
    },
    /// The receiver is no member of the cluster that it describes.
    #[error("it does not know this member, {0:x}")]
    Stranger(MemberId),
    /// It does not say of what term its last entry is.
    #[error("it says no term: a version of etcd before 3.5 wrote it last")]
    Old,
}

/// Rows in the making.
#[derive(Debug)]
pub struct Import {
    history: mvcc::Import,
    /// Where a member of the same cluster goes on; `None` for a new cluster.
    point: Option<Point>,
}

impl Import {
    /// Begins the rows of a new cluster; `find` returns an entry of a bucket.
    pub fn begin<E: From<ImportError>>(
        mut find: impl FnMut(&str, &str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, E> {
        let mut mark = |name: &str| find("meta", name);
        let (scheduled, finished) = (mark("scheduledCompactRev")?, mark("finishedCompactRev")?);
        let compacted = Compacted::of_marks(scheduled.as_deref(), finished.as_deref());
        let compacted =
            compacted.ok_or_else(|| damaged("meta", b"scheduledCompactRev", "it is no revision"))?;
        if let Some(version) = mark("storageVersion")? {
            check_version("meta", b"storageVersion", &version)?;
        }
        Ok(Self { history: mvcc::Import::new(compacted), point: None })
    }

    /// Begins the rows with which `member` goes on in its cluster, at the point that the leader's message announces.
    /// Refuses what is of another point, or of a cluster without this member, before there is anything to write.
    ///
    /// The members by role are the message's. The database's `confState` is not looked at: etcd writes it with each change
    /// of members and reads it nowhere, and what `etcdutl snapshot restore` makes has the former cluster's.
    pub fn begin_member<E: From<ImportError>>(
        announced: &Point,
        member: MemberId,
        mut find: impl FnMut(&str, &str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, E> {
        let index = find("meta", "consistent_index")?;
        check_number("consistent_index", index.as_deref(), announced.index)?;
        check_number("term", find("meta", "term")?.as_deref(), announced.term)?;
        if find("members", &format!("{member:x}"))?.is_none() {
            return Err(ImportError::Stranger(member).into());
        }
        let point = Point { conf: point::in_order(&announced.conf), ..*announced };
        Ok(Self { point: Some(point), ..Self::begin(find)? })
    }

    /// The members of a database, from the entries of that bucket.
    pub fn members(entries: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<Member>, ImportError> {
        entries.iter().map(|(key, value)| member(key, value)).collect()
    }

    /// Where a database stands that nobody announces, for a member that goes on from its own; `None` before it applied
    /// anything. Who votes follows from its members, for the reason above.
    pub fn point<E: From<ImportError>>(
        mut find: impl FnMut(&str, &str) -> Result<Option<Vec<u8>>, E>,
        members: &[Member],
    ) -> Result<Option<Point>, E> {
        let Some(index) = stored_number("consistent_index", find("meta", "consistent_index")?.as_deref())?
        else {
            return Ok(None);
        };
        let term = stored_number("term", find("meta", "term")?.as_deref())?.ok_or(ImportError::Old)?;
        let mut conf = ConfState::default();
        for known in members {
            let list = if known.is_learner { &mut conf.learners } else { &mut conf.voters };
            list.push(known.id);
        }
        Ok(Some(Point { index, term, conf: point::in_order(&conf) }))
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
            b"members" if self.point.is_some() => rows::put_member(batch, &member(key, value)?),
            b"members_removed" if self.point.is_some() => {
                rows::put_removed(batch, id("members_removed", key)?);
            }
            b"authUsers" | b"authRoles" => return Err(ImportError::Auth),
            b"auth" if key == b"authEnabled" && value != [0] => return Err(ImportError::Auth),
            // etcd, too, ignores buckets that it does not know.
            _ => {}
        }
        Ok(())
    }

    /// Ends with the rows that need all others: without them no part is taken for a whole.
    pub fn finish(self, batch: &mut Batch) {
        self.history.finish(batch);
        if let Some(Point { index, term, conf }) = self.point {
            rows::put_conf_state(batch, &conf);
            rows::put_applied(batch, index, term);
        }
    }
}

fn stored_number(what: &str, found: Option<&[u8]>) -> Result<Option<u64>, ImportError> {
    let number = |bytes: &[u8]| {
        let bytes =
            bytes.try_into().map_err(|_| damaged("meta", what.as_bytes(), "it is no number of 8 bytes"))?;
        Ok(u64::from_be_bytes(bytes))
    };
    found.map(number).transpose()
}

fn check_number(what: &'static str, found: Option<&[u8]>, announced: u64) -> Result<(), ImportError> {
    let found = stored_number(what, found)?;
    if found == Some(announced) { Ok(()) } else { Err(ImportError::Unannounced { what, found, announced }) }
}

fn shown(number: Option<u64>) -> String {
    number.map_or_else(|| "missing".to_owned(), |number| number.to_string())
}

/// A member's ID as etcd prints it: hexadecimal, without leading zeros.
fn id(bucket: &str, key: &[u8]) -> Result<MemberId, ImportError> {
    let id = std::str::from_utf8(key).ok().and_then(|text| MemberId::from_str_radix(text, 16).ok());
    id.filter(|id| format!("{id:x}").as_bytes() == key)
        .ok_or_else(|| damaged(bucket, key, "it is no ID of a member"))
}

fn member(key: &[u8], value: &[u8]) -> Result<Member, ImportError> {
    let id = id("members", key)?;
    let member: Member = serde_json::from_slice(value).map_err(|error| damaged("members", key, error))?;
    if member.id == id { Ok(member) } else { Err(damaged("members", key, "it has another ID")) }
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
