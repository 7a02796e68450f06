//! The buckets of etcd's database (`server/storage/schema`), each as a function of the rows. Ascending by name, as the
//! entries of each are by key.

use crate::{Fault, rows};
use engine::{Family, Rows};
use mvcc::Compacted;
use prost::Message as _;
use proto::etcdserverpb::AlarmMember;
use proto::leasepb;
use serde::Serialize;
use std::borrow::Cow;
use std::ops::ControlFlow;
use types::{Revision, Version};

/// One of etcd's buckets.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Its name in etcd's database.
    pub name: &'static str,
    /// How its entries are made.
    pub content: Content,
}

/// The entries of a bucket.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// The same for every cluster.
    Fixed(&'static [(&'static str, &'static [u8])]),
    /// As few as members, all of them made at once.
    Few(Few),
    /// One for each row of a part of a family, in the order of the rows.
    Each {
        /// The family of the rows.
        family: Family,
        /// The first key of the part; empty = the first of the family.
        from: &'static [u8],
        /// The end of the part, exclusive; `None` = the end of the family.
        to: Option<&'static [u8]>,
        /// Makes an entry of a row.
        entry: MakeEntry,
    },
}

/// Makes all entries of a bucket: keys and values.
pub type Few = fn(&dyn Rows) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Fault>;

/// Makes an entry of a row (its key, its value): puts the key into the buffer and returns the value.
pub type MakeEntry = for<'r> fn(&[u8], &'r [u8], &mut Vec<u8>) -> Result<Cow<'r, [u8]>, Fault>;

/// All of them, empty ones too: etcd creates each when it opens a database.
pub const BUCKETS: [Bucket; 10] = [
    Bucket { name: "alarm", content: Content::Few(alarms) },
    Bucket { name: "auth", content: Content::Fixed(AUTH) },
    Bucket { name: "authRoles", content: Content::Fixed(&[]) },
    Bucket { name: "authUsers", content: Content::Fixed(&[]) },
    Bucket { name: "cluster", content: Content::Few(cluster) },
    Bucket {
        name: "key",
        content: Content::Each { family: Family::Revs, from: &[], to: None, entry: version },
    },
    Bucket {
        name: "lease",
        content: Content::Each {
            family: Family::Meta,
            from: lease::ROW_PREFIX,
            to: Some(LEASE_END),
            entry: lease,
        },
    },
    Bucket { name: "members", content: Content::Few(members) },
    Bucket { name: "members_removed", content: Content::Few(removed) },
    Bucket { name: "meta", content: Content::Few(meta) },
];

/// The first key after all leases.
const LEASE_END: &[u8] = b"lease0";

/// An auth store that nobody has used: every member of etcd's begins with this one.
const AUTH: &[(&str, &[u8])] = &[("authEnabled", &[0]), ("authRevision", &1_u64.to_be_bytes())];

/// etcd marks its database with the version of its schema since this one.
const MARKED_SINCE: Version = Version { major: 3, minor: 6, patch: 0 };

type Entries = Result<Vec<(Vec<u8>, Vec<u8>)>, Fault>;

/// An alarm is the key: etcd's `AlarmMember`.
fn alarms(rows: &dyn Rows) -> Entries {
    sorted(rows, rows::ALARM, |key, _| {
        let (alarm, member_id) = rows::decode_alarm(key)?;
        Ok((AlarmMember { member_id, alarm }.encode_to_vec(), Vec::new()))
    })
}

fn cluster(rows: &dyn Rows) -> Entries {
    let mut entries = Vec::new();
    for (name, row) in [("clusterVersion", rows::CLUSTER_VERSION), ("downgrade", rows::DOWNGRADE)] {
        let value = rows.get(Family::Meta, row)?;
        entries.extend(value.map(|value| (name.as_bytes().to_vec(), value.to_vec())));
    }
    Ok(entries)
}

fn version<'r>(key: &[u8], row: &'r [u8], out: &mut Vec<u8>) -> Result<Cow<'r, [u8]>, Fault> {
    Ok(Cow::Borrowed(mvcc::backend_row(key, row, out)?))
}

fn lease<'r>(key: &[u8], row: &'r [u8], out: &mut Vec<u8>) -> Result<Cow<'r, [u8]>, Fault> {
    let lease = lease::Lease::from_row(key, row).ok_or_else(|| rows::broken(key, "no lease"))?;
    out.clear();
    out.extend_from_slice(&lease.id.to_be_bytes());
    let message = leasepb::Lease { id: lease.id, ttl: lease.ttl, remaining_ttl: lease.remaining_ttl };
    Ok(Cow::Owned(message.encode_to_vec()))
}

/// The rows hold etcd's JSON; only the form of the ID differs.
pub(crate) fn members(rows: &dyn Rows) -> Entries {
    sorted(rows, rows::MEMBER, |key, json| Ok((hex_id(key, rows::MEMBER)?, json.to_vec())))
}

pub(crate) fn removed(rows: &dyn Rows) -> Entries {
    sorted(rows, rows::REMOVED, |key, _| Ok((hex_id(key, rows::REMOVED)?, b"removed".to_vec())))
}

/// raft's configuration as Go writes it.
#[derive(Serialize)]
struct ConfStateJson {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    voters: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    learners: Vec<u64>,
    auto_leave: bool,
}

/// In order of the names.
fn meta(rows: &dyn Rows) -> Entries {
    let mut entries = Vec::new();
    let mut put = |name: &str, value: Vec<u8>| entries.push((name.as_bytes().to_vec(), value));
    let applied = rows.get(Family::Meta, rows::APPLIED)?;
    let applied = applied.map(|row| rows::decode_applied(&row)).transpose()?;
    let Compacted { scheduled, finished } = Compacted::of(rows)?;
    let revision = |main: i64| Revision::new(main, 0).encode().to_vec();
    if let Some(row) = rows.get(Family::Meta, rows::CONF_STATE)? {
        let conf = rows::decode_conf_state(&row)?;
        let json = ConfStateJson { voters: conf.voters, learners: conf.learners, auto_leave: false };
        put("confState", serde_json::to_vec(&json).expect("numbers and a flag"));
    }
    if let Some((index, _)) = applied {
        put("consistent_index", index.to_be_bytes().to_vec());
    }
    if let Some(main) = finished {
        put("finishedCompactRev", revision(main));
    }
    if let Some(main) = scheduled {
        put("scheduledCompactRev", revision(main));
    }
    if let Some(version) = rows.get(Family::Meta, rows::CLUSTER_VERSION)? {
        let parsed = std::str::from_utf8(&version).ok().and_then(Version::parse);
        if parsed.is_some_and(|version| version >= MARKED_SINCE) {
            put("storageVersion", version.to_vec());
        }
    }
    if let Some((_, term)) = applied {
        put("term", term.to_be_bytes().to_vec());
    }
    Ok(entries)
}

/// An ID as etcd prints it: hexadecimal, without leading zeros.
fn hex_id(key: &[u8], prefix: &[u8]) -> Result<Vec<u8>, Fault> {
    Ok(format!("{:x}", rows::u64_at(key, prefix.len())?).into_bytes())
}

/// An entry for each row with a prefix, in the order of the new keys.
fn sorted(
    rows: &dyn Rows,
    prefix: &[u8],
    entry: impl Fn(&[u8], &[u8]) -> Result<(Vec<u8>, Vec<u8>), Fault>,
) -> Entries {
    let (mut entries, mut failed) = (Vec::new(), None);
    rows.scan(
        Family::Meta,
        prefix,
        Some(&rows::end_of(prefix)),
        &mut |key, value| match entry(key, value) {
            Ok(entry) => {
                entries.push(entry);
                ControlFlow::Continue(())
            }
            Err(fault) => {
                failed = Some(fault);
                ControlFlow::Break(())
            }
        },
    )?;
    entries.sort_unstable();
    failed.map_or(Ok(entries), Err)
}
