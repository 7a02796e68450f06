//! The oracles: what must hold after every step, whatever network, disks and crashes did.

mod raft;
mod snapshots;

use crate::Violation;
use crate::client::{Question, What};
use crate::copies::Copies;
use crate::model::{Model, without_rows};
use bytes::Bytes;
use engine::{Engine, Family, MemoryEngine};
use machine::{Command, ConfChangeKind, Effect, Kind, Machine, Outcome, Refusal, Response, Shared, Stop};
use mvcc::{Cost, Effort};
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use raft::Promises;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{ControlFlow, RangeInclusive};
use types::{Entry, EntryKind, Index, Term};

macro_rules! must {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}
use must;

/// Until a leader has applied a change, it counts by the former voters; it may be two changes behind the most
/// advanced member.
const VOTERS_KEPT: usize = 3;

/// One index of the log, as the first member to apply it saw it.
struct Record {
    entry: Entry,
    request_id: u64,
    /// The proposer's answer; `None` for entries that no client made.
    answer: Option<Result<Response, Refusal>>,
    conf: Option<Effect>,
    /// Whether NOSPACE was raised before it.
    is_full: bool,
    /// Whether it changes nothing and is only answered to its proposer.
    is_question: bool,
    revision: i64,
    compact: i64,
    /// The state's hash after it, once a group has ended here.
    state: Option<(u64, u64)>,
}

pub(crate) struct Oracle {
    records: Vec<Record>,
    model: Model,
    members: BTreeMap<u64, Promises>,
    leaders: BTreeMap<Term, u64>,
    logged: BTreeSet<u64>,
    /// Acknowledged writes: request ID, and the revision that the client got.
    acknowledged: Vec<(u64, i64)>,
    /// The newest revision that any client has seen.
    floor: i64,
    pub(crate) reads: u64,
    pub(crate) promises: crate::promises::Promises,
    /// The contents of the logs, and where they are durable.
    pub(crate) copies: Copies,
    /// The voters, now and before the last changes: a leader counts by what it has applied.
    voters: VecDeque<BTreeSet<u64>>,
    /// Contexts of reads: whether a request, its sender, the term of an answer.
    contexts: BTreeSet<(bool, u64, Term, Bytes)>,
    /// When each member's clock said that it started.
    starts: BTreeSet<(u64, u64)>,
    /// The hashes of snapshots, by index.
    snapshots: BTreeMap<Index, (u64, u64)>,
}

impl Oracle {
    /// The clock of a starting member: a millisecond at which it did not start before, since it would make the same
    /// request IDs again.
    pub(crate) fn starts(&mut self, member: u64, unix_millis: u64) -> u64 {
        let mut own = unix_millis..;
        own.find(|millis| self.starts.insert((member, *millis))).expect("numbers do not end")
    }

    /// The oracles of a cluster of this many members, which start with these entries, and spares.
    pub(crate) fn new(members: u64, spares: u64, first: &[Entry]) -> Self {
        let voters: BTreeSet<u64> = (1..=members).collect();
        let copies = Copies::default();
        for member in &voters {
            copies.begins(*member, first);
        }
        Self {
            copies,
            voters: VecDeque::from([voters]),
            records: Vec::new(),
            model: Model::new(),
            members: (1..=members + spares).map(|id| (id, Promises::default())).collect(),
            leaders: BTreeMap::new(),
            logged: BTreeSet::new(),
            acknowledged: Vec::new(),
            floor: 0,
            reads: 0,
            promises: crate::promises::Promises::default(),
            contexts: BTreeSet::new(),
            starts: BTreeSet::new(),
            snapshots: BTreeMap::new(),
        }
    }

    pub(crate) fn elections(&self) -> usize {
        self.leaders.len()
    }

    pub(crate) fn writes_acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    pub(crate) fn last_index(&self) -> Index {
        self.records.len() as u64
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// The newest revision that any client has seen: a read that starts now must see it.
    pub(crate) fn floor(&self) -> i64 {
        self.floor
    }

    /// A client was answered from a state at this revision.
    pub(crate) fn observe_revision(&mut self, revision: i64) {
        self.floor = self.floor.max(revision);
    }

    /// A client was told that its write is done.
    pub(crate) fn acknowledge(&mut self, request_id: u64, revision: i64) {
        self.acknowledged.push((request_id, revision));
        self.observe_revision(revision);
    }

    fn record(&self, index: Index) -> Option<&Record> {
        self.records.get(usize::try_from(index).ok()?.checked_sub(1)?)
    }

    pub(crate) fn applied(
        &mut self,
        id: u64,
        entry: &Entry,
        outcome: &Outcome,
        turn: RangeInclusive<crate::Micros>,
    ) -> Result<(), Violation> {
        let index = entry.index;
        must!(
            outcome.index == index,
            "member {id}: the outcome of index {} stands at {index}",
            outcome.index
        );
        if index == self.last_index() + 1 {
            self.first_applied(entry, outcome, turn)?;
        }
        let record = self.record(index);
        let record =
            record.ok_or_else(|| format!("member {id} applied index {index} with a gap before it"))?;
        must!(
            record.entry == *entry,
            "member {id} applied another entry at index {index}: {:?}, it was {:?}",
            short(entry),
            short(&record.entry)
        );
        let waits_here = outcome.request_id >> 48 == id;
        must!(
            !(outcome.over_quota && record.is_full),
            "member {id} raises at index {index} what is raised already"
        );
        let Effect::Answer(answer) = &outcome.effect else {
            let asks = matches!(record.answer, Some(Ok(Response::Range(_)) | Err(_))) && record.is_question;
            must!(
                record.answer.is_none() || (asks && !waits_here),
                "member {id}: no answer at index {index}"
            );
            let conf = record.conf.as_ref().unwrap_or(&Effect::Nothing);
            must!(
                *conf == outcome.effect,
                "member {id}: {:?} at index {index}, elsewhere {conf:?}",
                outcome.effect
            );
            return Ok(());
        };
        must!(
            outcome.request_id == record.request_id,
            "member {id}: index {index} completes another request"
        );
        let expected = match record.answer.clone() {
            // It took effect, and exceeds this member's quota.
            Some(Ok(_)) if outcome.over_quota => Some(Err(Refusal::NoSpace)),
            Some(Ok(response)) if !waits_here => Some(Ok(without_rows(&response))),
            other => other,
        };
        let whole;
        let answer = match answer {
            Ok(Response::Unread(unread)) => {
                let read = unread.whole(&Effort::within(Cost::MAX));
                whole =
                    read.map_err(|stop| format!("member {id} cannot read what it left unread: {stop}"))?;
                &Ok(whole)
            }
            answer => answer,
        };
        must!(
            expected.as_ref() == Some(answer),
            "member {id} answers {answer:?} at index {index}, expected {expected:?}"
        );
        Ok(())
    }

    fn first_applied(
        &mut self,
        entry: &Entry,
        outcome: &Outcome,
        turn: RangeInclusive<crate::Micros>,
    ) -> Result<(), Violation> {
        self.check_durable(entry)?;
        let (mut request_id, mut answer, mut is_question) = (0, None, false);
        let is_full = self.model.has_alarm(pb::AlarmType::Nospace);
        if entry.kind == EntryKind::Normal && !entry.data.is_empty() {
            let command;
            (request_id, command) = read(entry)?;
            must!(
                self.logged.insert(request_id),
                "request {request_id:x} is in the log twice, the second time at index {}",
                entry.index
            );
            is_question = command.kind() == Kind::Range;
            answer = Some(self.model.apply(&command));
            if matches!(answer, Some(Ok(_))) {
                self.promises.applied(entry.index, request_id, &command, turn)?;
            }
        }
        let mut conf = None;
        if let Effect::Conf { .. } = outcome.effect {
            request_id = outcome.request_id;
            let is_new = request_id == 0 || self.logged.insert(request_id);
            must!(
                is_new,
                "change {request_id:x} is in the log twice, the second time at index {}",
                entry.index
            );
            conf = Some(outcome.effect.clone());
            self.voters_change(&outcome.effect);
        }
        let (revision, compact) = (self.model.revision(), self.model.compact());
        let entry = entry.clone();
        self.records.push(Record {
            entry,
            request_id,
            answer,
            conf,
            is_full,
            is_question,
            revision,
            compact,
            state: None,
        });
        Ok(())
    }

    /// What is applied anywhere must be on the disks of a majority, whatever happens to them.
    fn check_durable(&self, entry: &Entry) -> Result<(), Violation> {
        let Entry { index, term, .. } = *entry;
        let counts =
            self.voters.iter().map(|voters| (self.copies.durable(voters, index, term), voters.len()));
        let counts: Vec<(usize, usize)> = counts.collect();
        must!(
            counts.iter().any(|(durable, voters)| durable * 2 > *voters),
            "index {index} of term {term} is applied, and durable on {} of {} voters",
            counts[0].0,
            counts[0].1
        );
        Ok(())
    }

    fn voters_change(&mut self, effect: &Effect) {
        let Effect::Conf { change, accepted: true, .. } = effect else { return };
        let mut voters = self.voters[0].clone();
        match change.kind {
            ConfChangeKind::AddNode => voters.insert(change.node),
            ConfChangeKind::Remove => voters.remove(&change.node),
            ConfChangeKind::AddLearner | ConfChangeKind::Update => return,
        };
        self.voters.push_front(voters);
        self.voters.truncate(VOTERS_KEPT);
    }

    /// Whether states are compared after this index: the same indexes on every member.
    pub(crate) fn is_checkpoint(index: Index) -> bool {
        index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 == 0
    }

    /// A group ended here: the state must equal that of every other member.
    pub(crate) fn group_ended(
        &mut self,
        id: u64,
        machine: &Machine,
        engine: &MemoryEngine,
    ) -> Result<(u64, u64), Violation> {
        let (index, term) = machine.applied();
        let shared = machine.shared();
        let rows = rows_hash(engine);
        let whole = Self::is_checkpoint(index);
        let history = if whole { history_hash(&shared)? } else { 0 };
        let Some(record) = self.record(index) else {
            return Err(format!("member {id} says it applied up to {index}, which nobody has"));
        };
        must!(record.entry.term == term, "member {id} says index {index} is of term {term}");
        let view = shared.view();
        let (revision, compact) = (view.revision(), view.compact_revision());
        must!(
            (revision, compact) == (record.revision, record.compact),
            "member {id} is at revision {revision}, compaction {compact} after index {index}; expected {} and {}",
            record.revision,
            record.compact
        );
        let state = (rows, history);
        if let Some(other) = record.state {
            must!(other == state, "member {id}: the state after index {index} differs from another's");
        } else {
            let at = usize::try_from(index).expect("an index of a vector") - 1;
            self.records[at].state = Some(state);
        }
        Ok(state)
    }

    pub(crate) fn read(
        &mut self,
        id: u64,
        shared: &Shared,
        question: &Question,
        floor: i64,
    ) -> Result<i64, Violation> {
        let index = shared.applied_index();
        let (revision, compact) =
            self.record(index).map_or((1, -1), |record| (record.revision, record.compact));
        must!(
            revision >= floor,
            "member {id}: a read at revision {revision} began after somebody was told of revision {floor}"
        );
        let model = &self.model;
        let (answer, expected) = match &question.what {
            What::Range(range) => (
                shared.range(range).map(Response::Range),
                model.range(range, revision, compact).map(Response::Range),
            ),
            What::Txn(txn) => (
                shared.read_txn(txn).map(Response::Txn),
                model.read_txn(txn, revision, compact).map(Response::Txn),
            ),
        };
        let answer = match answer {
            Ok(response) => Ok(response),
            Err(Stop::Refused(refusal)) => Err(refusal),
            Err(Stop::GivenUp(why)) => return Err(format!("member {id} cannot read: {why}")),
            Err(Stop::Fault(fault)) => return Err(format!("member {id} cannot read: {fault}")),
        };
        must!(
            answer == expected,
            "member {id} answers {question:?} after index {index} with {answer:?}, expected {expected:?}"
        );
        self.reads += 1;
        Ok(revision)
    }

    /// At the end every member must hold every acknowledged write at its revision.
    pub(crate) fn check_acknowledged(&self, id: u64, shared: &Shared) -> Result<(), Violation> {
        must!(
            shared.applied_index() == self.last_index(),
            "member {id} ended at index {}, the log at {}",
            shared.applied_index(),
            self.last_index()
        );
        let by_id: BTreeMap<u64, &Record> = self.records.iter().map(|r| (r.request_id, r)).collect();
        let compact = shared.view().compact_revision();
        for (request_id, revision) in &self.acknowledged {
            let record = by_id.get(request_id);
            let record = record.ok_or_else(|| format!("the acknowledged request {request_id:x} is lost"))?;
            must!(
                record.revision >= *revision,
                "request {request_id:x} was acknowledged at revision {revision}, it stands at {}",
                record.revision
            );
            if record.revision >= compact
                && matches!(record.answer, Some(Ok(_)))
                && let Ok((_, Command::Put(put))) = read(&record.entry)
            {
                check_put(id, shared, &put, record.revision)?;
            }
        }
        Ok(())
    }
}

/// An entry's request, read the long way, whoever wrote it.
fn read(entry: &Entry) -> Result<(u64, Command), Violation> {
    let envelope = pb::InternalRaftRequest::decode(entry.data.clone())
        .map_err(|error| format!("index {} cannot be read: {error}", entry.index))?;
    let id = envelope.header.as_ref().map_or(0, |header| header.id);
    let command = Command::of(envelope);
    Ok((id, command.ok_or_else(|| format!("index {} asks for nothing", entry.index))?))
}

fn check_put(id: u64, shared: &Shared, put: &pb::PutRequest, revision: i64) -> Result<(), Violation> {
    let request = pb::RangeRequest { key: put.key.clone(), revision, ..Default::default() };
    let kvs =
        shared.range(&request).map_err(|error| format!("member {id}: revision {revision}: {error}"))?.kvs;
    let is_value = |kv: &KeyValue| put.ignore_value || kv.value == put.value;
    let found = kvs.iter().any(|kv| is_value(kv) && kv.mod_revision == revision);
    must!(found, "member {id} lost the acknowledged put of revision {revision}: it has {kvs:?}");
    Ok(())
}

/// Hashes the rows that equal entries must leave equal: all except the bookkeeping of compaction, the record behind
/// each newest version, which an import begins anew, and the history, which [`history_hash`] compares as etcd would.
pub(crate) fn rows_hash(engine: &MemoryEngine) -> u64 {
    let mut hash = 0u64;
    for family in [Family::Latest, Family::Meta] {
        let mut crc = 0;
        let scanned = engine.scan(family, &[], None, &mut |key, value| {
            if family == Family::Latest || !key.starts_with(b"mvcc/") {
                let value = if family == Family::Latest { without_record(value) } else { value };
                for part in [key, value] {
                    crc = crc32c::crc32c_append(crc, &(part.len() as u64).to_be_bytes());
                    crc = crc32c::crc32c_append(crc, part);
                }
            }
            ControlFlow::Continue(())
        });
        scanned.expect("the engine in memory has no faults");
        hash = hash << 32 | u64::from(crc);
    }
    hash
}

/// The newest version in a row of it, without the record and its length at the end.
fn without_record(row: &[u8]) -> &[u8] {
    let (row, length) = row.split_last_chunk::<2>().expect("a row ends with a length");
    &row[..row.len() - usize::from(u16::from_le_bytes(*length))]
}

/// The hash of the whole history, as in `HashKV`.
pub(crate) fn history_hash(shared: &Shared) -> Result<u64, Violation> {
    let hash = shared.view().hash_now().map_err(|error| format!("hash: {error:?}"))?;
    Ok(u64::from(hash.hash))
}

fn short(entry: &Entry) -> (Term, Index, EntryKind, u32) {
    (entry.term, entry.index, entry.kind, crc32c::crc32c(&entry.data))
}
