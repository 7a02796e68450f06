//! `--write-out=simple`: for people and for pipes.

use super::{Answer, Printer, tables, warn};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response as Op;
use proto::mvccpb::KeyValue;
use std::io::Write as _;

/// Writes an answer.
pub(super) fn write(out: &mut Vec<u8>, printer: &Printer, answer: &Answer<'_>) {
    match answer {
        Answer::Get(answer) => get(out, printer, answer),
        Answer::Put(answer) => put(out, printer, answer),
        Answer::Del(answer) => del(out, printer, answer),
        Answer::Txn(answer) => txn(out, printer, answer),
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

fn rows(out: &mut Vec<u8>, rows: &[Vec<String>]) {
    for row in rows {
        line(out, row.join(", "));
    }
}

/// A key and its value, a line each.
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
