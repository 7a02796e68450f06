//! Pending revokes: leases whose revokes are in the leader's log but not applied yet. An entry names a lease only by
//! its ID: after a pending revoke it might hit one granted again under that ID, and end it early.

use super::Core;
use crate::NodeFault;
use machine::{Command, Kind};
use prost::Message;
use proto::etcdserverpb as pb;
use raft::GetEntriesContext;
use std::collections::{BTreeMap, HashSet};
use types::{Index, LeaseId, Term};

#[derive(Debug, Default)]
pub(super) struct PendingRevokes {
    term: Term,
    /// All entries up to here were scanned.
    up_to: Index,
    revokes: BTreeMap<Index, LeaseId>,
}

impl Core {
    /// The leases whose revokes are in this leader's log but not applied.
    pub fn pending_revokes(&mut self) -> Result<HashSet<LeaseId>, NodeFault> {
        let raft = &self.node.raft;
        let (applied, last) = (raft.raft_log.applied, raft.raft_log.last_index());
        let pending = &mut self.pending_revokes;
        if pending.term != raft.term {
            *pending = PendingRevokes { term: raft.term, ..PendingRevokes::default() };
        }
        pending.revokes = pending.revokes.split_off(&(applied + 1));
        pending.up_to = pending.up_to.max(applied);
        while pending.up_to < last {
            let (low, context) = (pending.up_to + 1, GetEntriesContext::empty(false));
            let entries = raft.raft_log.slice(low, last + 1, self.limits.group_bytes, context)?;
            // There is at least one, unless the log cannot be read.
            raft.store().take_fault()?;
            for entry in &entries {
                pending.revokes.extend(revoked(&entry.data).map(|id| (entry.index, id)));
            }
            pending.up_to += entries.len() as u64;
        }
        Ok(pending.revokes.values().copied().collect())
    }
}

/// The lease that an entry revokes. Asks for its kind first, which is cheap.
fn revoked(data: &[u8]) -> Option<LeaseId> {
    if Kind::of(data) != Kind::LeaseRevoke {
        return None;
    }
    match Command::of(pb::InternalRaftRequest::decode(data).ok()?)? {
        Command::LeaseRevoke(request) => Some(request.id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_entry_only_the_revoke_is_read() {
        let revoke = pb::LeaseRevokeRequest { id: -9 };
        let put = pb::PutRequest { key: "k".into(), lease: 9, ..Default::default() };
        assert_eq!(revoked(&Command::from(revoke).encode(7)), Some(-9));
        assert_eq!(revoked(&Command::from(put).encode(7)), None);
        assert_eq!(revoked(b"no request"), None);
        assert_eq!(revoked(b""), None);
    }
}
