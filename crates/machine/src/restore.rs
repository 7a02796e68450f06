//! New clusters from old rows: keys with their revisions, leases, alarms, cluster version and downgrade job stay. After
//! `etcdutl snapshot restore` all members are others; after `etcd --force-new-cluster` one of them goes on alone.

use crate::{Fault, Member, rows};
use engine::{Batch, Engine};
use types::{ConfState, Index, MemberId, Term};

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
    if let Some(by) = bump {
        mvcc::bump(engine, &mut batch, by)?;
    }
    begin(engine, batch, voters, applied)
}

/// Turns a member's rows into those of a cluster of `member` alone, at the index `applied`, with the revision raised by
/// `bump`, and flushes; returns the new revision. The others count as removed. Only for rows that no machine uses any more.
pub fn force_new_cluster(
    engine: &dyn Engine,
    member: MemberId,
    applied: (Index, Term),
    bump: u64,
) -> Result<i64, RestoreError> {
    let mut batch = Batch::default();
    for (id, known) in rows::load(engine)?.membership.members {
        if id == member {
            rows::put_member(&mut batch, &Member { is_learner: false, ..known });
        } else {
            rows::remove_member(&mut batch, id);
            rows::put_removed(&mut batch, id);
        }
    }
    let revision = mvcc::bump(engine, &mut batch, bump)?;
    begin(engine, batch, vec![member], applied)?;
    Ok(revision)
}

/// Makes the rows durable, with who votes from this entry on.
fn begin(
    engine: &dyn Engine,
    mut batch: Batch,
    voters: Vec<MemberId>,
    (index, term): (Index, Term),
) -> Result<(), RestoreError> {
    rows::put_conf_state(&mut batch, &ConfState { voters, learners: Vec::new() });
    rows::put_applied(&mut batch, index, term);
    engine.write(batch)?;
    Ok(engine.flush()?)
}
