//! Which leases are about to go: their revokes are in the leader's log, and not applied yet.
//!
//! An entry about a lease names its ID alone. Behind a revoke it may meet another lease that a client granted with the same
//! ID, and end that one early.

use super::Core;
use crate::NodeFault;
use proto::etcdserverpb as pb;
use raft::GetEntriesContext;
use std::collections::{BTreeMap, HashSet};
use types::{Index, LeaseId, Term};

/// The revokes that were found in the log of one term.
#[derive(Debug, Default)]
pub(super) struct Going {
    term: Term,
    /// All entries up to here were looked at.
    up_to: Index,
    revokes: BTreeMap<Index, LeaseId>,
}

/// Of an entry, no more than the revoke of a lease.
#[derive(Clone, PartialEq, prost::Message)]
struct Revoke {
    #[prost(message, optional, tag = "9")]
    lease_revoke: Option<pb::LeaseRevokeRequest>,
}

impl Core {
    /// The leases whose revokes are in this leader's log and not applied yet.
    pub fn going_leases(&mut self) -> Result<HashSet<LeaseId>, NodeFault> {
        let raft = &self.node.raft;
        let (applied, last) = (raft.raft_log.applied, raft.raft_log.last_index());
        let going = &mut self.going;
        if going.term != raft.term {
            *going = Going { term: raft.term, ..Going::default() };
        }
        going.revokes = going.revokes.split_off(&(applied + 1));
        going.up_to = going.up_to.max(applied);
        while going.up_to < last {
            let (low, context) = (going.up_to + 1, GetEntriesContext::empty(false));
            let entries = raft.raft_log.slice(low, last + 1, self.limits.group_bytes, context);
            let entries = entries.map_err(|error| NodeFault::Raft(error.to_string()))?;
            for entry in &entries {
                going.revokes.extend(revoked(&entry.data).map(|id| (entry.index, id)));
            }
            // At least one, or an error.
            going.up_to += entries.len() as u64;
        }
        Ok(going.revokes.values().copied().collect())
    }
}

fn revoked(data: &[u8]) -> Option<LeaseId> {
    let Revoke { lease_revoke } = prost::Message::decode(data).ok()?;
    Some(lease_revoke?.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn of_an_entry_only_the_revoke_is_read() {
        let header = Some(pb::RequestHeader { id: 7, ..Default::default() });
        let revoke = pb::LeaseRevokeRequest { id: -9 };
        let put = pb::PutRequest { key: "k".into(), lease: 9, ..Default::default() };
        let request = pb::InternalRaftRequest { header, ..Default::default() };
        let check = |request: pb::InternalRaftRequest, expected| {
            assert_eq!(revoked(&request.encode_to_vec()), expected, "{request:?}");
        };
        check(pb::InternalRaftRequest { lease_revoke: Some(revoke), ..request.clone() }, Some(-9));
        check(pb::InternalRaftRequest { put: Some(put), ..request }, None);
        assert_eq!(revoked(b"no request"), None);
        assert_eq!(revoked(b""), None);
    }
}
