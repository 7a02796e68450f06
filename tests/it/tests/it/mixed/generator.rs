//! Requests of every kind that the log knows, from one seed.
//!
//! Among them are those that every member must refuse alike: keys that are not there, leases that nobody granted,
//! revisions that are compacted or yet to come. What etcd's own members do not survive is left out:
//! * a put that keeps the value or lease of a key which the same transaction deletes;
//! * a put after a delete of all keys from one on in the same transaction, which etcd does not take for an overlap: once
//!   compacted at exactly that revision, whoever reads the key ends the process.

use bytes::Bytes;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, compare, request_op,
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

/// Every key begins with it.
pub(super) const PREFIX: &str = "mixed/";

/// A revision at which no compaction ends, and which later ones compact: none of it is left, not even a hash.
pub(super) const COMPACTED: i64 = 1;

/// The end of the range of all keys from one on.
const FROM_KEY: Bytes = Bytes::from_static(b"\0");

/// Keys: few enough that requests meet.
const KEYS: u32 = 300;

/// How deep transactions nest.
const DEPTH_MAX: u32 = 3;

/// Operations of one branch.
const OPS_MAX: usize = 4;

/// Leases one worker holds at a time.
const LEASES_MAX: usize = 8;

/// A request to one member.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Range(RangeRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
}

/// What a transaction may hold, so that no member of any kind ends with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// Puts that keep something, no deletes.
    Keeping,
    /// Deletes, no puts that keep something.
    Deleting,
}

/// Draws the requests of one worker.
#[derive(Debug)]
pub(super) struct Generator {
    random: SmallRng,
    worker: u32,
    made: u32,
    leases: Vec<i64>,
}

impl Generator {
    pub(super) fn new(seed: u64, worker: u32) -> Self {
        let random = SmallRng::seed_from_u64(seed ^ (u64::from(worker) << 32));
        Self { random, worker, made: 0, leases: Vec::new() }
    }

    /// The next request; `revision` is about the newest, `leader` is any random number's source too.
    pub(super) fn next(&mut self, revision: i64) -> Ask {
        self.made += 1;
        match self.random.random_range(0..100) {
            0..42 => Ask::Put(self.put(None)),
            42..55 => Ask::Delete(self.delete()),
            55..78 => {
                let writes = if self.random.random_ratio(1, 2) { Writes::Keeping } else { Writes::Deleting };
                Ask::Txn(self.txn(DEPTH_MAX, writes, revision))
            }
            78..86 => Ask::Range(self.range(revision)),
            86..93 => Ask::Grant(self.grant()),
            93..98 => Ask::Revoke(self.revoke()),
            _ => Ask::Compact(self.compaction(revision)),
        }
    }

    fn compaction(&mut self, revision: i64) -> CompactionRequest {
        let revision = revision - self.random.random_range(-3..400);
        CompactionRequest {
            revision: if revision == COMPACTED { 0 } else { revision },
            physical: self.random.random_ratio(1, 2),
        }
    }

    /// Which of so many members is asked.
    pub(super) fn member(&mut self, members: usize) -> usize {
        self.random.random_range(0..members)
    }

    fn key(&mut self) -> Bytes {
        let number = self.random.random_range(0..KEYS);
        // Keys that are prefixes of each other, and bytes that no text holds.
        match number % 10 {
            0 => Bytes::from([PREFIX.as_bytes(), &[0xff, 0, (number / 10).to_be_bytes()[3]]].concat()),
            1 => format!("{PREFIX}{number:03}/").into(),
            2 => format!("{PREFIX}{:03}", number - 1).into(),
            _ => format!("{PREFIX}{number:03}").into(),
        }
    }

    fn put(&mut self, writes: Option<Writes>) -> PutRequest {
        let keeps = writes != Some(Writes::Deleting);
        let ignore_value = keeps && self.random.random_ratio(1, 20);
        let ignore_lease = keeps && self.random.random_ratio(1, 20);
        // Seldom one that fills a message of its own.
        let length = match self.random.random_range(0..1_000) {
            0 => 1_000_000,
            1..20 => 20_000,
            _ => self.random.random_range(0..200),
        };
        let text = format!("{}.{}.", self.worker, self.made);
        let value = text.bytes().cycle().take(length).collect::<Vec<u8>>();
        PutRequest {
            key: self.key(),
            value: if ignore_value { Bytes::new() } else { value.into() },
            lease: if ignore_lease { 0 } else { self.lease() },
            prev_kv: self.random.random_ratio(1, 3),
            ignore_value,
            ignore_lease,
        }
    }

    /// Mostly none; a lease of this worker's; now and then one that nobody granted.
    fn lease(&mut self) -> i64 {
        match self.random.random_range(0..20) {
            0..5 if !self.leases.is_empty() => self.leases[self.random.random_range(0..self.leases.len())],
            5 => self.random.random_range(1..9),
            _ => 0,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let key = self.key();
        let range_end = self.end(&key);
        DeleteRangeRequest { key, range_end, prev_kv: self.random.random_ratio(1, 3) }
    }

    /// None, the end of a short range, of all keys with this prefix, or (seldom) of everything after.
    fn end(&mut self, key: &Bytes) -> Bytes {
        match self.random.random_range(0..40) {
            0..24 => Bytes::new(),
            24..32 => Bytes::from([&key[..], b"\xff"].concat()),
            32..39 => {
                let other = self.key();
                other.max(key.clone())
            }
            _ => FROM_KEY,
        }
    }

    fn range(&mut self, revision: i64) -> RangeRequest {
        let key = self.key();
        let range_end = self.end(&key);
        let revision = match self.random.random_range(0..10) {
            0..7 => 0,
            _ => (revision - self.random.random_range(-2..300)).max(0),
        };
        RangeRequest { key, range_end, revision, limit: 10, ..Default::default() }
    }

    fn txn(&mut self, depth: u32, writes: Writes, revision: i64) -> TxnRequest {
        let compare = (0..self.random.random_range(0..3)).map(|_| self.compare(revision)).collect();
        TxnRequest {
            compare,
            success: self.branch(depth, writes, revision),
            failure: self.branch(depth, writes, revision),
        }
    }

    fn branch(&mut self, depth: u32, writes: Writes, revision: i64) -> Vec<RequestOp> {
        let ops = self.random.random_range(0..=OPS_MAX);
        let request = |request| RequestOp { request: Some(request) };
        (0..ops)
            .map(|_| match self.random.random_range(0..10) {
                0..2 if depth > 0 => {
                    request(request_op::Request::RequestTxn(self.txn(depth - 1, writes, revision)))
                }
                2..4 => request(request_op::Request::RequestRange(self.range(revision))),
                4..6 if writes == Writes::Deleting => {
                    let mut delete = self.delete();
                    if delete.range_end == FROM_KEY {
                        delete.range_end = Bytes::new();
                    }
                    request(request_op::Request::RequestDeleteRange(delete))
                }
                _ => request(request_op::Request::RequestPut(self.put(Some(writes)))),
            })
            .collect()
    }

    fn compare(&mut self, revision: i64) -> Compare {
        let near = revision - self.random.random_range(0..200);
        let (target, union) = match self.random.random_range(0..5) {
            0 => {
                let version = self.random.random_range(0..5);
                (compare::CompareTarget::Version, compare::TargetUnion::Version(version))
            }
            1 => (compare::CompareTarget::Create, compare::TargetUnion::CreateRevision(near)),
            2 => (compare::CompareTarget::Mod, compare::TargetUnion::ModRevision(near)),
            3 => (compare::CompareTarget::Value, compare::TargetUnion::Value(Bytes::from_static(b"4"))),
            _ => (compare::CompareTarget::Lease, compare::TargetUnion::Lease(self.lease())),
        };
        let result = match self.random.random_range(0..4) {
            0 => compare::CompareResult::Equal,
            1 => compare::CompareResult::Greater,
            2 => compare::CompareResult::Less,
            _ => compare::CompareResult::NotEqual,
        };
        let key = self.key();
        let range_end = self.end(&key);
        Compare { key, range_end, target: target.into(), result: result.into(), target_union: Some(union) }
    }

    /// Of a lease that is new, or (seldom) one that is there. Half of them end within the test if nobody renews them.
    fn grant(&mut self) -> LeaseGrantRequest {
        let ttl = if self.random.random_ratio(1, 2) { 2 } else { 3_600 };
        if let Some(id) = self.leases.first().filter(|_| self.random.random_ratio(1, 10)) {
            return LeaseGrantRequest { ttl, id: *id };
        }
        let id = (i64::from(self.worker) + 1) << 32 | i64::from(self.made);
        if self.leases.len() == LEASES_MAX {
            self.leases.remove(0);
        }
        self.leases.push(id);
        LeaseGrantRequest { ttl, id }
    }

    /// One of ours, which later requests still name; or one that is not there.
    fn revoke(&mut self) -> LeaseRevokeRequest {
        let id = if self.leases.is_empty() || self.random.random_ratio(1, 10) {
            77
        } else {
            self.leases[self.random.random_range(0..self.leases.len())]
        };
        LeaseRevokeRequest { id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_requests_and_every_kind() {
        let made = |seed| {
            let mut generator = Generator::new(seed, 1);
            (0..500).map(|at| format!("{:?}", generator.next(100 + at))).collect::<Vec<_>>()
        };
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
        for kind in ["Put", "Delete", "Txn", "Range", "Compact", "Grant", "Revoke"] {
            assert!(made(1).iter().any(|ask| ask.starts_with(kind)), "{kind} never comes");
        }
    }
}
