//! `--write-out=simple`, the default format.

use super::{Answer, Printer, tables, warn};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::response_op::Response as Op;
use proto::mvccpb::KeyValue;
use std::io::Write as _;

pub(super) fn write(out: &mut Vec<u8>, printer: &Printer, answer: &Answer<'_>) {
    match answer {
        Answer::Get(answer) => get(out, printer, answer),
        Answer::Put(answer) => put(out, printer, answer),
        Answer::Del(answer) => del(out, printer, answer),
        Answer::Txn(answer) => txn(out, printer, answer),
        Answer::Watch(answer) => watch(out, printer, answer),
        Answer::Grant(answer) => {
            line(out, format_args!("lease {:016x} granted with TTL({}s)", answer.id, answer.ttl));
        }
        Answer::Revoke(id, _) => line(out, format_args!("lease {id:016x} revoked")),
        Answer::KeepAlive(answer) => {
            line(out, format_args!("lease {:016x} keepalived with TTL({})", answer.id, answer.ttl));
        }
        Answer::TimeToLive(answer, keys) => time_to_live(out, answer, *keys),
        Answer::Leases(answer) => {
            line(out, format_args!("found {} leases", answer.leases.len()));
            answer.leases.iter().for_each(|lease| line(out, format_args!("{:016x}", lease.id)));
        }
        Answer::Alarm(answer) => answer.alarms.iter().for_each(|alarm| alarm_member(out, alarm)),
        Answer::MoveLeader { from, to, .. } => {
            line(out, format_args!("Leadership transferred from {from:x} to {to:x}"));
        }
        Answer::Downgrade(what, answer) => {
            let what = match what {
                DowngradeAction::Validate => "validate",
                DowngradeAction::Enable => "enable",
                DowngradeAction::Cancel => "cancel",
            };
            line(out, format_args!("Downgrade {what} success, cluster version {}", answer.version));
        }
        Answer::MemberAdd(answer) => {
            let id = answer.member.as_ref().map_or(0, |member| member.id);
            let is_learner = answer.member.as_ref().is_some_and(|member| member.is_learner);
            let what = if is_learner { "added as learner to" } else { "added to" };
            member(out, id, what, answer.header.as_ref());
        }
        Answer::MemberRemove(id, answer) => member(out, *id, "removed from", answer.header.as_ref()),
        Answer::MemberUpdate(id, answer) => member(out, *id, "updated in", answer.header.as_ref()),
        Answer::MemberPromote(id, answer) => member(out, *id, "promoted in", answer.header.as_ref()),
        Answer::MemberList(list) => rows(out, &tables::members(list)),
        Answer::Status(list) => rows(out, &tables::status(list)),
        Answer::HashKv(list) => rows(out, &tables::hashes(list)),
        Answer::Health(list) => {
            for health in *list {
                let (endpoint, error) = (&health.endpoint, &health.error);
                if error.is_empty() {
                    let took = &health.took;
                    line(
                        out,
                        format_args!("{endpoint} is healthy: successfully committed proposal: took = {took}"),
                    );
                } else {
                    warn(format_args!("{endpoint} is unhealthy: failed to commit proposal: {error}"));
                }
            }
        }
    }
}

fn line(out: &mut Vec<u8>, text: impl std::fmt::Display) {
    writeln!(out, "{text}").expect("a Vec takes everything");
}

fn member(out: &mut Vec<u8>, id: u64, what: &str, header: Option<&pb::ResponseHeader>) {
    let cluster = header.map_or(0, |header| header.cluster_id);
    line(out, format_args!("Member {id:16x} {what} cluster {cluster:16x}"));
}

/// In protobuf's text format: `memberID:1 alarm:NOSPACE`.
fn alarm_member(out: &mut Vec<u8>, alarm: &pb::AlarmMember) {
    let mut fields = Vec::new();
    if alarm.member_id != 0 {
        fields.push(format!("memberID:{}", alarm.member_id));
    }
    if alarm.alarm != 0 {
        fields.push(format!("alarm:{}", super::alarm_name(alarm.alarm)));
    }
    line(out, fields.join(" "));
}

fn time_to_live(out: &mut Vec<u8>, answer: &pb::LeaseTimeToLiveResponse, keys: bool) {
    let pb::LeaseTimeToLiveResponse { id, ttl, granted_ttl, .. } = answer;
    if (*granted_ttl, *ttl) == (0, -1) {
        return line(out, format_args!("lease {id:016x} already expired"));
    }
    let begin = format!("lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)");
    out.extend_from_slice(begin.as_bytes());
    if keys {
        out.extend_from_slice(b", attached keys([");
        out.extend_from_slice(&answer.keys.join(&b' '));
        out.extend_from_slice(b"])");
    }
    out.push(b'\n');
}

fn watch(out: &mut Vec<u8>, printer: &Printer, answer: &pb::WatchResponse) {
    for event in &answer.events {
        line(out, event.r#type().as_str_name());
        for kv in event.prev_kv.iter().chain(&event.kv) {
            pair(out, printer, kv);
        }
    }
}

fn rows(out: &mut Vec<u8>, rows: &[Vec<String>]) {
    for row in rows {
        line(out, row.join(", "));
    }
}

/// Writes a key and its value, a line each.
fn pair(out: &mut Vec<u8>, printer: &Printer, kv: &KeyValue) {
    let parts: &[&[u8]] = if printer.value_only { &[&kv.value] } else { &[&kv.key, &kv.value] };
    for part in parts {
        if printer.hex {
            for byte in *part {
                write!(out, "\\x{byte:02x}").expect("a Vec takes everything");
            }
        } else {
            out.extend_from_slice(part);
        }
        out.push(b'\n');
    }
}

fn get(out: &mut Vec<u8>, printer: &Printer, answer: &pb::RangeResponse) {
    for kv in &answer.kvs {
        pair(out, printer, kv);
    }
}

fn put(out: &mut Vec<u8>, printer: &Printer, answer: &pb::PutResponse) {
    line(out, "OK");
    if let Some(kv) = &answer.prev_kv {
        pair(out, printer, kv);
    }
}

fn del(out: &mut Vec<u8>, printer: &Printer, answer: &pb::DeleteRangeResponse) {
    line(out, answer.deleted);
    for kv in &answer.prev_kvs {
        pair(out, printer, kv);
    }
}

fn txn(out: &mut Vec<u8>, printer: &Printer, answer: &pb::TxnResponse) {
    line(out, if answer.succeeded { "SUCCESS" } else { "FAILURE" });
    for response in &answer.responses {
        out.push(b'\n');
        match &response.response {
            Some(Op::ResponseDeleteRange(answer)) => del(out, printer, answer),
            Some(Op::ResponsePut(answer)) => put(out, printer, answer),
            Some(Op::ResponseRange(answer)) => get(out, printer, answer),
            Some(Op::ResponseTxn(answer)) => txn(out, printer, answer),
            None => line(out, "unexpected response"),
        }
    }
}
