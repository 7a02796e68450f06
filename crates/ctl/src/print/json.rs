//! `--write-out=json`: etcd's messages as Go's `encoding/json` writes them, which is not protobuf's JSON.

use super::{Answer, Health};
use crate::text::json::{Object, bytes, list, object};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response as Op;
use proto::mvccpb::KeyValue;

/// Writes an answer and a line feed.
pub(super) fn write(out: &mut Vec<u8>, hex: bool, answer: &Answer<'_>) {
    let mut text = String::new();
    match answer {
        Answer::Get(answer) => object(&mut text, |o| get(o, answer)),
        Answer::Put(answer) => object(&mut text, |o| put(o, answer)),
        Answer::Del(answer) => object(&mut text, |o| del(o, answer)),
        Answer::Txn(answer) => object(&mut text, |o| txn(o, answer)),
        Answer::Watch(answer) => object(&mut text, |o| watch(o, answer)),
        Answer::Grant(answer) => object(&mut text, |o| {
            embedded(o, answer.header.as_ref());
            o.plain("ID", answer.id);
            o.plain("TTL", answer.ttl);
            o.string("Error", &answer.error);
        }),
        Answer::KeepAlive(answer) => object(&mut text, |o| {
            embedded(o, answer.header.as_ref());
            o.plain("ID", answer.id);
            o.plain("TTL", answer.ttl);
        }),
        Answer::TimeToLive(answer, _) => object(&mut text, |o| time_to_live(o, answer)),
        Answer::Leases(answer) => object(&mut text, |o| {
            embedded(o, answer.header.as_ref());
            list(o.field("leases"), &answer.leases, |out, lease| object(out, |o| o.plain("id", lease.id)));
        }),
        Answer::Revoke(_, answer) => object(&mut text, |o| header(o, false, answer.header.as_ref())),
        Answer::MoveLeader { answer, .. } => {
            object(&mut text, |o| header(o, false, answer.header.as_ref()));
        }
        Answer::Downgrade(_, answer) => object(&mut text, |o| {
            header(o, false, answer.header.as_ref());
            o.string_or_omit("version", &answer.version);
        }),
        Answer::Alarm(answer) => object(&mut text, |o| alarms(o, answer)),
        Answer::MemberAdd(answer) => object(&mut text, |o| {
            header(o, hex, answer.header.as_ref());
            match &answer.member {
                Some(new) => object(o.field("member"), |o| member(o, hex, new)),
                None if hex => o.plain("member", "null"),
                None => {}
            }
            members(o, hex, &answer.members);
        }),
        Answer::MemberRemove(_, pb::MemberRemoveResponse { header, members })
        | Answer::MemberUpdate(_, pb::MemberUpdateResponse { header, members })
        | Answer::MemberPromote(_, pb::MemberPromoteResponse { header, members })
        | Answer::MemberList(pb::MemberListResponse { header, members }) => {
            object(&mut text, |o| cluster(o, hex, header.as_ref(), members));
        }
        Answer::Health(all) => list_or_null(&mut text, all, health),
        Answer::Status(all) => list_or_null(&mut text, all, |o, (endpoint, answer)| {
            o.string("Endpoint", endpoint);
            object(o.field("Status"), |o| status(o, answer));
        }),
        Answer::HashKv(all) => list_or_null(&mut text, all, |o, (endpoint, answer)| {
            o.string("Endpoint", endpoint);
            object(o.field("HashKV"), |o| {
                header(o, false, answer.header.as_ref());
                o.number_or_omit("hash", answer.hash);
                o.number_or_omit("compact_revision", answer.compact_revision);
                o.number_or_omit("hash_revision", answer.hash_revision);
            });
        }),
    }
    text.push('\n');
    out.extend_from_slice(text.as_bytes());
}

/// Go writes a nil slice as `null`.
fn list_or_null<T>(out: &mut String, items: &[T], each: impl Fn(&mut Object<'_>, &T)) {
    if items.is_empty() {
        out.push_str("null");
    } else {
        list(out, items, |out, item| object(out, |o| each(o, item)));
    }
}

fn header(o: &mut Object<'_>, hex: bool, header: Option<&pb::ResponseHeader>) {
    if let Some(header) = header {
        object(o.field("header"), |o| header_fields(o, hex, header));
    } else if hex {
        o.plain("header", "null");
    }
}

fn header_fields(o: &mut Object<'_>, hex: bool, header: &pb::ResponseHeader) {
    if hex {
        o.string("cluster_id", &format!("{:x}", header.cluster_id));
        o.string("member_id", &format!("{:x}", header.member_id));
    } else {
        o.number_or_omit("cluster_id", header.cluster_id);
        o.number_or_omit("member_id", header.member_id);
    }
    o.number_or_omit("revision", header.revision);
    o.number_or_omit("raft_term", header.raft_term);
}

fn pair(o: &mut Object<'_>, kv: &KeyValue) {
    o.bytes_or_omit("key", &kv.key);
    o.number_or_omit("create_revision", kv.create_revision);
    o.number_or_omit("mod_revision", kv.mod_revision);
    o.number_or_omit("version", kv.version);
    o.bytes_or_omit("value", &kv.value);
    o.number_or_omit("lease", kv.lease);
}

fn pairs(o: &mut Object<'_>, name: &str, kvs: &[KeyValue]) {
    if !kvs.is_empty() {
        list(o.field(name), kvs, |out, kv| object(out, |o| pair(o, kv)));
    }
}

fn get(o: &mut Object<'_>, answer: &pb::RangeResponse) {
    header(o, false, answer.header.as_ref());
    pairs(o, "kvs", &answer.kvs);
    o.true_or_omit("more", answer.more);
    o.number_or_omit("count", answer.count);
}

fn put(o: &mut Object<'_>, answer: &pb::PutResponse) {
    header(o, false, answer.header.as_ref());
    if let Some(kv) = &answer.prev_kv {
        object(o.field("prev_kv"), |o| pair(o, kv));
    }
}

fn del(o: &mut Object<'_>, answer: &pb::DeleteRangeResponse) {
    header(o, false, answer.header.as_ref());
    o.number_or_omit("deleted", answer.deleted);
    pairs(o, "prev_kvs", &answer.prev_kvs);
}

fn txn(o: &mut Object<'_>, answer: &pb::TxnResponse) {
    header(o, false, answer.header.as_ref());
    o.true_or_omit("succeeded", answer.succeeded);
    if answer.responses.is_empty() {
        return;
    }
    list(o.field("responses"), &answer.responses, |out, response| {
        object(out, |o| {
            object(o.field("Response"), |o| match &response.response {
                Some(Op::ResponseRange(answer)) => object(o.field("response_range"), |o| get(o, answer)),
                Some(Op::ResponsePut(answer)) => object(o.field("response_put"), |o| put(o, answer)),
                Some(Op::ResponseDeleteRange(answer)) => {
                    object(o.field("response_delete_range"), |o| del(o, answer));
                }
                Some(Op::ResponseTxn(answer)) => object(o.field("response_txn"), |o| txn(o, answer)),
                None => {}
            });
        });
    });
}

fn member(o: &mut Object<'_>, hex: bool, member: &pb::Member) {
    if hex {
        o.string("ID", &format!("{:x}", member.id));
    } else {
        o.number_or_omit("ID", member.id);
    }
    o.string_or_omit("name", &member.name);
    o.strings_or_omit("peerURLs", &member.peer_ur_ls);
    o.strings_or_omit("clientURLs", &member.client_ur_ls);
    o.true_or_omit("isLearner", member.is_learner);
}

fn members(o: &mut Object<'_>, hex: bool, members: &[pb::Member]) {
    if hex || !members.is_empty() {
        list(o.field("members"), members, |out, m| object(out, |o| member(o, hex, m)));
    }
}

fn cluster(o: &mut Object<'_>, hex: bool, head: Option<&pb::ResponseHeader>, all: &[pb::Member]) {
    header(o, hex, head);
    members(o, hex, all);
}

/// The header's fields, embedded in the answer.
fn embedded(o: &mut Object<'_>, header: Option<&pb::ResponseHeader>) {
    if let Some(header) = header {
        header_fields(o, false, header);
    }
}

fn time_to_live(o: &mut Object<'_>, answer: &pb::LeaseTimeToLiveResponse) {
    embedded(o, answer.header.as_ref());
    o.plain("id", answer.id);
    o.plain("ttl", answer.ttl);
    o.plain("granted-ttl", answer.granted_ttl);
    if answer.keys.is_empty() {
        o.plain("keys", "null");
    } else {
        list(o.field("keys"), &answer.keys, |out, key| bytes(out, key));
    }
}

fn alarms(o: &mut Object<'_>, answer: &pb::AlarmResponse) {
    header(o, false, answer.header.as_ref());
    if answer.alarms.is_empty() {
        return;
    }
    list(o.field("alarms"), &answer.alarms, |out, alarm| {
        object(out, |o| {
            o.number_or_omit("memberID", alarm.member_id);
            o.number_or_omit("alarm", alarm.alarm);
        });
    });
}

/// clientv3's own type: its fields have their Go names, and zero values are not left out.
fn watch(o: &mut Object<'_>, answer: &pb::WatchResponse) {
    match &answer.header {
        Some(header) => object(o.field("Header"), |o| header_fields(o, false, header)),
        None => o.plain("Header", "null"),
    }
    if answer.events.is_empty() {
        o.plain("Events", "null");
    } else {
        list(o.field("Events"), &answer.events, |out, event| {
            object(out, |o| {
                o.number_or_omit("type", event.r#type);
                for (name, kv) in [("kv", &event.kv), ("prev_kv", &event.prev_kv)] {
                    if let Some(kv) = kv {
                        object(o.field(name), |o| pair(o, kv));
                    }
                }
            });
        });
    }
    o.plain("CompactRevision", answer.compact_revision);
    o.plain("Canceled", answer.canceled);
    o.plain("Created", answer.created);
    o.string("CancelReason", &answer.cancel_reason);
}

fn health(o: &mut Object<'_>, health: &Health) {
    o.string("endpoint", &health.endpoint);
    o.plain("health", health.healthy);
    o.string("took", &health.took);
    o.string_or_omit("error", &health.error);
}

fn status(o: &mut Object<'_>, status: &pb::StatusResponse) {
    header(o, false, status.header.as_ref());
    o.string_or_omit("version", &status.version);
    o.number_or_omit("dbSize", status.db_size);
    o.number_or_omit("leader", status.leader);
    o.number_or_omit("raftIndex", status.raft_index);
    o.number_or_omit("raftTerm", status.raft_term);
    o.number_or_omit("raftAppliedIndex", status.raft_applied_index);
    o.strings_or_omit("errors", &status.errors);
    o.number_or_omit("dbSizeInUse", status.db_size_in_use);
    o.true_or_omit("isLearner", status.is_learner);
    o.string_or_omit("storageVersion", &status.storage_version);
    o.number_or_omit("dbSizeQuota", status.db_size_quota);
    if let Some(info) = &status.downgrade_info {
        object(o.field("downgradeInfo"), |o| {
            o.true_or_omit("enabled", info.enabled);
            o.string_or_omit("targetVersion", &info.target_version);
        });
    }
}
