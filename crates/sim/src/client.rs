//! The clients: what they ask, drawn from the seed.

use crate::rng::Rng;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::raftpb;

/// Leases that the clients know of.
const LEASES: u64 = 4;
/// What they are granted for, in seconds: shorter and longer than what goes wrong.
const TTLS: [i64; 4] = [2, 3, 8, 30];
/// How deep transactions nest.
const DEPTH_MAX: u64 = 2;

/// One request of a client.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Through the log.
    Write(Box<pb::InternalRaftRequest>),
    /// A change of members.
    Change(raftpb::ConfChange),
    /// A lease is to go on.
    KeepAlive(i64),
    /// What is newest, from any member.
    Read(pb::RangeRequest),
    /// What the member has.
    Serializable(pb::RangeRequest),
}

/// Draws requests: few keys, so that they meet.
#[derive(Debug)]
pub(crate) struct Workload {
    keys: u64,
    values: u64,
    value_bytes_max: u64,
    writes_per_mille: u64,
    keepalives_per_mille: u64,
    kept: i64,
    grants_percent: u64,
    revokes_percent: u64,
}

impl Workload {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        Self {
            keys: *rng.pick(&[3, 8, 20]),
            values: 0,
            value_bytes_max: *rng.pick(&[16, 16, 200, 3000]),
            writes_per_mille: *rng.pick(&[300, 600, 800]),
            keepalives_per_mille: *rng.pick(&[100, 500, 900]),
            kept: 1,
            grants_percent: 4,
            revokes_percent: 2,
        }
    }

    /// Turns the workload to leases.
    pub(crate) fn of_leases(self) -> Self {
        Self {
            writes_per_mille: 300,
            keepalives_per_mille: 900,
            grants_percent: 50,
            revokes_percent: 12,
            ..self
        }
    }

    /// The next request of somebody who has seen this revision.
    pub(crate) fn ask(&mut self, rng: &mut Rng, seen: i64) -> Ask {
        if rng.per_mille(self.writes_per_mille) {
            return Ask::Write(Box::new(self.write(rng, seen)));
        }
        if rng.per_mille(self.keepalives_per_mille) {
            // One is kept alive for a while, the others are left to end.
            if rng.one_in(30) {
                self.kept = lease(rng);
            }
            return Ask::KeepAlive(self.kept);
        }
        let (key, range_end) = self.range(rng);
        let revision = if rng.one_in(5) { old(rng, seen) } else { 0 };
        let range = pb::RangeRequest { key, range_end, revision, ..Default::default() };
        if rng.one_in(4) {
            Ask::Serializable(pb::RangeRequest { serializable: true, ..range })
        } else {
            Ask::Read(range)
        }
    }

    fn write(&mut self, rng: &mut Rng, seen: i64) -> pb::InternalRaftRequest {
        let mut request = pb::InternalRaftRequest::default();
        // Of a hundred, what grants and revokes have more than their places is taken from the others.
        let (grants, revokes) = (self.grants_percent - 4, self.revokes_percent - 2);
        let kind = match rng.below(100) {
            kind if kind < grants => 88,
            kind if kind < grants + revokes => 92,
            kind => kind,
        };
        match kind {
            0..50 => request.put = Some(self.put(rng)),
            50..60 => request.delete_range = Some(self.delete(rng)),
            60..88 => request.txn = Some(self.txn(rng, seen, 0)),
            88..92 => {
                let id = lease(rng);
                return grant(rng, id);
            }
            92..94 => request.lease_revoke = Some(pb::LeaseRevokeRequest { id: lease(rng) }),
            _ => {
                let revision = old(rng, seen);
                request.compaction = Some(pb::CompactionRequest { revision, physical: false });
            }
        }
        request
    }

    fn key(&self, rng: &mut Rng) -> bytes::Bytes {
        format!("k{:02}", rng.below(self.keys)).into()
    }

    fn range(&self, rng: &mut Rng) -> (bytes::Bytes, bytes::Bytes) {
        let key = self.key(rng);
        match rng.below(4) {
            0 => (key, bytes::Bytes::from_static(b"\0")),
            1 => (key, self.key(rng)),
            _ => (key, bytes::Bytes::new()),
        }
    }

    /// Every value is another, so that a lost or doubled write shows.
    fn put(&mut self, rng: &mut Rng) -> pb::PutRequest {
        self.values += 1;
        let mut value = format!("v{}", self.values).into_bytes();
        let length = usize::try_from(rng.below(self.value_bytes_max)).expect("a few bytes");
        value.resize(value.len().max(length), b'.');
        let prev_kv = rng.one_in(4);
        let lease = if rng.one_in(6) { lease(rng) } else { 0 };
        pb::PutRequest { key: self.key(rng), value: value.into(), prev_kv, lease, ..Default::default() }
    }

    fn delete(&mut self, rng: &mut Rng) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.range(rng);
        pb::DeleteRangeRequest { key, range_end, prev_kv: rng.one_in(2) }
    }

    fn txn(&mut self, rng: &mut Rng, seen: i64, depth: u64) -> pb::TxnRequest {
        let compare = (0..rng.below(3)).map(|_| self.compare(rng, seen)).collect();
        let success = self.branch(rng, seen, depth);
        let failure = self.branch(rng, seen, depth);
        pb::TxnRequest { compare, success, failure }
    }

    /// Puts and deletes of one key in one branch, in any order: the API refuses some of them, the machine must not care.
    fn branch(&mut self, rng: &mut Rng, seen: i64, depth: u64) -> Vec<pb::RequestOp> {
        let mut ops = Vec::new();
        for _ in 0..rng.below(4) {
            let request = match rng.below(10) {
                0..5 => Request::RequestPut(self.put(rng)),
                5..7 => Request::RequestDeleteRange(self.delete(rng)),
                7.. if depth == DEPTH_MAX || rng.one_in(2) => {
                    let (key, range_end) = self.range(rng);
                    Request::RequestRange(pb::RangeRequest { key, range_end, ..Default::default() })
                }
                _ => Request::RequestTxn(self.txn(rng, seen, depth + 1)),
            };
            ops.push(pb::RequestOp { request: Some(request) });
        }
        ops
    }

    fn compare(&mut self, rng: &mut Rng, seen: i64) -> pb::Compare {
        let (target, union) = match rng.below(3) {
            0 => (CompareTarget::Mod, TargetUnion::ModRevision(old(rng, seen))),
            1 => (CompareTarget::Version, TargetUnion::Version(i64::from(rng.one_in(2)))),
            _ => {
                (CompareTarget::Value, TargetUnion::Value(format!("v{}", rng.below(self.values + 1)).into()))
            }
        };
        let results =
            [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Greater, CompareResult::Less];
        let result = *rng.pick(&results) as i32;
        let key = self.key(rng);
        pb::Compare { result, target: target as i32, key, target_union: Some(union), ..Default::default() }
    }
}

/// What somebody asks for who does not wait for the answer to this: a lease goes, and comes back with the same ID.
pub(crate) fn and_then(rng: &mut Rng, ask: &Ask) -> Option<Ask> {
    let Ask::Write(request) = ask else { return None };
    let id = request.lease_revoke.as_ref().filter(|_| rng.one_in(2))?.id;
    Some(Ask::Write(Box::new(grant(rng, id))))
}

fn grant(rng: &mut Rng, id: i64) -> pb::InternalRaftRequest {
    let grant = pb::LeaseGrantRequest { id, ttl: *rng.pick(&TTLS) };
    pb::InternalRaftRequest { lease_grant: Some(grant), ..Default::default() }
}

fn lease(rng: &mut Rng) -> i64 {
    i64::try_from(rng.between(1, LEASES)).expect("a small number")
}

/// A revision in the recent past, mostly; now and then one of the future.
fn old(rng: &mut Rng, seen: i64) -> i64 {
    let back = i64::try_from(rng.below(40)).expect("a small number");
    (seen + 2 - back).max(1)
}
