//! `--write-out=protobuf`: the encoded message and nothing else.

use super::{Answer, Unsupported};
use prost::Message as _;
use proto::etcdserverpb as pb;

pub(super) fn write(out: &mut Vec<u8>, answer: &Answer<'_>) -> Result<(), Unsupported> {
    match answer {
        Answer::Get(answer) => out.extend(answer.encode_to_vec()),
        Answer::Put(answer) => out.extend(answer.encode_to_vec()),
        Answer::Del(answer) => out.extend(answer.encode_to_vec()),
        Answer::Txn(answer) => out.extend(answer.encode_to_vec()),
        Answer::Watch(answer) => out.extend(watched(answer).encode_to_vec()),
        Answer::MemberAdd(answer) => out.extend(answer.encode_to_vec()),
        Answer::MemberRemove(_, answer) => out.extend(answer.encode_to_vec()),
        Answer::MemberUpdate(_, answer) => out.extend(answer.encode_to_vec()),
        Answer::MemberPromote(_, answer) => out.extend(answer.encode_to_vec()),
        Answer::Alarm(answer) => out.extend(answer.encode_to_vec()),
        Answer::MoveLeader { answer, .. } => out.extend(answer.encode_to_vec()),
        Answer::Downgrade(_, answer) => out.extend(answer.encode_to_vec()),
        // clientv3 has own types for these, with a protobuf header.
        Answer::Grant(answer) => header(out, answer.header.as_ref()),
        Answer::KeepAlive(answer) => header(out, answer.header.as_ref()),
        Answer::TimeToLive(answer, _) => header(out, answer.header.as_ref()),
        Answer::Leases(answer) => header(out, answer.header.as_ref()),
        Answer::Revoke(..) => return Err(Unsupported::Message("LeaseRevokeResponse")),
        Answer::MemberList(answer) => out.extend(answer.encode_to_vec()),
        Answer::Health(_) | Answer::Status(_) | Answer::HashKv(_) => return Err(Unsupported::Format),
    }
    Ok(())
}

fn header(out: &mut Vec<u8>, header: Option<&pb::ResponseHeader>) {
    out.extend(header.map(prost::Message::encode_to_vec).unwrap_or_default());
}

/// Without the watch ID and the cancel reason, which etcdctl leaves out.
fn watched(answer: &pb::WatchResponse) -> pb::WatchResponse {
    pb::WatchResponse {
        header: answer.header,
        events: answer.events.clone(),
        compact_revision: answer.compact_revision,
        canceled: answer.canceled,
        created: answer.created,
        ..Default::default()
    }
}
