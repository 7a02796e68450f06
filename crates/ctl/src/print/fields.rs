//! `--write-out=fields`: one field per line, keys and values quoted as in Go.

use super::{Answer, Unsupported};
use gotext::quote::quote;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response as Op;
use proto::mvccpb::KeyValue;
use std::fmt::Display;
use std::io::Write as _;

struct Fields<'a> {
    out: &'a mut Vec<u8>,
    hex: bool,
}

pub(super) fn write(out: &mut Vec<u8>, hex: bool, answer: &Answer<'_>) -> Result<(), Unsupported> {
    let mut fields = Fields { out, hex };
    match answer {
        Answer::Get(answer) => fields.get(answer),
        Answer::Put(answer) => fields.put(answer),
        Answer::Del(answer) => fields.del(answer),
        Answer::Txn(answer) => fields.txn(answer),
        Answer::Watch(answer) => fields.watch(answer),
        Answer::Grant(answer) => fields.lease_and_ttl(answer.header.as_ref(), answer.id, answer.ttl),
        Answer::KeepAlive(answer) => fields.lease_and_ttl(answer.header.as_ref(), answer.id, answer.ttl),
        Answer::Revoke(_, answer) => fields.header(answer.header.as_ref()),
        Answer::TimeToLive(answer, _) => {
            fields.lease_and_ttl(answer.header.as_ref(), answer.id, answer.ttl);
            fields.field("GrantedTTL", answer.granted_ttl);
            answer.keys.iter().for_each(|key| fields.quoted("Key", key));
        }
        Answer::Leases(answer) => {
            fields.header(answer.header.as_ref());
            answer.leases.iter().for_each(|lease| fields.lease("ID", lease.id));
        }
        Answer::Alarm(answer) => {
            fields.header(answer.header.as_ref());
            for alarm in &answer.alarms {
                fields.id("MemberID", alarm.member_id);
                fields.field("AlarmType", super::alarm_name(alarm.alarm));
                fields.blank();
            }
        }
        Answer::MoveLeader { .. }
        | Answer::Downgrade(..)
        | Answer::MemberAdd(_)
        | Answer::MemberRemove(..)
        | Answer::MemberUpdate(..)
        | Answer::MemberPromote(..) => return Err(Unsupported::Format),
        Answer::MemberList(list) => fields.members(list),
        Answer::Health(list) => {
            for health in *list {
                fields.quoted("Endpoint", health.endpoint.as_bytes());
                fields.field("Health", health.healthy);
                fields.field("Took", &health.took);
                fields.field("Error", &health.error);
                fields.blank();
            }
        }
        Answer::Status(list) => list.iter().for_each(|(endpoint, status)| fields.status(endpoint, status)),
        Answer::HashKv(list) => {
            for (endpoint, answer) in *list {
                fields.header(answer.header.as_ref());
                fields.quoted("Endpoint", endpoint.as_bytes());
                fields.field("Hash", answer.hash);
                fields.field("HashRevision", answer.hash_revision);
                fields.blank();
            }
        }
    }
    Ok(())
}

impl Fields<'_> {
    fn field(&mut self, name: &str, value: impl Display) {
        writeln!(self.out, "\"{name}\" : {value}").expect("a Vec takes everything");
    }

    fn quoted(&mut self, name: &str, value: &[u8]) {
        self.field(name, quote(value));
    }

    fn blank(&mut self) {
        self.out.push(b'\n');
    }

    /// The ID of a member or a cluster.
    fn id(&mut self, name: &str, id: u64) {
        if self.hex {
            self.field(name, format_args!("{id:x}"));
        } else {
            self.field(name, id);
        }
    }

    fn lease(&mut self, name: &str, id: i64) {
        if self.hex {
            self.field(name, format_args!("{id:016x}"));
        } else {
            self.field(name, id);
        }
    }

    fn header(&mut self, header: Option<&pb::ResponseHeader>) {
        let header = header.copied().unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        if header.revision > 0 {
            self.field("Revision", header.revision);
        }
        self.field("RaftTerm", header.raft_term);
    }

    fn pair(&mut self, prefix: &str, kv: &KeyValue) {
        self.quoted(&format!("{prefix}Key"), &kv.key);
        self.field(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.field(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.field(&format!("{prefix}Version"), kv.version);
        self.quoted(&format!("{prefix}Value"), &kv.value);
        self.lease(&format!("{prefix}Lease"), kv.lease);
    }

    fn get(&mut self, answer: &pb::RangeResponse) {
        self.header(answer.header.as_ref());
        for kv in &answer.kvs {
            self.pair("", kv);
        }
        self.field("More", answer.more);
        self.field("Count", answer.count);
    }

    fn put(&mut self, answer: &pb::PutResponse) {
        self.header(answer.header.as_ref());
        if let Some(kv) = &answer.prev_kv {
            self.pair("Prev", kv);
        }
    }

    fn del(&mut self, answer: &pb::DeleteRangeResponse) {
        self.header(answer.header.as_ref());
        self.field("Deleted", answer.deleted);
        for kv in &answer.prev_kvs {
            self.pair("Prev", kv);
        }
    }

    fn txn(&mut self, answer: &pb::TxnResponse) {
        self.header(answer.header.as_ref());
        self.field("Succeeded", answer.succeeded);
        for response in &answer.responses {
            match &response.response {
                Some(Op::ResponseDeleteRange(answer)) => self.del(answer),
                Some(Op::ResponsePut(answer)) => self.put(answer),
                Some(Op::ResponseRange(answer)) => self.get(answer),
                Some(Op::ResponseTxn(answer)) => self.txn(answer),
                None => self.quoted("Unknown", b"<nil>"),
            }
        }
    }

    fn watch(&mut self, answer: &pb::WatchResponse) {
        self.header(answer.header.as_ref());
        for event in &answer.events {
            self.field("Type", event.r#type().as_str_name());
            if let Some(kv) = &event.prev_kv {
                self.pair("Prev", kv);
            }
            self.pair("", &event.kv.clone().unwrap_or_default());
        }
    }

    /// The fields that all answers about one lease begin with.
    fn lease_and_ttl(&mut self, header: Option<&pb::ResponseHeader>, id: i64, ttl: i64) {
        self.header(header);
        self.lease("ID", id);
        self.field("TTL", ttl);
    }

    fn members(&mut self, list: &pb::MemberListResponse) {
        self.header(list.header.as_ref());
        for member in &list.members {
            self.id("ID", member.id);
            self.quoted("Name", member.name.as_bytes());
            for url in &member.peer_ur_ls {
                self.quoted("PeerURL", url.as_bytes());
            }
            for url in &member.client_ur_ls {
                self.quoted("ClientURL", url.as_bytes());
            }
            self.field("IsLearner", member.is_learner);
            self.blank();
        }
    }

    fn status(&mut self, endpoint: &str, status: &pb::StatusResponse) {
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        self.header(status.header.as_ref());
        self.quoted("Version", status.version.as_bytes());
        self.quoted("StorageVersion", status.storage_version.as_bytes());
        self.field("DBSize", status.db_size);
        self.field("DBSizeInUse", status.db_size_in_use);
        self.field("DBSizeQuota", status.db_size_quota);
        self.field("Leader", status.leader);
        self.field("IsLearner", status.is_learner);
        self.field("RaftIndex", status.raft_index);
        self.field("RaftAppliedIndex", status.raft_applied_index);
        self.field("Errors", format_args!("[{}]", status.errors.join(" ")));
        self.quoted("Endpoint", endpoint.as_bytes());
        self.quoted("DowngradeTargetVersion", downgrade.target_version.as_bytes());
        self.field("DowngradeEnabled", downgrade.enabled);
        self.blank();
    }
}
