//! Answers as short text: `rev=3 prev=a=1@c2m2v1`, a key value as key=value@c(reate)m(od)v(ersion)L(ease).

use crate::{Effect, Machine, Membership, Outcome, Response, Shared, Stop};
use mvcc::{Cost, Effort};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op;
use proto::mvccpb::KeyValue;
use types::ConfState;

pub(super) fn outcome(outcome: &Outcome) -> String {
    let text = match &outcome.effect {
        Effect::Nothing => "nothing".to_owned(),
        Effect::Answer(Ok(answer)) => response(answer),
        Effect::Answer(Err(refusal)) => format!("refused: {refusal}"),
        Effect::Conf { change, accepted: true, answer: Ok(()) } => {
            let context = change.context.as_ref().map(|member| serde_json::to_string(member).expect("json"));
            format!("{:?} {} {}", change.kind, change.node, context.unwrap_or_default()).trim_end().to_owned()
        }
        Effect::Conf { change, answer, .. } => {
            let refusal = answer.expect_err("refused");
            format!("{:?} {} refused: {refusal}", change.kind, change.node)
        }
    };
    if outcome.over_quota { text + " over quota" } else { text }
}

pub(super) fn stopped(result: Result<String, Stop>) -> String {
    match result {
        Ok(text) => text,
        Err(Stop::Refused(refusal)) => format!("refused: {refusal}"),
        Err(Stop::GivenUp(why)) => format!("given up: {why}"),
        Err(Stop::Fault(fault)) => format!("fault: {fault}"),
    }
}

fn response(answer: &Response) -> String {
    match answer {
        Response::Range(answer) => range(answer),
        Response::Put(answer) => put(answer),
        Response::DeleteRange(answer) => delete(answer),
        Response::Txn(answer) => txn(answer),
        Response::Unread(unread) => {
            stopped(unread.whole(&Effort::within(Cost::MAX)).map(|whole| response(&whole)))
        }
        Response::Compaction(answer) => rev(answer.header.as_ref()),
        Response::LeaseGrant(answer) => {
            format!("{} id={} ttl={}", rev(answer.header.as_ref()), answer.id, answer.ttl)
        }
        Response::LeaseRevoke(answer) => rev(answer.header.as_ref()),
        Response::LeaseCheckpoint(answer) => rev(answer.header.as_ref()),
        Response::Alarm(answer) => alarms(&answer.alarms),
        Response::Published => "published".to_owned(),
    }
}

fn rev(header: Option<&pb::ResponseHeader>) -> String {
    format!("rev={}", header.expect("a header").revision)
}

fn kv(kv: &KeyValue) -> String {
    let lease = if kv.lease == 0 { String::new() } else { format!("L{}", kv.lease) };
    let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
    format!("{key}={value}@c{}m{}v{}{lease}", kv.create_revision, kv.mod_revision, kv.version)
}

fn kvs(list: &[KeyValue]) -> String {
    spaced(list.iter().map(kv))
}

fn spaced(words: impl Iterator<Item = String>) -> String {
    words.fold(String::new(), |text, word| text + " " + &word)
}

fn put(answer: &pb::PutResponse) -> String {
    let prev = answer.prev_kv.as_ref().map(|prev| format!(" prev {}", kv(prev)));
    rev(answer.header.as_ref()) + &prev.unwrap_or_default()
}

fn delete(answer: &pb::DeleteRangeResponse) -> String {
    let prev = if answer.prev_kvs.is_empty() { "" } else { " prev" };
    format!("{} deleted={}{prev}{}", rev(answer.header.as_ref()), answer.deleted, kvs(&answer.prev_kvs))
}

pub(super) fn range(answer: &pb::RangeResponse) -> String {
    let more = if answer.more { " more" } else { "" };
    format!("{} count={}{more}{}", rev(answer.header.as_ref()), answer.count, kvs(&answer.kvs))
}

pub(super) fn txn(answer: &pb::TxnResponse) -> String {
    use response_op::Response::{ResponseDeleteRange, ResponsePut, ResponseRange, ResponseTxn};
    let op = |op: &pb::ResponseOp| match &op.response {
        Some(ResponseRange(answer)) => range(answer),
        Some(ResponsePut(answer)) => put(answer),
        Some(ResponseDeleteRange(answer)) => delete(answer),
        Some(ResponseTxn(answer)) => txn(answer),
        None => "none".to_owned(),
    };
    let ops: Vec<String> = answer.responses.iter().map(op).collect();
    let branch = if answer.succeeded { "then" } else { "else" };
    format!("{} {branch} [{}]", rev(answer.header.as_ref()), ops.join(" | "))
}

pub(super) fn alarms(alarms: &[pb::AlarmMember]) -> String {
    let each = |alarm: &pb::AlarmMember| format!(" {}:{}", alarm.member_id, alarm.alarm);
    format!("alarms{}", alarms.iter().map(each).collect::<String>())
}

pub(super) fn members(membership: &Membership, conf_state: &ConfState) -> String {
    let removed: Vec<u64> = membership.removed.iter().copied().collect();
    let version = membership.cluster_version.as_deref().unwrap_or("none");
    let downgrade = membership.downgrade.as_ref().map(|job| serde_json::to_string(job).expect("json"));
    format!(
        "{} removed {removed:?} voters {:?} learners {:?} version {version} {}",
        membership.members_json(),
        conf_state.voters,
        conf_state.learners,
        downgrade.unwrap_or_default()
    )
    .trim_end()
    .to_owned()
}

pub(super) fn leases(shared: &Shared) -> String {
    let each = |info: &crate::LeaseInfo| {
        let mut keys = shared.lease_keys(info.id, None, usize::MAX).expect("there is no other writer");
        keys.sort();
        let keys = spaced(keys.iter().map(|key| key.escape_ascii().to_string()));
        format!(" {}({},{}{keys})", info.id, info.ttl, info.remaining_ttl)
    };
    format!("leases{}", shared.leases().iter().map(each).collect::<String>())
}

pub(super) fn state(machine: &Machine) -> String {
    let shared = machine.shared();
    let all = pb::RangeRequest { range_end: vec![0].into(), ..Default::default() };
    let keys = stopped(shared.range(&all).map(|answer| range(&answer)));
    let hash =
        shared.view().hash_now().ok().map(|hash| (hash.hash, hash.compact_revision, hash.hash_revision));
    format!(
        "applied {:?} {} {}\n{keys}\n{}\n{}\n{}\nhash {hash:?}",
        machine.applied(),
        shared.applied_index(),
        shared.applied_term(),
        members(&shared.membership(), &machine.conf_state()),
        leases(&shared),
        alarms(&shared.alarms().list(0)),
    )
}
