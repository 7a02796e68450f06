//! What the key space must be, as plainly as it can be written: the state after every revision, kept whole.

use bytes::Bytes;
use machine::{Refusal, Response};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op;
use proto::mvccpb::KeyValue;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use types::KeyRange;

type Keys = BTreeMap<Bytes, KeyValue>;

/// The key space of a cluster that never fails.
#[derive(Debug)]
pub(crate) struct Model {
    revision: i64,
    compact: i64,
    now: Keys,
    leases: BTreeSet<i64>,
    /// The keys after revision n + 1.
    history: Vec<Keys>,
    /// Every change of every key, in order.
    changes: Vec<Change>,
    /// Every revision that was compacted.
    compactions: BTreeSet<i64>,
}

/// What a watcher is told of: a key as it is after; of a deleted one only key and mod revision.
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
    pub(crate) fn apply(&mut self, request: &pb::InternalRaftRequest) -> Result<Response, Refusal> {
        let main = self.revision + 1;
        let mut writing =
            Writing { main, wrote: false, keys: self.now.clone(), leases: &self.leases, changes: Vec::new() };
        let response = if let Some(put) = &request.put {
            writing.check_lease(put)?;
            Response::Put(writing.put(put))
        } else if let Some(delete) = &request.delete_range {
            Response::DeleteRange(writing.delete(delete))
        } else if let Some(txn) = &request.txn {
            let mut path = Vec::new();
            writing.choose(txn, &mut path);
            writing.check(txn, &mut path.iter())?;
            let mut response = writing.execute(txn, &mut path.iter());
            response.header = header(writing.revision());
            Response::Txn(response)
        } else if let Some(compaction) = &request.compaction {
            return self.compact_to(compaction.revision);
        } else if let Some(grant) = &request.lease_grant {
            return self.grant(grant);
        } else if let Some(revoke) = &request.lease_revoke {
            if !self.leases.contains(&revoke.id) {
                return Err(Refusal::LeaseNotFound);
            }
            let gone = writing.keys.extract_if(.., |_, kv| kv.lease == revoke.id).map(|(key, _)| key);
            let gone: Vec<Bytes> = gone.collect();
            writing.wrote = !gone.is_empty();
            writing.deleted(gone);
            Response::LeaseRevoke(pb::LeaseRevokeResponse { header: header(writing.revision()) })
        } else if request.lease_checkpoint.is_some() {
            let header = header(self.revision);
            return Ok(Response::LeaseCheckpoint(pb::LeaseCheckpointResponse { header }));
        } else {
            unreachable!("no client asks it: {request:?}")
        };
        let Writing { wrote, keys, changes, .. } = writing;
        if let Some(revoke) = &request.lease_revoke {
            self.leases.remove(&revoke.id);
        }
        if wrote {
            self.now = keys;
            self.history.push(self.now.clone());
            self.changes.extend(changes);
            self.revision = main;
        }
        Ok(response)
    }

    fn grant(&mut self, grant: &pb::LeaseGrantRequest) -> Result<Response, Refusal> {
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

    /// The changes from a revision on, and whether each must still be there: compaction may have taken all but the last
    /// change of a key in a revision that was compacted.
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

    /// A key as it was before the revision at which it changed.
    pub(crate) fn before(&self, change: &Change) -> Option<&KeyValue> {
        let at = usize::try_from(change.kv.mod_revision - 2).expect("nothing changes before revision 2");
        self.history[at].get(&change.kv.key)
    }

    /// What a range answers on a member that has applied up to this revision and compaction.
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
        let keys = usize::try_from(at - 1).ok().and_then(|at| self.history.get(at));
        let keys = keys.expect("a revision between 1 and the newest");
        Ok(select(keys, &request.key, &request.range_end, revision))
    }
}

/// The answer of a member on which nobody waits: it leaves out what would have to be read.
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

fn select(keys: &Keys, key: &Bytes, end: &Bytes, revision: i64) -> pb::RangeResponse {
    let range = KeyRange::from_wire(key.clone(), end.clone());
    let kvs: Vec<KeyValue> = keys.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
    pb::RangeResponse {
        header: header(revision),
        count: i64::try_from(kvs.len()).expect("a few keys"),
        kvs,
        more: false,
    }
}

/// The branch that was chosen for the next transaction.
fn branch<'t>(txn: &'t pb::TxnRequest, path: &mut std::slice::Iter<'_, bool>) -> (bool, &'t [pb::RequestOp]) {
    let succeeded = *path.next().expect("a branch was chosen for every transaction");
    (succeeded, if succeeded { &txn.success } else { &txn.failure })
}

/// One transaction under way.
struct Writing<'m> {
    main: i64,
    wrote: bool,
    keys: Keys,
    leases: &'m BTreeSet<i64>,
    changes: Vec<Change>,
}

impl Writing<'_> {
    fn deleted(&mut self, keys: impl IntoIterator<Item = Bytes>) {
        let mod_revision = self.main;
        let gone = |key| Change { delete: true, kv: KeyValue { key, mod_revision, ..Default::default() } };
        self.changes.extend(keys.into_iter().map(gone));
    }

    fn revision(&self) -> i64 {
        if self.wrote { self.main } else { self.main - 1 }
    }

    fn put(&mut self, put: &pb::PutRequest) -> pb::PutResponse {
        let previous = self.keys.get(&put.key).cloned();
        let kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: previous.as_ref().map_or(self.main, |kv| kv.create_revision),
            mod_revision: self.main,
            version: previous.as_ref().map_or(1, |kv| kv.version + 1),
            lease: put.lease,
        };
        self.changes.push(Change { delete: false, kv: kv.clone() });
        self.keys.insert(put.key.clone(), kv);
        self.wrote = true;
        pb::PutResponse { header: header(self.main), prev_kv: previous.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, delete: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let range = KeyRange::from_wire(delete.key.clone(), delete.range_end.clone());
        let gone: Vec<KeyValue> =
            self.keys.extract_if(.., |key, _| range.contains(key)).map(|(_, kv)| kv).collect();
        self.wrote |= !gone.is_empty();
        self.deleted(gone.iter().map(|kv| kv.key.clone()));
        pb::DeleteRangeResponse {
            header: header(self.revision()),
            deleted: i64::try_from(gone.len()).expect("a few keys"),
            prev_kvs: if delete.prev_kv { gone } else { Vec::new() },
        }
    }

    fn check_lease(&self, put: &pb::PutRequest) -> Result<(), Refusal> {
        let known = put.lease == 0 || self.leases.contains(&put.lease);
        if known { Ok(()) } else { Err(Refusal::LeaseNotFound) }
    }

    /// One refusal on the path refuses the whole transaction.
    fn check(&self, txn: &pb::TxnRequest, path: &mut std::slice::Iter<'_, bool>) -> Result<(), Refusal> {
        for op in branch(txn, path).1 {
            match &op.request {
                Some(Request::RequestPut(put)) => self.check_lease(put)?,
                Some(Request::RequestTxn(inner)) => self.check(inner, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Which branches are taken, all judged by the state before the transaction.
    fn choose(&self, txn: &pb::TxnRequest, path: &mut Vec<bool>) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in if succeeded { &txn.success } else { &txn.failure } {
            if let Some(Request::RequestTxn(inner)) = &op.request {
                self.choose(inner, path);
            }
        }
    }

    fn execute(&mut self, txn: &pb::TxnRequest, path: &mut std::slice::Iter<'_, bool>) -> pb::TxnResponse {
        let (succeeded, ops) = branch(txn, path);
        let responses = ops.iter().map(|op| pb::ResponseOp {
            response: op.request.as_ref().map(|request| match request {
                Request::RequestRange(range) => response_op::Response::ResponseRange(select(
                    &self.keys,
                    &range.key,
                    &range.range_end,
                    self.revision(),
                )),
                Request::RequestPut(put) => response_op::Response::ResponsePut(self.put(put)),
                Request::RequestDeleteRange(delete) => {
                    response_op::Response::ResponseDeleteRange(self.delete(delete))
                }
                Request::RequestTxn(inner) => response_op::Response::ResponseTxn(self.execute(inner, path)),
            }),
        });
        let responses = responses.collect();
        pb::TxnResponse { header: Some(pb::ResponseHeader::default()), succeeded, responses }
    }

    /// Only what the simulated clients ask: the mod revision, version or value of one key.
    fn holds(&self, compare: &pb::Compare) -> bool {
        let kv = self.keys.get(&compare.key);
        let ordering = match (CompareTarget::try_from(compare.target), &compare.target_union) {
            (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(asked))) => {
                kv.map_or(0, |kv| kv.mod_revision).cmp(asked)
            }
            (Ok(CompareTarget::Version), Some(TargetUnion::Version(asked))) => {
                kv.map_or(0, |kv| kv.version).cmp(asked)
            }
            (Ok(CompareTarget::Value), Some(TargetUnion::Value(asked))) => {
                let Some(kv) = kv else { return false };
                kv.value.cmp(asked)
            }
            other => unreachable!("no client asks {other:?}"),
        };
        match CompareResult::try_from(compare.result) {
            Ok(CompareResult::Equal) => ordering == Ordering::Equal,
            Ok(CompareResult::NotEqual) => ordering != Ordering::Equal,
            Ok(CompareResult::Greater) => ordering == Ordering::Greater,
            Ok(CompareResult::Less) => ordering == Ordering::Less,
            Err(error) => unreachable!("no client asks it: {error}"),
        }
    }
}
