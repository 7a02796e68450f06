//! The table of leases and their attached keys.

use crate::TTL_MAX;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use types::LeaseId;

/// One lease and the keys attached to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The ID of the lease.
    pub id: LeaseId,
    /// The granted TTL, seconds; at least the table's minimum.
    pub ttl: i64,
    /// The remaining TTL by the last checkpoint, seconds; 0 = the full TTL.
    pub remaining_ttl: i64,
    keys: BTreeSet<Bytes>,
}

impl Lease {
    /// A lease without attached keys.
    pub fn new(id: LeaseId, ttl: i64, remaining_ttl: i64) -> Self {
        Self { id, ttl, remaining_ttl, keys: BTreeSet::new() }
    }

    /// The attached keys, in byte order (etcd guarantees none).
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        self.keys.iter()
    }

    /// The attached keys after this one, in byte order; with `None`, all. For reading many in pieces.
    pub fn keys_after(&self, after: Option<&[u8]>) -> impl Iterator<Item = &Bytes> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.keys.range::<[u8], _>((from, Bound::Unbounded))
    }
}

/// Why a lease was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// ID 0 means "no lease": the server must choose an ID before it proposes. etcd answers "not found".
    #[error("lease not found")]
    NoId,
    /// The ID is in use.
    #[error("lease already exists")]
    Exists,
    /// The TTL exceeds [`TTL_MAX`].
    #[error("too large lease TTL")]
    TtlTooLarge,
}

/// No lease has this ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lease {0:x} is unknown")]
pub struct UnknownLease(pub LeaseId);

/// All leases. Memory: about 100 bytes a lease and 32 per attached key, besides the keys' shared bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    leases: BTreeMap<LeaseId, Lease>,
    ttl_min: i64,
}

impl Table {
    /// An empty table; grants below `ttl_min` seconds are raised to it.
    pub fn new(ttl_min: i64) -> Self {
        Self { leases: BTreeMap::new(), ttl_min }
    }

    /// Adds a stored lease, raised to the minimum TTL as in etcd's recovery.
    pub fn restore(&mut self, mut lease: Lease) {
        lease.ttl = lease.ttl.max(self.ttl_min);
        self.leases.insert(lease.id, lease);
    }

    /// Grants a lease. Checks in etcd's order (`lessor.Grant`): ID, TTL, then the table.
    pub fn grant(&mut self, id: LeaseId, ttl: i64) -> Result<&Lease, GrantError> {
        if id == 0 {
            return Err(GrantError::NoId);
        }
        if ttl > TTL_MAX {
            return Err(GrantError::TtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(GrantError::Exists);
        }
        Ok(self.leases.entry(id).or_insert(Lease::new(id, ttl.max(self.ttl_min), 0)))
    }

    /// Removes the lease and returns the keys to delete, in byte order.
    pub fn revoke(&mut self, id: LeaseId) -> Result<Vec<Bytes>, UnknownLease> {
        let lease = self.leases.remove(&id).ok_or(UnknownLease(id))?;
        Ok(lease.keys.into_iter().collect())
    }

    /// Attaches a key to a lease.
    pub fn attach(&mut self, id: LeaseId, key: Bytes) -> Result<(), UnknownLease> {
        let lease = self.leases.get_mut(&id).ok_or(UnknownLease(id))?;
        lease.keys.insert(key);
        Ok(())
    }

    /// Detaches a key from a lease; no effect if the lease is gone (it is being revoked).
    pub fn detach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// Stores a remaining TTL; `None` if the lease is gone, which etcd ignores.
    pub fn checkpoint(&mut self, id: LeaseId, remaining_ttl: i64) -> Option<&Lease> {
        let lease = self.leases.get_mut(&id)?;
        lease.remaining_ttl = remaining_ttl;
        Some(lease)
    }

    /// Whether a lease has this ID.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// The lease with this ID.
    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// All leases, in order of ID.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The IDs after this one, ascending; with `None`, all.
    pub fn ids_after(&self, after: Option<LeaseId>) -> impl Iterator<Item = LeaseId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.leases.range((from, Bound::Unbounded)).map(|(id, _)| *id)
    }

    /// The number of leases.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there are no leases.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL_MIN: i64 = 2;

    fn granted(ids: &[LeaseId]) -> Table {
        let mut table = Table::new(TTL_MIN);
        for id in ids {
            table.grant(*id, 60).expect("free");
        }
        table
    }

    fn check_grant(id: LeaseId, ttl: i64, expected: Result<i64, GrantError>) {
        let mut table = granted(&[7]);
        assert_eq!(table.grant(id, ttl).map(|lease| lease.ttl), expected, "grant {id} for {ttl}");
    }

    #[test]
    fn a_grant_is_lengthened_to_the_minimum_and_refused_as_etcd_does() {
        check_grant(1, 60, Ok(60));
        check_grant(1, 1, Ok(TTL_MIN));
        check_grant(1, -5, Ok(TTL_MIN));
        check_grant(1, TTL_MAX, Ok(TTL_MAX));
        check_grant(1, TTL_MAX + 1, Err(GrantError::TtlTooLarge));
        check_grant(0, TTL_MAX + 1, Err(GrantError::NoId));
        check_grant(7, TTL_MAX + 1, Err(GrantError::TtlTooLarge));
        check_grant(7, 60, Err(GrantError::Exists));
    }

    #[test]
    fn a_revoke_hands_out_the_keys_in_byte_order_and_only_once() {
        let mut table = granted(&[7]);
        for key in ["b", "a\0", "a", "c"] {
            table.attach(7, Bytes::from_static(key.as_bytes())).expect("granted");
        }
        table.detach(7, b"c");
        table.detach(8, b"a");
        assert_eq!(table.revoke(7), Ok(vec![Bytes::from("a"), Bytes::from("a\0"), Bytes::from("b")]));
        assert_eq!(table.revoke(7), Err(UnknownLease(7)));
        assert_eq!(table.attach(7, Bytes::from("a")), Err(UnknownLease(7)));
    }

    #[test]
    fn keys_are_listed_from_behind_the_last_on() {
        let mut table = granted(&[7]);
        for key in ["b", "a", "c"] {
            table.attach(7, Bytes::from_static(key.as_bytes())).expect("granted");
        }
        let lease = table.get(7).expect("granted");
        let listed = |after: Option<&str>| {
            lease.keys_after(after.map(str::as_bytes)).map(|key| key[0]).collect::<Vec<_>>()
        };
        assert_eq!(
            (listed(None), listed(Some("a")), listed(Some("b\0"))),
            (vec![b'a', b'b', b'c'], vec![b'b', b'c'], vec![b'c'])
        );
    }

    #[test]
    fn ids_are_listed_from_behind_the_last_on() {
        let table = granted(&[7, -3, 9]);
        let listed = |after| table.ids_after(after).collect::<Vec<_>>();
        assert_eq!((listed(None), listed(Some(-3)), listed(Some(8))), (vec![-3, 7, 9], vec![7, 9], vec![9]));
        assert_eq!(listed(Some(LeaseId::MAX)), []);
    }

    #[test]
    fn a_checkpoint_of_an_unknown_lease_is_passed_over() {
        let mut table = granted(&[7]);
        assert_eq!(table.checkpoint(8, 5), None);
        assert_eq!(table.checkpoint(7, 5).map(|lease| lease.remaining_ttl), Some(5));
        assert_eq!(table.get(7).map(|lease| (lease.ttl, lease.remaining_ttl)), Some((60, 5)));
    }

    #[test]
    fn a_stored_lease_below_a_raised_minimum_is_lengthened() {
        let mut table = Table::new(10);
        table.restore(Lease::new(3, 2, 1));
        assert_eq!(table.get(3).map(|lease| lease.ttl), Some(10));
    }
}
