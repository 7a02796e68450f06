//! Restoring: how a new cluster starts from another one's rows, after `etcdutl snapshot restore`: members are dropped;
//! keys with their revisions, leases, alarms, cluster version and downgrade job stay.

use crate::{Fault, Member, rows};
use engine::{Batch, Engine};
use types::{ConfState, Index, Term};

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The engine failed, or a row cannot be decoded.
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

/// Turns these rows into the initial state of a new cluster of `members`, all voters, at the index `applied`, and
/// flushes. `bump`: see [`mvcc::bump`]. Only for rows that no machine has open.
pub fn start_new_cluster(
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
