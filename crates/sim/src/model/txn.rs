//! Applies a write request to a copy of the keys: in one revision, and only if nothing in it is refused.

use super::{Change, Keys, Model, header, range};
use bytes::Bytes;
use machine::Refusal;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op;
use proto::mvccpb::KeyValue;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use types::KeyRange;

type Path<'p> = std::slice::Iter<'p, bool>;

fn branch<'t>(txn: &'t pb::TxnRequest, path: &mut Path<'_>) -> (bool, &'t [pb::RequestOp]) {
    let succeeded = *path.next().expect("a branch was chosen for every transaction");
    (succeeded, if succeeded { &txn.success } else { &txn.failure })
}

pub(super) struct Writing<'m> {
    model: &'m Model,
    main: i64,
    compact: i64,
    keys: Keys,
    changes: Vec<Change>,
}

impl<'m> Writing<'m> {
    pub(super) fn begin(model: &'m Model) -> Self {
        Self::reading(model, model.revision, model.compact)
    }

    /// A read-only request, on a member at this revision and compaction.
    pub(super) fn reading(model: &'m Model, revision: i64, compact: i64) -> Self {
        let keys = model.at(revision).clone();
        Self { model, main: revision + 1, compact, keys, changes: Vec::new() }
    }

    /// The keys afterwards, and the changes made.
    pub(super) fn end(self) -> (Keys, Vec<Change>) {
        (self.keys, self.changes)
    }

    fn revision(&self) -> i64 {
        if self.changes.is_empty() { self.main - 1 } else { self.main }
    }

    fn deleted(&mut self, keys: impl IntoIterator<Item = Bytes>) {
        let mod_revision = self.main;
        let gone = |key| Change { delete: true, kv: KeyValue { key, mod_revision, ..Default::default() } };
        self.changes.extend(keys.into_iter().map(gone));
    }

    pub(super) fn put(&mut self, put: &pb::PutRequest) -> pb::PutResponse {
        let previous = self.keys.get(&put.key).cloned();
        let kept = |keeps: bool| previous.as_ref().filter(|_| keeps);
        let kv = KeyValue {
            key: put.key.clone(),
            value: kept(put.ignore_value).map_or(&put.value, |kv| &kv.value).clone(),
            create_revision: previous.as_ref().map_or(self.main, |kv| kv.create_revision),
            mod_revision: self.main,
            version: previous.as_ref().map_or(1, |kv| kv.version + 1),
            lease: kept(put.ignore_lease).map_or(put.lease, |kv| kv.lease),
        };
        self.changes.push(Change { delete: false, kv: kv.clone() });
        self.keys.insert(put.key.clone(), kv);
        pb::PutResponse { header: header(self.main), prev_kv: previous.filter(|_| put.prev_kv) }
    }

    pub(super) fn delete(&mut self, delete: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let range = KeyRange::from_wire(delete.key.clone(), delete.range_end.clone());
        let gone: Vec<KeyValue> =
            self.keys.extract_if(.., |key, _| range.contains(key)).map(|(_, kv)| kv).collect();
        self.deleted(gone.iter().map(|kv| kv.key.clone()));
        pb::DeleteRangeResponse {
            header: header(self.revision()),
            deleted: i64::try_from(gone.len()).expect("a few keys"),
            prev_kvs: if delete.prev_kv { gone } else { Vec::new() },
        }
    }

    pub(super) fn revoke(&mut self, lease: i64) -> Result<pb::LeaseRevokeResponse, Refusal> {
        if !self.model.leases.contains(&lease) {
            return Err(Refusal::LeaseNotFound);
        }
        let gone: Vec<Bytes> =
            self.keys.extract_if(.., |_, kv| kv.lease == lease).map(|(key, _)| key).collect();
        self.deleted(gone);
        Ok(pb::LeaseRevokeResponse { header: header(self.revision()) })
    }

    pub(super) fn check_put(&self, put: &pb::PutRequest) -> Result<(), Refusal> {
        if put.lease != 0 && !self.model.leases.contains(&put.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        let keeps = put.ignore_value || put.ignore_lease;
        if keeps && !self.keys.contains_key(&put.key) { Err(Refusal::KeyNotFound) } else { Ok(()) }
    }

    pub(super) fn txn(&mut self, txn: &pb::TxnRequest) -> Result<pb::TxnResponse, Refusal> {
        let mut path = Vec::new();
        self.choose(txn, &mut path);
        self.check(txn, &mut path.iter())?;
        kept_are_there(txn, &mut path.iter(), &mut self.keys.keys().cloned().collect())?;
        let mut response = self.execute(txn, &mut path.iter());
        response.header = header(self.revision());
        Ok(response)
    }

    /// Checks the path: one refusal refuses the whole transaction; all are decided by the state before it.
    fn check(&self, txn: &pb::TxnRequest, path: &mut Path<'_>) -> Result<(), Refusal> {
        for op in branch(txn, path).1 {
            match &op.request {
                Some(Request::RequestPut(put)) => self.check_put(put)?,
                Some(Request::RequestRange(range)) if range.revision > self.main - 1 => {
                    return Err(Refusal::FutureRevision);
                }
                Some(Request::RequestRange(range)) if range.revision > 0 && range.revision < self.compact => {
                    return Err(Refusal::Compacted);
                }
                Some(Request::RequestTxn(inner)) => self.check(inner, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Chooses the branches, all by the state before the transaction.
    fn choose(&self, txn: &pb::TxnRequest, path: &mut Vec<bool>) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in if succeeded { &txn.success } else { &txn.failure } {
            if let Some(Request::RequestTxn(inner)) = &op.request {
                self.choose(inner, path);
            }
        }
    }

    fn execute(&mut self, txn: &pb::TxnRequest, path: &mut Path<'_>) -> pb::TxnResponse {
        let (succeeded, ops) = branch(txn, path);
        let mut responses = Vec::new();
        for op in ops {
            let response = op.request.as_ref().map(|request| match request {
                Request::RequestRange(range) => response_op::Response::ResponseRange(self.range(range)),
                Request::RequestPut(put) => response_op::Response::ResponsePut(self.put(put)),
                Request::RequestDeleteRange(delete) => {
                    response_op::Response::ResponseDeleteRange(self.delete(delete))
                }
                Request::RequestTxn(inner) => response_op::Response::ResponseTxn(self.execute(inner, path)),
            });
            responses.push(pb::ResponseOp { response });
        }
        pb::TxnResponse { header: Some(pb::ResponseHeader::default()), succeeded, responses }
    }

    /// A range without a revision, or at the newest, sees the transaction's writes.
    fn range(&self, request: &pb::RangeRequest) -> pb::RangeResponse {
        let old = (1..self.revision()).contains(&request.revision).then(|| self.model.at(request.revision));
        range::select(old.unwrap_or(&self.keys), request, self.revision())
    }

    /// Whether every key of the range satisfies the comparison. Without a key, values compare false, and the rest
    /// compares as zero.
    fn holds(&self, compare: &pb::Compare) -> bool {
        let range = KeyRange::from_wire(compare.key.clone(), compare.range_end.clone());
        let mut found = self.keys.values().filter(|kv| range.contains(&kv.key)).peekable();
        if found.peek().is_none() {
            let is_value = compare.target == CompareTarget::Value as i32;
            return !is_value && holds_of(&KeyValue::default(), compare);
        }
        found.all(|kv| holds_of(kv, compare))
    }
}

fn holds_of(kv: &KeyValue, compare: &pb::Compare) -> bool {
    let ordering = match (CompareTarget::try_from(compare.target), &compare.target_union) {
        (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(asked))) => kv.mod_revision.cmp(asked),
        (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(asked))) => {
            kv.create_revision.cmp(asked)
        }
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(asked))) => kv.version.cmp(asked),
        (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(asked))) => kv.lease.cmp(asked),
        (Ok(CompareTarget::Value), Some(TargetUnion::Value(asked))) => kv.value.cmp(asked),
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

/// Refuses a put that keeps something of a key deleted by the transaction: etcd accepts it, and its members panic.
fn kept_are_there(
    txn: &pb::TxnRequest,
    path: &mut Path<'_>,
    keys: &mut BTreeSet<Bytes>,
) -> Result<(), Refusal> {
    for op in branch(txn, path).1 {
        match &op.request {
            Some(Request::RequestPut(put)) => {
                if (put.ignore_value || put.ignore_lease) && !keys.contains(&put.key) {
                    return Err(Refusal::KeyNotFound);
                }
                keys.insert(put.key.clone());
            }
            Some(Request::RequestDeleteRange(delete)) => {
                let range = KeyRange::from_wire(delete.key.clone(), delete.range_end.clone());
                keys.retain(|key| !range.contains(key));
            }
            Some(Request::RequestTxn(inner)) => kept_are_there(inner, path, keys)?,
            _ => {}
        }
    }
    Ok(())
}
