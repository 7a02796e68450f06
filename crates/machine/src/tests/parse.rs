//! The language of the scripts. Keys and values are plain words; `*` as the end of a range means "every key from
//! here".
//!
//! ```text
//! put KEY VALUE [lease=N] [prev] [ignore_value] [ignore_lease]      del KEY [END] [prev]
//! get|range KEY [END] [rev=N] [limit=N] [sort=by:order] [keys] [count] [min_mod=N] …
//! txn [if CMP …] then [OP ; …] else [OP ; …] end                    CMP: target:key[..end]{=|!=|<|>}operand
//! compact N · grant ID TTL · revoke ID · checkpoint ID LEFT · alarm get|on|off MEMBER KIND
//! version V · attr ID NAME URL · downgrade on|off V · add|learner|update ID URL · promote|remove ID · noop
//! ```

use super::script::MEMBER;
use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request;
use proto::{membershippb, raftpb};
use std::str::FromStr;
use types::EntryKind;

pub(super) struct Tokens<'c> {
    words: std::iter::Peekable<std::str::SplitWhitespace<'c>>,
}

impl<'c> Tokens<'c> {
    pub(super) fn new(command: &'c str) -> Self {
        Self { words: command.split_whitespace().peekable() }
    }

    pub(super) fn peek(&mut self) -> Option<&'c str> {
        self.words.peek().copied()
    }

    pub(super) fn next(&mut self) -> &'c str {
        self.words.next().expect("one more word")
    }

    fn number<N: FromStr>(&mut self) -> N {
        number(self.next())
    }

    fn take(&mut self, word: &str) -> bool {
        self.words.next_if_eq(&word).is_some()
    }

    /// The next word, unless it ends the operation or the branch.
    fn more(&mut self) -> Option<&'c str> {
        self.words.next_if(|word| ![";", "else", "end"].contains(word))
    }
}

fn number<N: FromStr>(word: &str) -> N {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

/// The number of a name: its position in the list.
fn place(names: &[&str], name: &str) -> i32 {
    let place =
        names.iter().position(|known| *known == name).unwrap_or_else(|| panic!("unknown name {name}"));
    i32::try_from(place).expect("lists are short")
}

fn bytes(word: &str) -> Bytes {
    Bytes::copy_from_slice(if word == "*" { b"\0" } else { word.as_bytes() })
}

pub(super) fn entry(index: u64, command: &str) -> (EntryKind, Bytes) {
    let mut tokens = Tokens::new(command);
    if let Some(change) = change(index, &mut Tokens::new(command)) {
        return (EntryKind::ConfChange, change.encode_to_vec().into());
    }
    let mut request = pb::InternalRaftRequest {
        header: Some(pb::RequestHeader { id: MEMBER << 48 | index, ..Default::default() }),
        ..Default::default()
    };
    match tokens.peek().expect("a command") {
        "noop" => return (EntryKind::Normal, Bytes::new()),
        "unknown" => {}
        "headless" => {
            request.header = None;
            request.put = Some(pb::PutRequest::default());
        }
        "auth_enable" => request.auth_enable = Some(pb::AuthEnableRequest {}),
        "auth_status" => request.auth_status = Some(pb::AuthStatusRequest {}),
        "user_get" => request.auth_user_get = Some(pb::AuthUserGetRequest { name: "root".to_owned() }),
        "user_add" => {
            request.auth_user_add =
                Some(pb::AuthUserAddRequest { name: "root".to_owned(), ..Default::default() });
        }
        "elsewhere" => {
            tokens.next();
            let header = pb::RequestHeader { id: (MEMBER + 1) << 48 | index, ..Default::default() };
            request.header = Some(header);
            fill(&mut request, &mut tokens);
        }
        _ => fill(&mut request, &mut tokens),
    }
    (EntryKind::Normal, request.encode_to_vec().into())
}

fn fill(request: &mut pb::InternalRaftRequest, tokens: &mut Tokens<'_>) {
    match tokens.peek().expect("a command") {
        "put" => request.put = Some(put(tokens)),
        "del" => request.delete_range = Some(del(tokens)),
        "range" => request.range = Some(range(tokens)),
        "txn" => {
            tokens.next();
            request.txn = Some(txn(tokens));
        }
        _ => fill_rest(request, tokens),
    }
}

fn fill_rest(request: &mut pb::InternalRaftRequest, tokens: &mut Tokens<'_>) {
    match tokens.next() {
        "compact" => {
            request.compaction = Some(pb::CompactionRequest { revision: tokens.number(), physical: false });
        }
        "grant" => {
            request.lease_grant = Some(pb::LeaseGrantRequest { id: tokens.number(), ttl: tokens.number() });
        }
        "revoke" => request.lease_revoke = Some(pb::LeaseRevokeRequest { id: tokens.number() }),
        "checkpoint" => {
            let checkpoint = pb::LeaseCheckpoint { id: tokens.number(), remaining_ttl: tokens.number() };
            request.lease_checkpoint = Some(pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] });
        }
        "alarm" => {
            let action = place(&["get", "on", "off", "odd"], tokens.next());
            let (member_id, alarm) = (tokens.number(), tokens.number());
            request.alarm = Some(pb::AlarmRequest { action, member_id, alarm });
        }
        "version" => {
            let ver = tokens.next().to_owned();
            request.cluster_version_set = Some(membershippb::ClusterVersionSetRequest { ver });
        }
        "attr" => {
            let member_id = tokens.number();
            let attributes = tokens.more().map(|name| membershippb::Attributes {
                name: name.to_owned(),
                client_urls: vec![tokens.next().to_owned()],
            });
            request.cluster_member_attr_set =
                Some(membershippb::ClusterMemberAttrSetRequest { member_id, member_attributes: attributes });
        }
        "downgrade" => {
            let (enabled, ver) = (tokens.take("on"), tokens.next().to_owned());
            request.downgrade_info_set = Some(membershippb::DowngradeInfoSetRequest { enabled, ver });
        }
        "downgrade_test" => {
            request.downgrade_version_test =
                Some(pb::DowngradeVersionTestRequest { ver: "3.6.0".to_owned() });
        }
        other => panic!("unknown command {other}"),
    }
}

fn put(tokens: &mut Tokens<'_>) -> pb::PutRequest {
    tokens.next();
    let key = bytes(tokens.next());
    let mut put = pb::PutRequest { key, ..Default::default() };
    while let Some(word) = tokens.more() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("lease", id) => put.lease = number(id),
            ("prev", _) => put.prev_kv = true,
            ("ignore_value", _) => put.ignore_value = true,
            ("ignore_lease", _) => put.ignore_lease = true,
            _ => put.value = bytes(word),
        }
    }
    put
}

fn del(tokens: &mut Tokens<'_>) -> pb::DeleteRangeRequest {
    tokens.next();
    let key = bytes(tokens.next());
    let mut del = pb::DeleteRangeRequest { key, ..Default::default() };
    while let Some(word) = tokens.more() {
        match word {
            "prev" => del.prev_kv = true,
            _ => del.range_end = bytes(word),
        }
    }
    del
}

pub(super) fn range(tokens: &mut Tokens<'_>) -> pb::RangeRequest {
    tokens.next();
    let key = bytes(tokens.next());
    let mut range = pb::RangeRequest { key, ..Default::default() };
    while let Some(word) = tokens.more() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("rev", n) => range.revision = number(n),
            ("limit", n) => range.limit = number(n),
            ("keys", _) => range.keys_only = true,
            ("count", _) => range.count_only = true,
            ("serializable", _) => range.serializable = true,
            ("min_mod", n) => range.min_mod_revision = number(n),
            ("max_mod", n) => range.max_mod_revision = number(n),
            ("min_create", n) => range.min_create_revision = number(n),
            ("max_create", n) => range.max_create_revision = number(n),
            ("sort", how) => {
                let (by, order) = how.split_once(':').expect("sort=by:order");
                range.sort_target = place(&["key", "version", "create", "mod", "value"], by);
                range.sort_order = place(&["none", "asc", "desc"], order);
            }
            _ => range.range_end = bytes(word),
        }
    }
    range
}

/// Parses what follows the word `txn`, up to and including its `end`.
pub(super) fn txn(tokens: &mut Tokens<'_>) -> pb::TxnRequest {
    let mut txn = pb::TxnRequest::default();
    if tokens.take("if") {
        while !tokens.take("then") {
            txn.compare.push(compare(tokens.next()));
        }
    } else {
        assert!(tokens.take("then"), "then");
    }
    txn.success = ops(tokens);
    assert!(tokens.take("else"), "else");
    txn.failure = ops(tokens);
    assert!(tokens.take("end"), "end");
    txn
}

fn ops(tokens: &mut Tokens<'_>) -> Vec<pb::RequestOp> {
    let mut ops = Vec::new();
    while !["else", "end"].contains(&tokens.peek().expect("else or end")) {
        let request = match tokens.peek().expect("an operation") {
            "put" => Request::RequestPut(put(tokens)),
            "del" => Request::RequestDeleteRange(del(tokens)),
            "get" => Request::RequestRange(range(tokens)),
            "txn" => {
                tokens.next();
                Request::RequestTxn(txn(tokens))
            }
            other => panic!("unknown operation {other}"),
        };
        ops.push(pb::RequestOp { request: Some(request) });
        tokens.take(";");
    }
    ops
}

fn compare(word: &str) -> pb::Compare {
    let (target, rest) = word.split_once(':').expect("target:…");
    let (target, mismatch) = target.strip_suffix('?').map_or((target, false), |target| (target, true));
    let at = rest.find(['=', '!', '<', '>']).expect("an operator");
    let (keys, rest) = rest.split_at(at);
    let (result, operand) = match rest.strip_prefix("!=") {
        Some(operand) => (3, operand),
        None => (place(&["=", ">", "<"], &rest[..1]), &rest[1..]),
    };
    let (key, end) = keys.split_once("..").map_or((keys, None), |(key, end)| (key, Some(end)));
    let (target, union) = match target {
        "version" => (0, TargetUnion::Version(number(operand))),
        "create" => (1, TargetUnion::CreateRevision(number(operand))),
        "mod" => (2, TargetUnion::ModRevision(number(operand))),
        "value" => (3, TargetUnion::Value(bytes(operand))),
        "lease" => (4, TargetUnion::Lease(number(operand))),
        other => panic!("unknown target {other}"),
    };
    let range_end = end.map(bytes).unwrap_or_default();
    let target_union = (!mismatch).then_some(union);
    pb::Compare { result, target, key: bytes(key), range_end, target_union }
}

fn change(index: u64, tokens: &mut Tokens<'_>) -> Option<raftpb::ConfChange> {
    let word = tokens.next();
    let kind = match word {
        "add" | "promote" => 0,
        "remove" => 1,
        "update" => 2,
        "learner" => 3,
        "change" => tokens.number(),
        _ => return None,
    };
    let node: u64 = tokens.number();
    let context = match word {
        "remove" => None,
        "promote" => Some(format!(r#"{{"id":{node},"peerURLs":null,"isPromote":true}}"#)),
        "learner" => Some(format!(r#"{{"id":{node},"peerURLs":["{}"],"isLearner":true}}"#, tokens.next())),
        "change" => Some(tokens.next().to_owned()),
        _ => Some(format!(r#"{{"id":{node},"peerURLs":["{}"]}}"#, tokens.next())),
    };
    Some(raftpb::ConfChange {
        id: Some(MEMBER << 48 | index),
        r#type: Some(kind),
        node_id: Some(node),
        context: context.map(Bytes::from),
    })
}
