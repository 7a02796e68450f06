//! The oracle of leases: none ends before what its clients were promised, and none is renewed once it is gone.

use crate::Micros;
use crate::Violation;
use machine::Command;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use types::{Index, LeaseId};

struct Promise {
    granted: Index,
    until: Micros,
}

#[derive(Default)]
pub(crate) struct Promises {
    leases: BTreeMap<LeaseId, Promise>,
    /// Request IDs of revokes that clients asked for; the other revokes are leaders'.
    revokes: BTreeSet<u64>,
    pub(crate) expired: u64,
    pub(crate) renewed: u64,
}

impl Promises {
    /// An entry was applied for the first time, and not refused, in a turn from its begin until now: a sync may have
    /// hung in between, while others applied the entry. A lease counts from the begin, as at a leader that is not slow.
    pub(crate) fn applied(
        &mut self,
        index: Index,
        id: u64,
        command: &Command,
        turn: RangeInclusive<Micros>,
    ) -> Result<(), Violation> {
        let (begun, now) = turn.into_inner();
        if let Command::LeaseGrant(grant) = command {
            let until = begun + micros(grant.ttl);
            self.leases.insert(grant.id, Promise { granted: index, until });
        }
        if let Command::LeaseRevoke(revoke) = command
            && let Some(promise) = self.leases.remove(&revoke.id)
            && !self.revokes.contains(&id)
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

    /// A member that has applied this much told a client that its lease is renewed.
    pub(crate) fn renewed(&mut self, id: LeaseId, ttl: i64, now: Micros, applied: Index) {
        self.renewed += 1;
        // A member may not know yet that a client has revoked a lease, and perhaps granted it again.
        if let Some(promise) = self.leases.get_mut(&id).filter(|promise| promise.granted <= applied) {
            promise.until = promise.until.max(now + micros(ttl));
        }
    }

    pub(crate) fn revokes(&mut self, request: u64) {
        self.revokes.insert(request);
    }
}

fn micros(seconds: i64) -> Micros {
    u64::try_from(seconds).expect("clients ask for seconds") * 1_000_000
}
