//! The clients' requests, drawn from the seed.

use crate::drawn::count_draw;
use crate::rng::Rng;
use bytes::Bytes;
use machine::Command;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::AlarmType;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::raftpb;

/// TTLs of leases, seconds: shorter and longer than typical faults.
const TTLS: [i64; 4] = [2, 3, 8, 30];
/// The client for requests of members and operators, which nobody waits for.
pub(crate) const NOBODY: usize = usize::MAX;
const DEPTH_MAX: u64 = 2;

#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// A request that goes through the log.
    Write(Box<Command>),
    /// A change of members.
    Change(raftpb::ConfChange),
    KeepAlive(i64),
    Read(Box<Question>),
}

#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) what: What,
    /// Whether it is linearizable; otherwise the member's own state answers.
    pub(crate) linearizable: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Range(pb::RangeRequest),
    Txn(pb::TxnRequest),
}

/// Draws requests. There are few keys, so that requests collide.
#[derive(Debug)]
pub(crate) struct Workload {
    keys: u64,
    values: u64,
    value_bytes_max: u64,
    writes_per_mille: u64,
    keepalives_per_mille: u64,
    leases: u64,
    /// The lease that is kept alive, and for how many keepalives on the average.
    kept: i64,
    kept_for: u64,
    grants_percent: u64,
    revokes_percent: u64,
}

impl Workload {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let leases = *rng.pick(&[4, 4, 4, 60]);
        if leases > 4 {
            count_draw("many leases");
        }
        Self {
            keys: *rng.pick(&[3, 8, 20]),
            values: 0,
            value_bytes_max: *rng.pick(&[16, 16, 200, 3000]),
            writes_per_mille: *rng.pick(&[300, 600, 800]),
            keepalives_per_mille: *rng.pick(&[100, 500, 900]),
            leases,
            kept: 1,
            kept_for: 30,
            grants_percent: 4,
            revokes_percent: 2,
        }
    }

    pub(crate) fn focus_on_leases(&mut self) {
        self.writes_per_mille = 300;
        self.keepalives_per_mille = 900;
        self.leases = 4;
        self.kept_for = 8;
        self.grants_percent = 50;
        self.revokes_percent = 12;
    }

    pub(crate) fn focus_on_reads(&mut self) {
        self.writes_per_mille = 400;
        self.keepalives_per_mille = 0;
    }

    /// The next request of a client that has seen this revision.
    pub(crate) fn ask(&mut self, rng: &mut Rng, seen: i64) -> Ask {
        if rng.per_mille(self.writes_per_mille) {
            return Ask::Write(Box::new(self.write(rng, seen)));
        }
        if rng.per_mille(self.keepalives_per_mille) {
            count_draw("keepalive");
            // One lease is kept alive for a while, the others expire.
            if rng.one_in(self.kept_for) {
                self.kept = self.lease(rng);
            }
            return Ask::KeepAlive(self.kept);
        }
        let linearizable = !rng.one_in(4);
        count_draw(if linearizable { "linearizable read" } else { "serializable read" });
        let what = if rng.one_in(4) {
            count_draw("transaction that only reads");
            What::Txn(self.read_txn(rng, seen))
        } else {
            What::Range(self.range(rng, seen))
        };
        Ask::Read(Box::new(Question { what, linearizable }))
    }

    fn write(&mut self, rng: &mut Rng, seen: i64) -> Command {
        // Of a hundred, what grants and revokes have more than their places is taken from the others.
        let (grants, revokes) = (self.grants_percent - 4, self.revokes_percent - 2);
        let kind = match rng.below(100) {
            kind if kind < grants => 88,
            kind if kind < grants + revokes => 92,
            kind => kind,
        };
        match kind {
            0..48 => self.put(rng).into(),
            48..50 => {
                // As etcd's members do for some reads.
                count_draw("range in the log");
                self.range(rng, seen).into()
            }
            50..60 => self.delete(rng).into(),
            60..88 => self.txn(rng, seen, 0).into(),
            88..92 => {
                let id = self.lease(rng);
                grant(rng, id)
            }
            92..94 => {
                count_draw("revoke");
                pb::LeaseRevokeRequest { id: self.lease(rng) }.into()
            }
            _ => {
                count_draw("compaction");
                let revision = old(rng, seen);
                pb::CompactionRequest { revision, physical: false }.into()
            }
        }
    }

    fn key(&self, rng: &mut Rng) -> Bytes {
        format!("k{:02}", rng.below(self.keys)).into()
    }

    fn lease(&self, rng: &mut Rng) -> i64 {
        i64::try_from(rng.between(1, self.leases)).expect("a small number")
    }

    fn keys(&self, rng: &mut Rng) -> (Bytes, Bytes) {
        let key = self.key(rng);
        match rng.below(4) {
            0 => (key, Bytes::from_static(b"\0")),
            1 => (key, self.key(rng)),
            _ => (key, Bytes::new()),
        }
    }

    fn range(&self, rng: &mut Rng, seen: i64) -> pb::RangeRequest {
        let (key, range_end) = self.keys(rng);
        let mut range = pb::RangeRequest { key, range_end, ..Default::default() };
        if rng.one_in(5) {
            count_draw("old revision");
            range.revision = old(rng, seen);
        }
        if rng.one_in(3) {
            return range;
        }
        if rng.one_in(3) {
            count_draw("limit");
            range.limit = i64::try_from(rng.between(1, 4)).expect("a small number");
        }
        if rng.one_in(3) {
            count_draw("sort");
            let targets = [
                SortTarget::Key,
                SortTarget::Version,
                SortTarget::Create,
                SortTarget::Mod,
                SortTarget::Value,
            ];
            range.sort_target = *rng.pick(&targets) as i32;
            range.sort_order = *rng.pick(&[SortOrder::None, SortOrder::Ascend, SortOrder::Descend]) as i32;
        }
        if rng.one_in(4) {
            count_draw("filter");
            let bound = old(rng, seen);
            match rng.below(4) {
                0 => range.min_mod_revision = bound,
                1 => range.max_mod_revision = bound,
                2 => range.min_create_revision = bound,
                _ => range.max_create_revision = bound,
            }
        }
        match rng.below(8) {
            0 => {
                count_draw("count");
                range.count_only = true;
            }
            1 => {
                count_draw("keys only");
                range.keys_only = true;
            }
            _ => {}
        }
        range
    }

    /// Every value is unique, so that lost or repeated writes show.
    fn put(&mut self, rng: &mut Rng) -> pb::PutRequest {
        count_draw("put");
        self.values += 1;
        let mut value = format!("v{}", self.values).into_bytes();
        let length = usize::try_from(rng.below(self.value_bytes_max)).expect("a few bytes");
        value.resize(value.len().max(length), b'.');
        let prev_kv = rng.one_in(4);
        let lease = if rng.one_in(6) { self.lease(rng) } else { 0 };
        let put =
            pb::PutRequest { key: self.key(rng), value: value.into(), prev_kv, lease, ..Default::default() };
        match rng.below(20) {
            0 => {
                count_draw("put that keeps the value");
                pb::PutRequest { ignore_value: true, value: Bytes::new(), ..put }
            }
            1 => {
                count_draw("put that keeps the lease");
                pb::PutRequest { ignore_lease: true, lease: 0, ..put }
            }
            _ => put,
        }
    }

    fn delete(&mut self, rng: &mut Rng) -> pb::DeleteRangeRequest {
        count_draw("delete");
        let (key, range_end) = self.keys(rng);
        pb::DeleteRangeRequest { key, range_end, prev_kv: rng.one_in(2) }
    }

    fn read_txn(&self, rng: &mut Rng, seen: i64) -> pb::TxnRequest {
        let compare = (0..rng.below(3)).map(|_| self.compare(rng, seen)).collect();
        let mut branch = || {
            let range = |rng: &mut Rng| Some(Request::RequestRange(self.range(rng, seen)));
            (0..rng.below(4)).map(|_| pb::RequestOp { request: range(rng) }).collect()
        };
        pb::TxnRequest { compare, success: branch(), failure: branch() }
    }

    fn txn(&mut self, rng: &mut Rng, seen: i64, depth: u64) -> pb::TxnRequest {
        count_draw(if depth == 0 { "transaction" } else { "transaction in a transaction" });
        let compare = (0..rng.below(3)).map(|_| self.compare(rng, seen)).collect();
        let success = self.branch(rng, seen, depth);
        let failure = self.branch(rng, seen, depth);
        pb::TxnRequest { compare, success, failure }
    }

    /// Puts and deletes of one key in one branch, in any order: the API refuses some of them, but the machine must
    /// cope.
    fn branch(&mut self, rng: &mut Rng, seen: i64, depth: u64) -> Vec<pb::RequestOp> {
        let mut ops = Vec::new();
        for _ in 0..rng.below(4) {
            let request = match rng.below(10) {
                0..5 => Request::RequestPut(self.put(rng)),
                5..7 => Request::RequestDeleteRange(self.delete(rng)),
                7.. if depth == DEPTH_MAX || rng.one_in(2) => Request::RequestRange(self.range(rng, seen)),
                _ => Request::RequestTxn(self.txn(rng, seen, depth + 1)),
            };
            ops.push(pb::RequestOp { request: Some(request) });
        }
        ops
    }

    fn compare(&self, rng: &mut Rng, seen: i64) -> pb::Compare {
        let (target, union) = match rng.below(5) {
            0 => (CompareTarget::Mod, TargetUnion::ModRevision(old(rng, seen))),
            1 => (CompareTarget::Create, TargetUnion::CreateRevision(old(rng, seen))),
            2 => (CompareTarget::Version, TargetUnion::Version(i64::from(rng.one_in(2)))),
            3 => (CompareTarget::Lease, TargetUnion::Lease(self.lease(rng))),
            _ => {
                (CompareTarget::Value, TargetUnion::Value(format!("v{}", rng.below(self.values + 1)).into()))
            }
        };
        let results =
            [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Greater, CompareResult::Less];
        let result = *rng.pick(&results) as i32;
        let (key, range_end) = if rng.one_in(4) {
            count_draw("compare of a range");
            self.keys(rng)
        } else {
            (self.key(rng), Bytes::new())
        };
        pb::Compare { result, target: target as i32, key, range_end, target_union: Some(union) }
    }
}

pub(crate) fn alarm(action: AlarmAction, kind: AlarmType, member: u64) -> Ask {
    let alarm = pb::AlarmRequest { action: action as i32, member_id: member, alarm: kind as i32 };
    Ask::Write(Box::new(alarm.into()))
}

/// A follow-up sent without waiting for the answer: a lease is revoked and granted again under the same ID.
pub(crate) fn and_then(rng: &mut Rng, ask: &Ask) -> Option<Ask> {
    let Ask::Write(command) = ask else { return None };
    let Command::LeaseRevoke(revoke) = &**command else { return None };
    rng.one_in(2).then(|| Ask::Write(Box::new(grant(rng, revoke.id))))
}

fn grant(rng: &mut Rng, id: i64) -> Command {
    count_draw("grant");
    pb::LeaseGrantRequest { id, ttl: *rng.pick(&TTLS) }.into()
}

/// Mostly a recent revision, sometimes one in the future.
fn old(rng: &mut Rng, seen: i64) -> i64 {
    let back = i64::try_from(rng.below(40)).expect("a small number");
    (seen + 2 - back).max(1)
}
