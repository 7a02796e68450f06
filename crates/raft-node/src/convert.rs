//! Converts between etcd's wire types (prost) and raft-rs's (rust-protobuf), and validates peers' messages, because
//! raft-rs panics on what a correct peer never sends.
//!
//! * [`incoming`] checks what the message alone shows: receiver, sender, kind, term, sizes, contiguous entries. Its
//!   result, [`Checked`], is the only form that [`crate::core::Core`] accepts.
//! * `core::guard` checks what depends on the log: a commit beyond it, a conflict with committed entries.
//!
//! An unknown sender is no reason to refuse: a lagging member may learn of a new leader from its messages. raft itself
//! ignores strangers' responses; [`crate::Handle::deliver`] refuses removed members, as etcd does.
//!
//! Only prost decodes bytes from outside; rust-protobuf 2 never does (RUSTSEC-2024-0437).

use crate::conf::wire_conf;
use crate::limits::Limits;
use bytes::Bytes;
use proto::raftpb::{self, MessageType as Wire};
use raft::eraftpb::{self, MessageType as Kind};
use std::time::Duration;
use thiserror::Error;
use types::{Entry, EntryKind};

/// The length of a read's context, bytes: an 8-byte request ID. etcd's leader panics on shorter ones.
pub const READ_CONTEXT_LEN: usize = 8;

/// The kinds that members send to each other, in etcd's words and in raft-rs's. The others are local.
const KINDS: [(Wire, Kind); 14] = [
    (Wire::MsgProp, Kind::MsgPropose),
    (Wire::MsgApp, Kind::MsgAppend),
    (Wire::MsgAppResp, Kind::MsgAppendResponse),
    (Wire::MsgVote, Kind::MsgRequestVote),
    (Wire::MsgVoteResp, Kind::MsgRequestVoteResponse),
    (Wire::MsgSnap, Kind::MsgSnapshot),
    (Wire::MsgHeartbeat, Kind::MsgHeartbeat),
    (Wire::MsgHeartbeatResp, Kind::MsgHeartbeatResponse),
    (Wire::MsgTransferLeader, Kind::MsgTransferLeader),
    (Wire::MsgTimeoutNow, Kind::MsgTimeoutNow),
    (Wire::MsgReadIndex, Kind::MsgReadIndex),
    (Wire::MsgReadIndexResp, Kind::MsgReadIndexResp),
    (Wire::MsgPreVote, Kind::MsgRequestPreVote),
    (Wire::MsgPreVoteResp, Kind::MsgRequestPreVoteResponse),
];

/// A message that is safe to pass to raft.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked(pub(crate) eraftpb::Message);

impl Checked {
    /// Its approximate memory, bytes.
    pub fn bytes(&self) -> usize {
        size_of::<eraftpb::Message>()
            + self.0.entries.iter().map(|e| size_of::<eraftpb::Entry>() + e.data.len()).sum::<usize>()
    }

    /// The position of an append, as (term, index); `None` for other kinds.
    pub fn append_order(&self) -> Option<(u64, u64)> {
        (self.0.get_msg_type() == Kind::MsgAppend).then_some((self.0.term, self.0.index))
    }
}

/// A peer's message by what is to be done with it.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// A message to pass to raft.
    Step(Checked),
    /// Forwarded entries, which queue like our own proposals.
    Proposals(Forwarded),
}

/// Entries forwarded by a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// How often they were sent, including the last time.
    pub hops: u8,
    /// How much longer they may wait, if the sender said so.
    pub left: Option<Duration>,
    /// The entries to propose.
    pub entries: Vec<(EntryKind, Bytes)>,
}

/// Why a message is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    /// It is addressed to another member.
    #[error("the message is for member {0:x}")]
    OtherReceiver(u64),
    /// It has no sender, or claims this member as sender.
    #[error("the message has no valid sender")]
    NoSender,
    /// This kind is never sent between members.
    #[error("messages of kind {0} are local to a member")]
    LocalKind(i32),
    /// It lacks a term, or has one where none belongs.
    #[error("the message's term {0} does not fit its kind")]
    Term(u64),
    /// Its entries are not contiguous, too many or too large, or have decreasing or future terms or unknown kinds.
    #[error("the message's entries are not valid: {0}")]
    Entries(&'static str),
    /// It proposes an entry that no member could apply.
    #[error("the message proposes what cannot be applied: {0}")]
    Entry(String),
    /// The length of its context is invalid.
    #[error("the message's context has {0} bytes")]
    Context(usize),
    /// Its snapshot has no place in a log, or is of a cluster without this member.
    #[error("the message's snapshot is not valid: {0}")]
    Snapshot(&'static str),
}

/// Checks a message for the member `me` and converts it.
pub fn incoming(message: raftpb::Message, me: u64, limits: &Limits) -> Result<Incoming, Rejected> {
    if message.to() != me {
        return Err(Rejected::OtherReceiver(message.to()));
    }
    if message.from() == 0 || message.from() == me {
        return Err(Rejected::NoSender);
    }
    let raw_kind = message.r#type.unwrap_or_default();
    let wire = Wire::try_from(raw_kind).map_err(|_| Rejected::LocalKind(raw_kind))?;
    let kind = match wire {
        Wire::MsgProp => return proposals(message, limits),
        Wire::MsgSnap => return Err(Rejected::Snapshot("it came without its database")),
        _ => match KINDS.iter().find(|(known, _)| *known == wire) {
            Some((_, kind)) => *kind,
            None => return Err(Rejected::LocalKind(raw_kind)),
        },
    };
    // A read is forwarded without a term, like a proposal. Every other kind has one.
    let wants_term = kind != Kind::MsgReadIndex;
    if wants_term != (message.term() != 0) && kind != Kind::MsgTransferLeader {
        return Err(Rejected::Term(message.term()));
    }
    let context = message.context().len();
    if context > limits.peer_context_bytes {
        return Err(Rejected::Context(context));
    }
    let entries = match kind {
        Kind::MsgAppend => append_entries(&message, limits)?,
        Kind::MsgReadIndex | Kind::MsgReadIndexResp => read_entry(&message)?,
        _ if message.entries.is_empty() => Vec::new(),
        _ => return Err(Rejected::Entries("this kind carries none")),
    };
    let mut out = eraftpb::Message::default();
    out.set_msg_type(kind);
    out.to = message.to();
    out.from = message.from();
    out.term = message.term();
    out.log_term = message.log_term();
    out.index = message.index();
    out.commit = message.commit();
    out.reject = message.reject();
    out.reject_hint = message.reject_hint();
    out.set_entries(entries.into());
    out.context = message.context.unwrap_or_default();
    Ok(Incoming::Step(Checked(out)))
}

fn wire_kind(entry: &raftpb::Entry) -> Result<EntryKind, Rejected> {
    match entry.r#type.unwrap_or_default() {
        0 => Ok(EntryKind::Normal),
        1 => Ok(EntryKind::ConfChange),
        // etcd's members panic when they apply one: it must not enter a log.
        _ => Err(Rejected::Entries("joint changes of members are not supported")),
    }
}

fn proposals(message: raftpb::Message, limits: &Limits) -> Result<Incoming, Rejected> {
    if message.entries.is_empty() {
        return Err(Rejected::Entries("a proposal of nothing"));
    }
    if message.entries.len() > limits.peer_entries {
        return Err(Rejected::Entries("too many"));
    }
    let (hops, left) = read_forward_context(message.context());
    let mut entries = Vec::with_capacity(message.entries.len());
    for entry in message.entries {
        let kind = wire_kind(&entry)?;
        let data = entry.data.unwrap_or_default();
        if data.is_empty() || data.len() > limits.peer_entry_bytes {
            return Err(Rejected::Entries("a proposal without data, or too large"));
        }
        // The entry may enter the log, which every member applies.
        machine::check(kind, &data).map_err(Rejected::Entry)?;
        entries.push((kind, data));
    }
    Ok(Incoming::Proposals(Forwarded { hops, left, entries }))
}

/// The context of a forwarded proposal: how often it was sent, and the milliseconds it may still wait. etcd's members
/// pass it on unread. A proposal from its own member has none, as in etcd.
pub(crate) fn forward_context(hops: u8, left: Duration) -> Bytes {
    let millis = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
    let mut mark = vec![hops];
    mark.extend(millis.to_be_bytes());
    mark.into()
}

fn read_forward_context(context: &[u8]) -> (u8, Option<Duration>) {
    match *context {
        [hops, a, b, c, d] => {
            let left = Duration::from_millis(u32::from_be_bytes([a, b, c, d]).into());
            (hops.saturating_add(1), Some(left))
        }
        _ => (1, None),
    }
}

fn append_entries(message: &raftpb::Message, limits: &Limits) -> Result<Vec<eraftpb::Entry>, Rejected> {
    if message.log_term() > message.term() || (message.index() == 0) != (message.log_term() == 0) {
        return Err(Rejected::Term(message.log_term()));
    }
    if message.entries.len() > limits.peer_entries {
        return Err(Rejected::Entries("too many"));
    }
    let mut out = Vec::with_capacity(message.entries.len());
    let (mut index, mut term) = (message.index(), message.log_term());
    for entry in &message.entries {
        index = index.checked_add(1).ok_or(Rejected::Entries("indexes overflow"))?;
        if entry.index() != index {
            return Err(Rejected::Entries("indexes are not contiguous"));
        }
        if entry.term() < term || entry.term() == 0 || entry.term() > message.term() {
            return Err(Rejected::Entries("terms fall, or lie in the future"));
        }
        term = entry.term();
        let data = entry.data.clone().unwrap_or_default();
        if data.len() > limits.peer_entry_bytes {
            return Err(Rejected::Entries("too large"));
        }
        out.push(raft_entry(wire_kind(entry)?, term, index, data));
    }
    Ok(out)
}

fn read_entry(message: &raftpb::Message) -> Result<Vec<eraftpb::Entry>, Rejected> {
    let [entry] = &message.entries[..] else {
        return Err(Rejected::Entries("a read has exactly one"));
    };
    let data = entry.data.clone().unwrap_or_default();
    if data.len() != READ_CONTEXT_LEN {
        return Err(Rejected::Context(data.len()));
    }
    Ok(vec![raft_entry(EntryKind::Normal, entry.term(), entry.index(), data)])
}

pub(crate) fn raft_entry(kind: EntryKind, term: u64, index: u64, data: Bytes) -> eraftpb::Entry {
    let mut out = eraftpb::Entry::default();
    out.set_entry_type(match kind {
        EntryKind::Normal => eraftpb::EntryType::EntryNormal,
        EntryKind::ConfChange => eraftpb::EntryType::EntryConfChange,
    });
    out.term = term;
    out.index = index;
    out.data = data;
    out
}

/// Converts an entry from raft-rs's type. Joint changes cannot occur: [`incoming`] refuses them.
pub(crate) fn log_entry(entry: eraftpb::Entry) -> Entry {
    Entry { term: entry.term, index: entry.index, kind: log_kind(&entry), data: entry.data }
}

pub(crate) fn log_entry_ref(entry: &eraftpb::Entry) -> Entry {
    Entry { term: entry.term, index: entry.index, kind: log_kind(entry), data: entry.data.clone() }
}

fn log_kind(entry: &eraftpb::Entry) -> EntryKind {
    match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal => EntryKind::Normal,
        eraftpb::EntryType::EntryConfChange | eraftpb::EntryType::EntryConfChangeV2 => EntryKind::ConfChange,
    }
}

/// Converts an outgoing message to etcd's type and its fields; `None` for kinds that must not leave.
pub fn outgoing(message: eraftpb::Message) -> Option<raftpb::Message> {
    let (kind, _) = *KINDS.iter().find(|(_, known)| *known == message.get_msg_type())?;
    let carries_commit = matches!(kind, Wire::MsgApp | Wire::MsgHeartbeat);
    let carries_index = matches!(kind, Wire::MsgApp | Wire::MsgAppResp | Wire::MsgVote | Wire::MsgPreVote);
    let some = |value: u64, always: bool| (always || value != 0).then_some(value);
    let is_proposal = kind == Wire::MsgProp;
    Some(raftpb::Message {
        r#type: Some(kind.into()),
        to: Some(message.to),
        from: Some(message.from),
        term: some(message.term, false),
        log_term: some(message.log_term, kind == Wire::MsgApp),
        index: some(message.index, carries_index),
        commit: carries_commit.then_some(message.commit),
        reject: message.reject.then_some(true),
        reject_hint: some(message.reject_hint, false),
        context: (!message.context.is_empty()).then(|| message.context.clone()),
        snapshot: (kind == Wire::MsgSnap).then(|| wire_snapshot(message.get_snapshot())),
        entries: message.entries.into_iter().map(|entry| wire_entry(entry, is_proposal)).collect(),
        ..Default::default()
    })
}

/// What raft says of a snapshot, in etcd's type.
fn wire_snapshot(snapshot: &eraftpb::Snapshot) -> raftpb::Snapshot {
    let metadata = snapshot.get_metadata();
    let conf_state = Some(wire_conf(metadata.get_conf_state()));
    let metadata =
        raftpb::SnapshotMetadata { conf_state, index: Some(metadata.index), term: Some(metadata.term) };
    raftpb::Snapshot { data: None, metadata: Some(metadata) }
}

fn wire_entry(entry: eraftpb::Entry, is_proposal: bool) -> raftpb::Entry {
    let is_change = entry.get_entry_type() == eraftpb::EntryType::EntryConfChange;
    raftpb::Entry {
        r#type: is_change.then_some(raftpb::EntryType::EntryConfChange.into()),
        term: (!is_proposal && entry.term != 0).then_some(entry.term),
        index: (!is_proposal && entry.index != 0).then_some(entry.index),
        data: (!entry.data.is_empty()).then_some(entry.data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use proto::etcdserverpb as pb;

    fn message(kind: Wire, term: u64) -> raftpb::Message {
        raftpb::Message {
            r#type: Some(kind.into()),
            to: Some(1),
            from: Some(2),
            term: Some(term),
            ..Default::default()
        }
    }

    fn entry(term: u64, index: u64, data: &'static str) -> raftpb::Entry {
        raftpb::Entry { term: Some(term), index: Some(index), data: Some(data.into()), r#type: None }
    }

    fn append(log_term: u64, index: u64, entries: Vec<raftpb::Entry>) -> raftpb::Message {
        raftpb::Message { log_term: Some(log_term), index: Some(index), entries, ..message(Wire::MsgApp, 5) }
    }

    #[expect(clippy::needless_pass_by_value, reason = "expectations are written in place")]
    fn check(message: raftpb::Message, expected: Result<(), Rejected>) {
        let shown = format!("{message:?}");
        assert_eq!(incoming(message, 1, &Limits::default()).map(drop), expected, "{shown}");
    }

    #[test]
    fn what_crosses_the_wire_is_checked() {
        let entries = |what| Err(Rejected::Entries(what));
        check(message(Wire::MsgHeartbeat, 5), Ok(()));
        check(
            raftpb::Message { to: Some(3), ..message(Wire::MsgHeartbeat, 5) },
            Err(Rejected::OtherReceiver(3)),
        );
        check(raftpb::Message { from: None, ..message(Wire::MsgHeartbeat, 5) }, Err(Rejected::NoSender));
        check(raftpb::Message { from: Some(1), ..message(Wire::MsgHeartbeat, 5) }, Err(Rejected::NoSender));
        check(message(Wire::MsgHeartbeat, 0), Err(Rejected::Term(0)));
        check(message(Wire::MsgHup, 0), Err(Rejected::LocalKind(0)));
        check(raftpb::Message { r#type: Some(99), ..message(Wire::MsgHup, 5) }, Err(Rejected::LocalKind(99)));
        let context = Some(vec![0; Limits::default().peer_context_bytes + 1].into());
        check(raftpb::Message { context, ..message(Wire::MsgHeartbeat, 5) }, Err(Rejected::Context(65)));
        let stray = raftpb::Message { entries: vec![entry(5, 1, "")], ..message(Wire::MsgVote, 5) };
        check(stray, entries("this kind carries none"));
    }

    #[test]
    fn appends_are_contiguous_and_their_terms_never_fall() {
        let entries = |what| Err(Rejected::Entries(what));
        check(append(0, 0, vec![entry(1, 1, "a"), entry(5, 2, "b")]), Ok(()));
        check(append(4, 7, vec![]), Ok(()));
        check(append(4, 7, vec![entry(4, 9, "a")]), entries("indexes are not contiguous"));
        check(append(4, 7, vec![entry(3, 8, "a")]), entries("terms fall, or lie in the future"));
        check(append(4, 7, vec![entry(6, 8, "a")]), entries("terms fall, or lie in the future"));
        check(append(4, u64::MAX, vec![entry(5, 0, "a")]), entries("indexes overflow"));
        check(append(6, 7, vec![]), Err(Rejected::Term(6)));
        check(append(0, 7, vec![]), Err(Rejected::Term(0)));
        let joint = raftpb::Entry { r#type: Some(2), ..entry(5, 8, "a") };
        check(append(4, 7, vec![joint]), entries("joint changes of members are not supported"));
    }

    #[test]
    fn reads_carry_one_context_of_eight_bytes_and_proposals_carry_something() {
        let read = |data: &'static str| raftpb::Message {
            term: None,
            entries: vec![entry(0, 0, data)],
            ..message(Wire::MsgReadIndex, 0)
        };
        check(read("12345678"), Ok(()));
        check(read("1234567"), Err(Rejected::Context(7)));
        check(
            raftpb::Message { entries: vec![], ..read("") },
            Err(Rejected::Entries("a read has exactly one")),
        );
        check(raftpb::Message { term: Some(3), ..read("12345678") }, Err(Rejected::Term(3)));
        check(message(Wire::MsgProp, 0), Err(Rejected::Entries("a proposal of nothing")));
        let entry = |data: &[u8]| raftpb::Entry { data: Some(data.to_vec().into()), ..Default::default() };
        let proposal = |data| raftpb::Message { entries: vec![entry(data)], ..message(Wire::MsgProp, 0) };
        // A put of key "k" with header ID 9; the header alone; the put alone; field 77 with the header.
        let (put, header, unknown) = (b"\x22\x03\x0a\x01k", b"\xa2\x06\x02\x08\x09", b"\xea\x04\x01x");
        let request = [&put[..], &header[..]].concat();
        let entries = vec![(EntryKind::Normal, request.clone().into())];
        let expected = Incoming::Proposals(Forwarded { hops: 1, left: None, entries });
        assert_eq!(incoming(proposal(&request), 1, &Limits::default()), Ok(expected));
        check(proposal(header), Err(Rejected::Entry("a request of no known kind".to_owned())));
        check(proposal(put), Err(Rejected::Entry("the request has no header".to_owned())));
        let unknown = [&unknown[..], &header[..]].concat();
        check(proposal(&unknown), Err(Rejected::Entry("a request of no known kind".to_owned())));
        assert!(matches!(incoming(proposal(b"\xff\xff"), 1, &Limits::default()), Err(Rejected::Entry(_))));
    }

    #[test]
    fn what_a_peer_may_send_is_a_limits_value() {
        let limits =
            Limits { peer_entries: 1, peer_entry_bytes: 12, peer_context_bytes: 3, ..Limits::default() };
        let taken = |message: raftpb::Message| incoming(message, 1, &limits).map(drop);
        let small = |index| entry(5, index, "twelve bytes");
        assert_eq!(taken(append(5, 1, vec![small(2)])), Ok(()));
        assert_eq!(taken(append(5, 1, vec![small(2), small(3)])), Err(Rejected::Entries("too many")));
        assert_eq!(
            taken(append(5, 1, vec![entry(5, 2, "thirteen byte")])),
            Err(Rejected::Entries("too large"))
        );
        let request = b"\x22\x03\x0a\x01k\xa2\x06\x02\x08\x09";
        let entry = |data: &[u8]| raftpb::Entry { data: Some(data.to_vec().into()), ..Default::default() };
        let proposal = |entries| raftpb::Message { entries, ..message(Wire::MsgProp, 0) };
        assert_eq!(taken(proposal(vec![entry(request)])), Ok(()));
        let two = proposal(vec![entry(request), entry(request)]);
        assert_eq!(taken(two), Err(Rejected::Entries("too many")));
        let large = taken(proposal(vec![entry(&[b'x'; 13])]));
        assert_eq!(large, Err(Rejected::Entries("a proposal without data, or too large")));
        let context = Some(vec![0; 4].into());
        let heartbeat = raftpb::Message { context, ..message(Wire::MsgHeartbeat, 5) };
        assert_eq!(taken(heartbeat), Err(Rejected::Context(4)));
    }

    #[test]
    fn a_proposal_that_is_handed_on_says_how_often_and_how_long_it_may_wait() {
        let request = b"\x22\x03\x0a\x01k\xa2\x06\x02\x08\x09";
        let hops = |context: Option<Bytes>| {
            let entries = vec![raftpb::Entry { data: Some(request.to_vec().into()), ..Default::default() }];
            let message = raftpb::Message { entries, context, ..message(Wire::MsgProp, 0) };
            match incoming(message, 1, &Limits::default()) {
                Ok(Incoming::Proposals(Forwarded { hops, left, .. })) => (hops, left),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(hops(None), (1, None));
        assert_eq!(hops(Some("something of etcd's".into())), (1, None));
        let left = Duration::from_millis(6_543);
        assert_eq!(hops(Some(forward_context(1, left))), (2, Some(left)));
        assert_eq!(hops(Some(forward_context(255, left))), (255, Some(left)));
        assert_eq!(
            hops(Some(forward_context(1, Duration::MAX))),
            (2, Some(Duration::from_millis(u32::MAX.into())))
        );
    }

    #[test]
    fn a_forwarded_transaction_is_read_as_deep_as_it_can_be_applied() {
        let check_nested = |levels, expected| {
            let txn = (1..levels).fold(pb::TxnRequest::default(), |inner, _| {
                let op = pb::request_op::Request::RequestTxn(inner);
                pb::TxnRequest { success: vec![pb::RequestOp { request: Some(op) }], ..Default::default() }
            });
            let header = Some(pb::RequestHeader { id: 9, ..Default::default() });
            let request = pb::InternalRaftRequest { header, txn: Some(txn), ..Default::default() };
            let data = Some(request.encode_to_vec().into());
            let entries = vec![raftpb::Entry { data, ..Default::default() }];
            check(raftpb::Message { entries, ..message(Wire::MsgProp, 0) }, expected);
        };
        check_nested(127, Ok(()));
        check_nested(proto::deep::LEVELS_MAX, Ok(()));
        let unreadable = Rejected::Entry("transactions are nested deeper than 1000 levels".to_owned());
        check_nested(proto::deep::LEVELS_MAX + 1, Err(unreadable));
    }

    #[test]
    fn a_snapshot_without_its_database_is_refused() {
        check(message(Wire::MsgSnap, 5), Err(Rejected::Snapshot("it came without its database")));
    }

    /// Captured from an etcd 3.7.3 leader: type, to, from, term, logTerm, index, commit; zeros included.
    #[test]
    fn our_messages_set_the_fields_that_etcd_sets() {
        let mut append = eraftpb::Message::default();
        append.set_msg_type(Kind::MsgAppend);
        (append.to, append.from, append.term) = (1, 2, 2);
        append.set_entries(vec![raft_entry(EntryKind::Normal, 2, 1, Bytes::new())].into());
        let wire = outgoing(append).unwrap();
        assert_eq!((wire.log_term, wire.index, wire.commit, wire.reject), (Some(0), Some(0), Some(0), None));
        let noop = raftpb::Entry { term: Some(2), index: Some(1), ..Default::default() };
        assert_eq!(wire.entries, [noop]);
        let mut proposal = eraftpb::Message::default();
        proposal.set_msg_type(Kind::MsgPropose);
        proposal.set_entries(vec![raft_entry(EntryKind::ConfChange, 0, 0, "x".into())].into());
        let wire = outgoing(proposal).unwrap();
        let change = raftpb::Entry { r#type: Some(1), data: Some("x".into()), ..Default::default() };
        assert_eq!((wire.term, wire.commit, &wire.entries[..]), (None, None, &[change][..]));
        assert_eq!(outgoing(eraftpb::Message::default()), None, "a local message stays");
    }
}
