//! One group of entries on its way into one batch.

use crate::codec::{self, Body};
use crate::kv::{self, Reads, Writing};
use crate::machine::{Settings, State};
use crate::shared::Shared;
use crate::touch::Touch;
use crate::{
    Downgrade, Effect, Fault, LEASE_COST, Outcome, Refusal, Response, Stop, Unread, put_cost, rows, txn_cost,
    version,
};
use bytes::Bytes;
use mvcc::{CompactError, Cost, Group, Store};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::AlarmType;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::membershippb;
use types::{Entry, EntryKind, Index};

/// A group being applied. Nothing of it is in the engine, or seen by readers, before [`Applying::commit`].
pub(crate) struct Applying<'m> {
    pub(crate) group: Group<'m>,
    pub(crate) state: &'m mut State,
    pub(crate) settings: &'m Settings,
    shared: &'m Shared,
    /// What the store held when the group began, in bytes: the size that the quota is checked against.
    stored_bytes: i64,
    /// What entries may still touch.
    keys: Keys,
    /// What reads may still cost.
    reads_left: Cost,
    pub(crate) conf_changed: bool,
    pub(crate) members_changed: bool,
    alarms_changed: bool,
}

/// How many keys the entries of a group may touch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys {
    Any,
    Within(u64),
    /// The first entry that touches keys may touch any number.
    OneAndWithin(u64),
}

/// What a request came to.
type Answer = Result<Response, Stop>;

impl<'m> Applying<'m> {
    pub(crate) fn begin(
        store: &'m mut Store,
        state: &'m mut State,
        settings: &'m Settings,
        shared: &'m Shared,
        keys: Keys,
    ) -> Self {
        let stored_bytes = shared.view().total_bytes();
        Self {
            group: store.begin(),
            state,
            settings,
            shared,
            stored_bytes,
            keys,
            reads_left: settings.limits.group_reads,
            conf_changed: false,
            members_changed: false,
            alarms_changed: false,
        }
    }

    /// Applies the next entry; `None` = nothing was done, for it touches more keys than are left.
    pub(crate) fn entry(&mut self, entry: &Entry) -> Result<Option<Outcome>, Fault> {
        let applied = self.state.applied.0;
        if entry.index != applied + 1 {
            return Err(Fault::Gap { index: entry.index, applied });
        }
        let outcome = match entry.kind {
            EntryKind::ConfChange => self.conf_change(entry)?,
            EntryKind::Normal if entry.data.is_empty() => outcome(entry.index, 0, Effect::Nothing),
            EntryKind::Normal => match self.request(entry.index, &entry.data)? {
                Some(outcome) => outcome,
                None => return Ok(None),
            },
        };
        self.state.applied = (entry.index, entry.term);
        Ok(Some(outcome))
    }

    /// Writes the batch and shows the result to readers, the applied index last.
    pub(crate) fn commit(mut self) -> Result<(), Fault> {
        let batch = self.group.batch();
        rows::put_applied(batch, self.state.applied.0, self.state.applied.1);
        if self.conf_changed {
            rows::put_conf_state(batch, &self.state.conf);
        }
        self.group.commit()?;
        if self.members_changed {
            self.shared.publish_membership(&self.state.membership);
        }
        if self.alarms_changed {
            self.shared.publish_alarms(&self.state.alarms);
        }
        self.shared.publish_applied(self.state.applied);
        Ok(())
    }

    fn request(&mut self, index: Index, data: &Bytes) -> Result<Option<Outcome>, Fault> {
        let request = codec::decode(data).map_err(|reason| Fault::Entry { index, reason })?;
        let mut over_quota = false;
        let answer = match request.body {
            // Any other is as much work as its bytes, which are bounded.
            Body::Put(put) if put.ignore_value && !self.may_touch(|touch| touch.after_put(&put)) => {
                return Ok(None);
            }
            Body::Put(put) => self.put(request.id, &put, &mut over_quota),
            Body::Other(other) => {
                if (is_question(&other) && !self.proposed_here(request.id)) || codec::is_idle_auth(&other) {
                    return Ok(Some(outcome(index, request.id, Effect::Nothing)));
                }
                if !self.may_touch(|touch| touch.after(&other)) {
                    return Ok(None);
                }
                self.other(request.id, *other, &mut over_quota)
            }
        };
        let answer = match answer {
            // The entry took effect; the proposer is told that space ran out, as etcd does.
            Ok(_) if over_quota => Err(Refusal::NoSpace),
            Ok(response) => Ok(response),
            Err(Stop::Refused(refusal)) => {
                over_quota = false;
                Err(refusal)
            }
            Err(Stop::GivenUp(_)) => {
                return Err(Fault::Broken("an entry's own reads have no budget to be spent"));
            }
            Err(Stop::Fault(Fault::Broken(reason))) => {
                return Err(Fault::Entry { index, reason: reason.to_owned() });
            }
            Err(Stop::Fault(Fault::Entry { reason, .. })) => return Err(Fault::Entry { index, reason }),
            Err(Stop::Fault(fault)) => return Err(fault),
        };
        Ok(Some(Outcome { index, request_id: request.id, effect: Effect::Answer(answer), over_quota }))
    }

    /// Whether so many keys are left; takes them off.
    fn may_touch(&mut self, after: impl FnOnce(Touch<'_, 'm>) -> Option<u64>) -> bool {
        let (left, is_first) = match self.keys {
            Keys::Any => return true,
            Keys::Within(left) => (left, false),
            Keys::OneAndWithin(left) => (left, true),
        };
        let left = after(Touch { group: &self.group, leases: self.shared.leases_table(), left });
        let left = left.or(is_first.then_some(0));
        self.keys = left.map_or(self.keys, Keys::Within);
        left.is_some()
    }

    /// Every kind but the plain put, in the order in which etcd looks for them.
    fn other(&mut self, id: u64, request: pb::InternalRaftRequest, over_quota: &mut bool) -> Answer {
        let auth = codec::auth_kind(&request);
        if let Some(request) = request.cluster_version_set {
            self.cluster_version_set(request)
        } else if let Some(request) = request.cluster_member_attr_set {
            self.member_attr_set(request)
        } else if let Some(request) = request.downgrade_info_set {
            Ok(self.downgrade_info_set(request))
        } else if request.downgrade_version_test.is_some() {
            Ok(Response::Published)
        } else if let Some(request) = request.range {
            self.range(id, &request)
        } else if let Some(request) = request.put {
            self.put(id, &request, over_quota)
        } else if let Some(request) = request.delete_range {
            self.delete_range(id, &request)
        } else if let Some(request) = request.txn {
            self.txn(id, &request, over_quota)
        } else if let Some(request) = request.compaction {
            self.compaction(request)
        } else if let Some(request) = request.lease_grant {
            self.lease_grant(request, over_quota)
        } else if let Some(request) = request.lease_revoke {
            self.lease_revoke(request)
        } else if let Some(request) = request.lease_checkpoint {
            Ok(self.lease_checkpoint(&request))
        } else if let Some(request) = request.alarm {
            Ok(self.alarm(request))
        } else if let Some(kind) = auth {
            Err(entry_fault(format!("{kind}: there is no auth store yet")))
        } else {
            Err(entry_fault("no request of a known kind".to_owned()))
        }
    }

    /// A request ID's upper 16 bits are the lower ones of its proposer's member ID (etcd's `idutil`). A mistake costs a
    /// needless read, or an answer to nobody.
    fn proposed_here(&self, id: u64) -> bool {
        id >> 48 == self.settings.member.0 & 0xffff
    }
}

/// The key-value requests: alarms, then quota, then the effect.
impl Applying<'_> {
    fn range(&mut self, id: u64, request: &pb::RangeRequest) -> Answer {
        self.refuse_if_corrupt()?;
        self.answer(id, |space, reads| Ok(Response::Range(kv::range(space, request, reads)?)))
    }

    fn put(&mut self, id: u64, request: &pb::PutRequest, over_quota: &mut bool) -> Answer {
        self.refuse_if_corrupt()?;
        self.refuse_if_full()?;
        *over_quota = !self.fits(put_cost(request));
        self.answer(id, |space, reads| Ok(Response::Put(kv::put(space, request, reads)?)))
    }

    fn delete_range(&mut self, id: u64, request: &pb::DeleteRangeRequest) -> Answer {
        self.refuse_if_corrupt()?;
        self.answer(id, |space, reads| Ok(Response::DeleteRange(kv::delete_range(space, request, reads)?)))
    }

    fn txn(&mut self, id: u64, request: &pb::TxnRequest, over_quota: &mut bool) -> Answer {
        self.refuse_if_corrupt()?;
        let cost = txn_cost(request);
        if cost > 0 {
            self.refuse_if_full()?;
        }
        *over_quota = !self.fits(cost);
        self.answer(id, |space, reads| Ok(Response::Txn(kv::txn(space, request, reads)?)))
    }

    /// Does one transaction. What its answer reads is read now as far as the budgets go, and not at all where nobody waits
    /// for it: in etcd only ranges are left out there.
    fn answer(
        &mut self,
        id: u64,
        work: impl FnOnce(&mut Writing<'_, '_>, &mut Reads) -> Result<Response, Stop>,
    ) -> Answer {
        let budget = self.proposed_here(id).then(|| self.settings.limits.entry_reads.min(self.reads_left));
        let mut reads = Reads::default();
        let mut writing = Writing::begin(&mut self.group, self.shared.leases_table(), budget);
        let answer = work(&mut writing, &mut reads);
        self.reads_left = self.reads_left.less(writing.end().min(budget.unwrap_or_default()));
        let (answer, reads) = (answer?, reads.later);
        Ok(if reads.is_empty() { answer } else { Response::Unread(Box::new(Unread { answer, reads })) })
    }

    fn compaction(&mut self, request: pb::CompactionRequest) -> Answer {
        self.refuse_if_corrupt()?;
        let again = self.state.applied.0 < self.state.replay_end;
        let compact = if again { Group::compact_again } else { Group::compact };
        compact(&mut self.group, request.revision).map_err(|error| match error {
            CompactError::Compacted => Refusal::Compacted,
            CompactError::FutureRevision => Refusal::FutureRevision,
        })?;
        let header = kv::header(self.group.revision());
        Ok(Response::Compaction(pb::CompactionResponse { header }))
    }

    fn refuse_if_corrupt(&self) -> Result<(), Refusal> {
        if self.state.alarms.any(AlarmType::Corrupt) { Err(Refusal::Corrupt) } else { Ok(()) }
    }

    fn refuse_if_full(&self) -> Result<(), Refusal> {
        if self.state.alarms.any(AlarmType::Nospace) { Err(Refusal::NoSpace) } else { Ok(()) }
    }

    fn fits(&self, cost: u64) -> bool {
        self.shared.quota().fits(self.stored_bytes, cost)
    }
}

/// Leases and alarms.
impl Applying<'_> {
    fn lease_grant(&mut self, request: pb::LeaseGrantRequest, over_quota: &mut bool) -> Answer {
        self.refuse_if_corrupt()?;
        self.refuse_if_full()?;
        *over_quota = !self.fits(LEASE_COST);
        let mut leases = self.shared.leases_table().write();
        let lease = leases.grant(request.id, request.ttl).map_err(Refusal::from)?;
        self.state.lease_changes.push(lease::Change::Granted { id: lease.id, ttl: lease.ttl });
        rows::put_lease(self.group.batch(), lease);
        let header = kv::header(self.group.revision());
        Ok(Response::LeaseGrant(pb::LeaseGrantResponse {
            header,
            id: lease.id,
            ttl: lease.ttl,
            ..Default::default()
        }))
    }

    /// Deletes the lease's keys in byte order, in one revision; without keys the revision stays.
    fn lease_revoke(&mut self, request: pb::LeaseRevokeRequest) -> Answer {
        self.refuse_if_corrupt()?;
        let keys =
            self.shared.leases_table().write().revoke(request.id).map_err(|_| Refusal::LeaseNotFound)?;
        let mut writing = Writing::begin(&mut self.group, self.shared.leases_table(), None);
        let deleted = keys.into_iter().try_for_each(|key| kv::delete_key(&mut writing, key));
        writing.end();
        deleted?;
        rows::delete_lease(self.group.batch(), request.id);
        self.state.lease_changes.push(lease::Change::Revoked { id: request.id });
        let header = kv::header(self.group.revision());
        Ok(Response::LeaseRevoke(pb::LeaseRevokeResponse { header }))
    }

    /// What is left is stored whatever the cluster's version. etcd keeps it in memory until the whole cluster is at 3.6: a
    /// member that forgot it would renew the lease and clear nothing, and the leader after it end the lease early.
    fn lease_checkpoint(&mut self, request: &pb::LeaseCheckpointRequest) -> Response {
        let mut leases = self.shared.leases_table().write();
        for checkpoint in &request.checkpoints {
            let lease = leases.checkpoint(checkpoint.id, checkpoint.remaining_ttl);
            let Some(lease) = lease else { continue };
            rows::put_lease(self.group.batch(), lease);
            let (id, remaining_ttl) = (lease.id, lease.remaining_ttl);
            self.state.lease_changes.push(lease::Change::Checkpointed { id, remaining_ttl });
        }
        let header = kv::header(self.group.revision());
        Response::LeaseCheckpoint(pb::LeaseCheckpointResponse { header })
    }

    fn alarm(&mut self, request: pb::AlarmRequest) -> Response {
        let (member, kind) = (request.member_id, request.alarm);
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.state.alarms.list(kind),
            Ok(AlarmAction::Activate) if kind == AlarmType::None as i32 => Vec::new(),
            Ok(AlarmAction::Activate) => {
                if self.state.alarms.raise(member, kind) {
                    rows::put_alarm(self.group.batch(), member, kind);
                    self.alarms_changed = true;
                }
                vec![pb::AlarmMember { member_id: member, alarm: kind }]
            }
            Ok(AlarmAction::Deactivate) if self.state.alarms.disarm(member, kind) => {
                rows::delete_alarm(self.group.batch(), member, kind);
                self.alarms_changed = true;
                vec![pb::AlarmMember { member_id: member, alarm: kind }]
            }
            // Nothing to disarm, or an action of the future: etcd answers with nothing.
            Ok(AlarmAction::Deactivate) | Err(_) => Vec::new(),
        };
        Response::Alarm(pb::AlarmResponse { header: kv::header(self.group.revision()), alarms })
    }
}

/// What members tell each other through the log.
impl Applying<'_> {
    fn cluster_version_set(&mut self, request: membershippb::ClusterVersionSetRequest) -> Answer {
        version::check_cluster_version(&request.ver).map_err(entry_fault)?;
        rows::put_cluster_version(self.group.batch(), &request.ver);
        self.state.membership.cluster_version = Some(request.ver);
        self.members_changed = true;
        Ok(Response::Published)
    }

    fn member_attr_set(&mut self, request: membershippb::ClusterMemberAttrSetRequest) -> Answer {
        let id = request.member_id;
        let attributes =
            request.member_attributes.ok_or_else(|| entry_fault("attributes are missing".to_owned()))?;
        let membership = &mut self.state.membership;
        if let Some(member) = membership.members.get_mut(&id) {
            member.name = attributes.name;
            member.client_urls = attributes.client_urls;
            rows::put_member(self.group.batch(), member);
            self.members_changed = true;
        } else if !membership.removed.contains(&id) {
            return Err(entry_fault(format!("attributes of member {id:x}, which nobody knows")));
        }
        Ok(Response::Published)
    }

    fn downgrade_info_set(&mut self, request: membershippb::DowngradeInfoSetRequest) -> Response {
        let target_version = if request.enabled { request.ver } else { String::new() };
        let downgrade = Downgrade { target_version, enabled: request.enabled };
        rows::put_downgrade(self.group.batch(), &downgrade);
        self.state.membership.downgrade = Some(downgrade);
        self.members_changed = true;
        Response::Published
    }
}

pub(crate) fn outcome(index: Index, request_id: u64, effect: Effect) -> Outcome {
    Outcome { index, request_id, effect, over_quota: false }
}

/// Kinds without an effect, which etcd executes only where somebody waits for the answer.
fn is_question(request: &pb::InternalRaftRequest) -> bool {
    request.range.is_some()
}

/// What no member can apply. The index is filled in where it is known.
fn entry_fault(reason: String) -> Stop {
    Stop::Fault(Fault::Entry { index: 0, reason })
}
