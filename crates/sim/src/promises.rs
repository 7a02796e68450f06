//! The judge of leases: none ends before what its clients were promised, and one that is gone is not renewed.

use crate::Micros;
use crate::oracle::Violation;
use proto::etcdserverpb as pb;
use std::collections::{BTreeMap, BTreeSet};
use types::{Index, LeaseId};

/// What was promised of a lease.
struct Promise {
    granted: Index,
    until: Micros,
}

/// All promises of a run.
#[derive(Default)]
pub(crate) struct Promises {
    leases: BTreeMap<LeaseId, Promise>,
    /// Revokes that a leader's clock asked for, by request.
    expiries: BTreeSet<u64>,
    pub(crate) expired: u64,
    pub(crate) renewed: u64,
}

impl Promises {
    /// An entry was applied for the first time, and was not refused.
    pub(crate) fn applied(
        &mut self,
        index: Index,
        id: u64,
        request: &pb::InternalRaftRequest,
        now: Micros,
    ) -> Result<(), Violation> {
        if let Some(grant) = &request.lease_grant {
            let until = now + micros(grant.ttl);
            self.leases.insert(grant.id, Promise { granted: index, until });
        }
        if let Some(revoke) = &request.lease_revoke
            && let Some(promise) = self.leases.remove(&revoke.id)
            && self.expiries.contains(&id)
        {
            self.expired += 1;
            if now < promise.until {
                return Err(format!(
                    "lease {} ends at {now}, it was promised until {}",
                    revoke.id, promise.until
                ));
            }
        }
        Ok(())
    }

    /// A member told a client that a lease goes on; it had applied this much.
    pub(crate) fn renewed(&mut self, id: LeaseId, ttl: i64, now: Micros, applied: Index) {
        self.renewed += 1;
        // A member may not know yet that a client has revoked a lease, and perhaps granted it again.
        if let Some(promise) = self.leases.get_mut(&id).filter(|promise| promise.granted <= applied) {
            promise.until = promise.until.max(now + micros(ttl));
        }
    }

    /// A member's clock says that a lease is over. That it may say too late, when another leads: then nothing comes of it.
    pub(crate) fn expires(&mut self, request: u64) {
        self.expiries.insert(request);
    }
}

fn micros(seconds: i64) -> Micros {
    u64::try_from(seconds).expect("clients ask for seconds") * 1_000_000
}
