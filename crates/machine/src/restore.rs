//! Rows that came from elsewhere: what they say of themselves, and how a new cluster begins on them.
//!
//! After `etcdutl snapshot restore`: members and those of the past go, for the new cluster has IDs of its own; keys with
//! their revisions, leases, alarms, the cluster's version and a downgrade job stay.

use crate::{Fault, Member, rows};
use engine::{Batch, Engine, Family};
use mvcc::Extent;
use types::{ConfState, Index, Term};

/// What a copy of all rows says of itself. Show it every row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How far the key space reaches.
    pub extent: Extent,
    /// Live keys.
    pub keys: u64,
    /// The version that the members had agreed on; empty if they had not.
    pub cluster_version: String,
}

impl Default for Summary {
    fn default() -> Self {
        Self { extent: Extent::FRESH, keys: 0, cluster_version: String::new() }
    }
}

impl Summary {
    /// Takes note of a row.
    pub fn note(&mut self, family: Family, key: &[u8], row: &[u8]) -> Result<(), Fault> {
        if family == Family::Latest {
            self.keys += 1;
        } else if rows::is_cluster_version(family, key) {
            self.cluster_version = String::from_utf8_lossy(row).into_owned();
        } else if let Some(extent) = Extent::of_row(family, key, row) {
            self.extent = extent?;
        }
        Ok(())
    }
}

/// Why no cluster begins on these rows.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The engine failed, or a row cannot be read.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The revision cannot be raised that far.
    #[error(transparent)]
    Bump(#[from] mvcc::BumpError),
}

impl From<engine::Fault> for RestoreError {
    fn from(fault: engine::Fault) -> Self {
        RestoreError::Fault(fault.into())
    }
}

/// Makes these rows the state that a new cluster of `members` begins with: applied up to `applied`, all of them voters.
/// With `bump` the revision is raised by so many and everything before it compacted (see [`mvcc::bump`]).
///
/// One batch, then a flush. For rows that no machine is open on.
pub fn begin_anew(
    engine: &dyn Engine,
    members: &[Member],
    applied: (Index, Term),
    bump: Option<u64>,
) -> Result<(), RestoreError> {
    let mut batch = Batch::default();
    rows::forget_members(engine, &mut batch)?;
    let mut voters: Vec<u64> = members.iter().map(|member| member.id).collect();
    voters.sort_unstable();
    for member in members {
        rows::put_member(&mut batch, member);
    }
    rows::put_conf_state(&mut batch, &ConfState { voters, learners: Vec::new() });
    rows::put_applied(&mut batch, applied.0, applied.1);
    if let Some(by) = bump {
        mvcc::bump(engine, &mut batch, by)?;
    }
    engine.write(batch)?;
    Ok(engine.flush()?)
}
