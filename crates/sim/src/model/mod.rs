//! The model: the key space as plainly as possible, with the whole state after every revision.

mod range;
mod txn;

use bytes::Bytes;
use machine::{Command, Refusal, Response};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmType, response_op};
use proto::mvccpb::KeyValue;
use std::collections::{BTreeMap, BTreeSet};
use txn::Writing;

type Keys = BTreeMap<Bytes, KeyValue>;

/// The key space of a cluster that never fails.
#[derive(Debug)]
pub(crate) struct Model {
    revision: i64,
    compact: i64,
    now: Keys,
    leases: BTreeSet<i64>,
    alarms: BTreeSet<(i32, u64)>,
    /// The keys after revision n + 1.
    history: Vec<Keys>,
    changes: Vec<Change>,
    compactions: BTreeSet<i64>,
}

/// A change as a watcher sees it: the key afterwards; if deleted, only key and mod revision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) delete: bool,
    pub(crate) kv: KeyValue,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            revision: 1,
            compact: -1,
            now: Keys::new(),
            leases: BTreeSet::new(),
            alarms: BTreeSet::new(),
            history: vec![Keys::new()],
            changes: Vec::new(),
            compactions: BTreeSet::new(),
        }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    pub(crate) fn compact(&self) -> i64 {
        self.compact
    }

    /// What the request answers, and does.
    pub(crate) fn apply(&mut self, command: &Command) -> Result<Response, Refusal> {
        if let Command::Alarm(alarm) = command {
            return Ok(self.alarm(*alarm));
        }
        if let Command::LeaseCheckpoint(_) = command {
            let header = header(self.revision);
            return Ok(Response::LeaseCheckpoint(pb::LeaseCheckpointResponse { header }));
        }
        if self.has_alarm(AlarmType::Corrupt) {
            return Err(Refusal::Corrupt);
        }
        if self.has_alarm(AlarmType::Nospace) && costs(command) {
            return Err(Refusal::NoSpace);
        }
        match command {
            Command::Compaction(compaction) => self.compact_to(compaction.revision),
            Command::LeaseGrant(grant) => self.grant(*grant),
            Command::Range(range) => self.range(range, self.revision, self.compact).map(Response::Range),
            command => self.write(command),
        }
    }

    /// What changes keys, in one revision.
    fn write(&mut self, command: &Command) -> Result<Response, Refusal> {
        let mut writing = Writing::begin(self);
        let response = match command {
            Command::Put(put) => {
                writing.check_put(put)?;
                Response::Put(writing.put(put))
            }
            Command::DeleteRange(delete) => Response::DeleteRange(writing.delete(delete)),
            Command::Txn(txn) => Response::Txn(writing.txn(txn)?),
            Command::LeaseRevoke(revoke) => Response::LeaseRevoke(writing.revoke(revoke.id)?),
            other => unreachable!("no client asks it: {other:?}"),
        };
        let (keys, changes) = writing.end();
        if let Command::LeaseRevoke(revoke) = command {
            self.leases.remove(&revoke.id);
        }
        if !changes.is_empty() {
            self.now = keys;
            self.history.push(self.now.clone());
            self.changes.extend(changes);
            self.revision += 1;
        }
        Ok(response)
    }

    pub(crate) fn has_alarm(&self, kind: AlarmType) -> bool {
        self.alarms.iter().any(|(raised, _)| *raised == kind as i32)
    }

    pub(crate) fn alarms(&self) -> &BTreeSet<(i32, u64)> {
        &self.alarms
    }

    fn alarm(&mut self, request: pb::AlarmRequest) -> Response {
        let alarm = (request.alarm, request.member_id);
        let listed: Vec<(i32, u64)> = match request.action() {
            AlarmAction::Get => {
                let all = request.alarm() == AlarmType::None;
                self.alarms.iter().copied().filter(|(kind, _)| all || *kind == request.alarm).collect()
            }
            AlarmAction::Activate if request.alarm() == AlarmType::None => Vec::new(),
            AlarmAction::Activate => {
                self.alarms.insert(alarm);
                vec![alarm]
            }
            AlarmAction::Deactivate => self.alarms.take(&alarm).into_iter().collect(),
        };
        let member = |(alarm, member_id)| pb::AlarmMember { member_id, alarm };
        let alarms = listed.into_iter().map(member).collect();
        Response::Alarm(pb::AlarmResponse { header: header(self.revision), alarms })
    }

    fn grant(&mut self, grant: pb::LeaseGrantRequest) -> Result<Response, Refusal> {
        if !self.leases.insert(grant.id) {
            return Err(Refusal::LeaseExists);
        }
        Ok(Response::LeaseGrant(pb::LeaseGrantResponse {
            header: header(self.revision),
            id: grant.id,
            ttl: grant.ttl,
            ..Default::default()
        }))
    }

    fn compact_to(&mut self, revision: i64) -> Result<Response, Refusal> {
        if revision <= self.compact {
            return Err(Refusal::Compacted);
        }
        if revision > self.revision {
            return Err(Refusal::FutureRevision);
        }
        self.compact = revision;
        self.compactions.insert(revision);
        Ok(Response::Compaction(pb::CompactionResponse { header: header(self.revision) }))
    }

    /// The changes from a revision on, and whether each must still exist: of a compacted revision, only the last
    /// change of each key must.
    pub(crate) fn changes_from(&self, revision: i64) -> impl Iterator<Item = (&Change, bool)> {
        let from = self.changes.partition_point(|change| change.kv.mod_revision < revision);
        let changes = &self.changes[from..];
        changes.iter().enumerate().map(|(at, change)| {
            let main = change.kv.mod_revision;
            let mut later = changes[at + 1..].iter().take_while(|later| later.kv.mod_revision == main);
            let is_last = later.all(|later| later.kv.key != change.kv.key);
            (change, is_last || !self.compactions.contains(&main))
        })
    }

    pub(crate) fn before(&self, change: &Change) -> Option<&KeyValue> {
        let at = usize::try_from(change.kv.mod_revision - 2).expect("nothing changes before revision 2");
        self.history[at].get(&change.kv.key)
    }

    /// The answer to a range on a member that has applied up to this revision and compaction.
    pub(crate) fn range(
        &self,
        request: &pb::RangeRequest,
        revision: i64,
        compact: i64,
    ) -> Result<pb::RangeResponse, Refusal> {
        let at = if request.revision <= 0 { revision } else { request.revision };
        if at > revision {
            return Err(Refusal::FutureRevision);
        }
        if at < compact {
            return Err(Refusal::Compacted);
        }
        Ok(range::select(self.at(at), request, revision))
    }

    /// The answer to a read-only transaction on such a member.
    pub(crate) fn read_txn(
        &self,
        request: &pb::TxnRequest,
        revision: i64,
        compact: i64,
    ) -> Result<pb::TxnResponse, Refusal> {
        Writing::reading(self, revision, compact).txn(request)
    }

    fn at(&self, revision: i64) -> &Keys {
        let keys = usize::try_from(revision - 1).ok().and_then(|at| self.history.get(at));
        keys.expect("a revision between 1 and the newest")
    }
}

/// The answer on a member where nobody waits: without rows that would have to be read.
pub(crate) fn without_rows(response: &Response) -> Response {
    match response.clone() {
        Response::Txn(txn) => Response::Txn(strip(&txn)),
        Response::Put(put) => Response::Put(pb::PutResponse { prev_kv: None, ..put }),
        Response::DeleteRange(delete) => {
            Response::DeleteRange(pb::DeleteRangeResponse { prev_kvs: Vec::new(), ..delete })
        }
        other => other,
    }
}

fn strip(txn: &pb::TxnResponse) -> pb::TxnResponse {
    let mut txn = txn.clone();
    for op in &mut txn.responses {
        match &mut op.response {
            Some(response_op::Response::ResponseRange(range)) => {
                *range = pb::RangeResponse { header: range.header.take(), ..Default::default() };
            }
            Some(response_op::Response::ResponsePut(put)) => put.prev_kv = None,
            Some(response_op::Response::ResponseDeleteRange(delete)) => delete.prev_kvs.clear(),
            Some(response_op::Response::ResponseTxn(inner)) => *inner = strip(inner),
            _ => {}
        }
    }
    txn
}

#[expect(clippy::unnecessary_wraps, reason = "the wire's headers are optional")]
fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

/// Whether it takes room in the store.
fn costs(command: &Command) -> bool {
    match command {
        Command::Put(_) | Command::LeaseGrant(_) => true,
        Command::Txn(txn) => machine::txn_cost(txn) > 0,
        _ => false,
    }
}
