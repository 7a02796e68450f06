//! `--write-out=json`: etcd's messages as Go's `encoding/json` writes them, which is not protobuf's JSON.

use super::{Answer, Health};
use crate::text::json::{Object, list, object};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response as Op;
use proto::mvccpb::KeyValue;

/// Writes an answer and a line end.
pub(super) fn write(out: &mut Vec<u8>, hex: bool, answer: &Answer<'_>) {
    let mut text = String::new();
    match answer {
        Answer::Get(answer) => object(&mut text, |o| get(o, answer)),
        Answer::Put(answer) => object(&mut text, |o| put(o, answer)),
        Answer::Del(answer) => object(&mut text, |o| del(o, answer)),
        Answer::Txn(answer) => object(&mut text, |o| txn(o, answer)),
        Answer::MemberList(list) => object(&mut text, |o| {
            header(o, hex, list.header.as_ref());
            members(o, hex, &list.members);
        }),
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

/// Go's nil slice is `null`.
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
