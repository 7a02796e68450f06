//! Applies a group of entries: one engine batch.

use crate::command::{self, Body, Command};
use crate::kv::{self, Reads, Writing};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::state::AppliedState;
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

/// A group being applied. Neither engine nor readers see anything of it before [`Applying::commit`].
pub(crate) struct Applying<'m> {
    pub(crate) group: Group<'m>,
    pub(crate) state: &'m mut AppliedState,
    pub(crate) settings: &'m Settings,
    shared: &'m Shared,
    /// The store's size at the start of the group, bytes: the quota is checked against it.
    stored_bytes: i64,
    keys: Keys,
    reads_left: Cost,
    pub(crate) conf_changed: bool,
    pub(crate) members_changed: bool,
    alarms_changed: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys {
    Any,
    Within(u64),
    /// The first entry that touches keys is exempt.
    OneAndWithin(u64),
}

type Answer = Result<Response, Stop>;

impl<'m> Applying<'m> {
    pub(crate) fn begin(
        store: &'m mut Store,
        state: &'m mut AppliedState,
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

    /// Applies the next entry; `None` = not applied, because it touches more keys than are left.
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

    /// Writes the batch and publishes the result to readers, the applied index last.
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
        let request = command::decode(data).map_err(|reason| Fault::Entry { index, reason })?;
        let mut over_quota = false;
        let answer = match request.body {
            Body::Command(Command::Range(_)) if !self.proposed_here(request.id) => {
                return Ok(Some(outcome(index, request.id, Effect::Nothing)));
            }
            Body::IdleAuth => return Ok(Some(outcome(index, request.id, Effect::Nothing))),
            Body::Command(command) => {
                if !self.may_touch(&command) {
                    return Ok(None);
                }
                self.command(request.id, command, &mut over_quota)
            }
            Body::Auth(field) => Err(entry_fault(format!("{field}: there is no auth store yet"))),
            Body::Unknown => Err(entry_fault("no request of a known kind".to_owned())),
        };
        let answer = match answer {
            // As in etcd: the entry took effect, but the proposer learns that space ran out.
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

    /// Whether as many keys are left as it touches; takes them off.
    fn may_touch(&mut self, command: &Command) -> bool {
        // Any other put is as much work as its bytes, which are bounded.
        if matches!(command, Command::Put(put) if !put.ignore_value) {
            return true;
        }
        let (left, is_first) = match self.keys {
            Keys::Any => return true,
            Keys::Within(left) => (left, false),
            Keys::OneAndWithin(left) => (left, true),
        };
        let touch = Touch { group: &self.group, leases: self.shared.leases_table(), left };
        let left = touch.after(command).or(is_first.then_some(0));
        self.keys = left.map_or(self.keys, Keys::Within);
        left.is_some()
    }

    fn command(&mut self, id: u64, command: Command, over_quota: &mut bool) -> Answer {
        match command {
            Command::ClusterVersion(request) => self.cluster_version_set(request),
            Command::MemberAttributes(request) => self.member_attr_set(request),
            Command::Downgrade(request) => Ok(self.downgrade_info_set(request)),
            Command::DowngradeTest(_) => Ok(Response::Published),
            Command::Range(request) => self.range(id, &request),
            Command::Put(request) => self.put(id, &request, over_quota),
            Command::DeleteRange(request) => self.delete_range(id, &request),
            Command::Txn(request) => self.txn(id, &request, over_quota),
            Command::Compaction(request) => self.compaction(request),
            Command::LeaseGrant(request) => self.lease_grant(request, over_quota),
            Command::LeaseRevoke(request) => self.lease_revoke(request),
            Command::LeaseCheckpoint(request) => Ok(self.lease_checkpoint(&request)),
            Command::Alarm(request) => Ok(self.alarm(request)),
        }
    }

    /// Whether this member proposed it: an ID's upper 16 bits are the lower ones of its proposer's (etcd's `idutil`). A
    /// mistake costs a needless read, or an answer that nobody waits for.
    fn proposed_here(&self, id: u64) -> bool {
        id >> 48 == self.settings.member & 0xffff
    }
}

/// Key-value requests: alarms, then quota, then the effect.
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

    /// Runs one transaction. The reads of its answer are done now within the budgets, or not at all if nobody waits for
    /// them here: etcd then skips only ranges.
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

/// Requests for leases and alarms.
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

    /// Stores the remaining TTL whatever the cluster version is. etcd keeps it only in memory until all are at 3.6, but
    /// a member that forgot it would renew without clearing it, and the next leader would end the lease early.
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
            // Nothing to disarm, or an unknown action: etcd answers with an empty list.
            Ok(AlarmAction::Deactivate) | Err(_) => Vec::new(),
        };
        Response::Alarm(pb::AlarmResponse { header: kv::header(self.group.revision()), alarms })
    }
}

/// Requests of members: attributes, cluster version, downgrade.
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

/// What no member can apply. The index is filled in where it is known.
fn entry_fault(reason: String) -> Stop {
    Stop::Fault(Fault::Entry { index: 0, reason })
}
