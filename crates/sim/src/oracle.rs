//! The judges: what must hold after every step, whatever the network, the disks and the crashes did.

use crate::model::{Model, without_rows};
use engine::{Engine, Family, MemoryEngine};
use machine::{Effect, Machine, Outcome, Refusal, Response, Shared, Stop};
use mvcc::{Cost, Effort};
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::raftpb::{self, MessageType};
use raft_node::Leadership;
use raft_node::core::{Core, Log};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use types::{Entry, EntryKind, HardState, Index, Term};

/// What must never be, in words.
pub(crate) type Violation = String;

/// One index of the log, as the first member to apply it saw it.
struct Record {
    entry: Entry,
    request_id: u64,
    /// What its proposer is told; nothing for entries that no client made.
    answer: Option<Result<Response, Refusal>>,
    /// What became of a change of members.
    conf: Option<Effect>,
    revision: i64,
    compact: i64,
    /// The state's hash after it, once a group has ended here.
    state: Option<(u64, u64)>,
}

/// What a member has promised to others, and what was seen of it.
#[derive(Default)]
struct Promises {
    term: Term,
    votes: BTreeMap<Term, u64>,
    /// (term, index): the log was acknowledged up to here.
    appended: (Term, Index),
    commit: Index,
    applied: Index,
}

/// All judges of a run.
pub(crate) struct Oracle {
    records: Vec<Record>,
    model: Model,
    members: BTreeMap<u64, Promises>,
    leaders: BTreeMap<Term, u64>,
    logged: BTreeSet<u64>,
    /// Acknowledged writes: request, and the revision its client was told.
    acknowledged: Vec<(u64, i64)>,
    /// The newest revision that anybody was told of.
    floor: i64,
    pub(crate) reads: u64,
    pub(crate) promises: crate::promises::Promises,
}

macro_rules! must {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}

impl Oracle {
    pub(crate) fn new(members: u64) -> Self {
        Self {
            records: Vec::new(),
            model: Model::new(),
            members: (1..=members).map(|id| (id, Promises::default())).collect(),
            leaders: BTreeMap::new(),
            logged: BTreeSet::new(),
            acknowledged: Vec::new(),
            floor: 0,
            reads: 0,
            promises: crate::promises::Promises::default(),
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

    /// The key space of a cluster that never fails.
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// The newest revision that anybody was told of: what a read that begins now must see.
    pub(crate) fn floor(&self) -> i64 {
        self.floor
    }

    /// A client was answered by a state of this revision.
    pub(crate) fn told(&mut self, revision: i64) {
        self.floor = self.floor.max(revision);
    }

    /// A client was told that its write is done.
    pub(crate) fn acknowledge(&mut self, request_id: u64, revision: i64) {
        self.acknowledged.push((request_id, revision));
        self.told(revision);
    }

    fn member(&mut self, id: u64) -> &mut Promises {
        self.members.get_mut(&id).expect("members are known from the start")
    }

    fn record(&self, index: Index) -> Option<&Record> {
        self.records.get(usize::try_from(index).ok()?.checked_sub(1)?)
    }

    /// A member applied an entry.
    pub(crate) fn applied(
        &mut self,
        id: u64,
        entry: &Entry,
        outcome: &Outcome,
        now: crate::Micros,
    ) -> Result<(), Violation> {
        let index = entry.index;
        must!(
            outcome.index == index,
            "member {id}: the outcome of index {} stands at {index}",
            outcome.index
        );
        if index == self.last_index() + 1 {
            self.first_applied(entry, outcome, now)?;
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
        let Effect::Answer(answer) = &outcome.effect else {
            must!(record.answer.is_none(), "member {id}: no answer at index {index}");
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
        let waits_here = outcome.request_id >> 48 == id;
        let expected = match record.answer.clone() {
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
        self.member(id).applied = index;
        Ok(())
    }

    fn first_applied(
        &mut self,
        entry: &Entry,
        outcome: &Outcome,
        now: crate::Micros,
    ) -> Result<(), Violation> {
        let (mut request_id, mut answer) = (0, None);
        if entry.kind == EntryKind::Normal && !entry.data.is_empty() {
            let request = pb::InternalRaftRequest::decode(entry.data.clone())
                .map_err(|error| format!("index {} cannot be read: {error}", entry.index))?;
            request_id = request.header.as_ref().map_or(0, |header| header.id);
            must!(
                self.logged.insert(request_id),
                "request {request_id:x} is in the log twice, the second time at index {}",
                entry.index
            );
            answer = Some(self.model.apply(&request));
            if matches!(answer, Some(Ok(_))) {
                self.promises.applied(entry.index, request_id, &request, now)?;
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
        }
        let (revision, compact) = (self.model.revision(), self.model.compact());
        let entry = entry.clone();
        self.records.push(Record { entry, request_id, answer, conf, revision, compact, state: None });
        Ok(())
    }

    /// Whether states are compared after this index: the same indexes on every member.
    pub(crate) fn is_checkpoint(index: Index) -> bool {
        index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 == 0
    }

    /// A group ended here: the state must be what it was on every other member.
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

    /// A member answers a range, by what it has applied.
    pub(crate) fn read(
        &mut self,
        id: u64,
        shared: &Shared,
        request: &pb::RangeRequest,
        floor: i64,
    ) -> Result<i64, Violation> {
        let index = shared.applied_index();
        let (revision, compact) =
            self.record(index).map_or((1, -1), |record| (record.revision, record.compact));
        must!(
            revision >= floor,
            "member {id}: a read at revision {revision} began after somebody was told of revision {floor}"
        );
        let expected = self.model.range(request, revision, compact);
        let answer = match shared.range(request) {
            Ok(response) => Ok(response),
            Err(Stop::Refused(refusal)) => Err(refusal),
            Err(Stop::GivenUp(why)) => return Err(format!("member {id} cannot read: {why}")),
            Err(Stop::Fault(fault)) => return Err(format!("member {id} cannot read: {fault}")),
        };
        must!(
            answer == expected,
            "member {id} answers {request:?} after index {index} with {answer:?}, expected {expected:?}"
        );
        self.reads += 1;
        Ok(revision)
    }

    /// A member let a message out: what it promises must hold for ever.
    pub(crate) fn sent(&mut self, id: u64, message: &raftpb::Message) -> Result<(), Violation> {
        let (kind, term, to) = (message.r#type(), message.term(), message.to());
        if matches!(kind, MessageType::MsgPreVote | MessageType::MsgPreVoteResp) {
            return Ok(());
        }
        let promises = self.member(id);
        promises.term = promises.term.max(term);
        let vote = match kind {
            MessageType::MsgVote => Some(id),
            MessageType::MsgVoteResp if !message.reject() => Some(to),
            _ => None,
        };
        if let Some(vote) = vote {
            let before = *promises.votes.entry(term).or_insert(vote);
            must!(before == vote, "member {id} voted for {before} and for {vote} in term {term}");
        }
        if kind == MessageType::MsgAppResp && !message.reject() {
            let (at, index) = promises.appended;
            promises.appended =
                if at == term { (term, index.max(message.index())) } else { (term, message.index()) };
        }
        Ok(())
    }

    /// A member came back: what it promised must be on its disk.
    pub(crate) fn reopened(
        &mut self,
        id: u64,
        hard_state: HardState,
        log: &dyn Log,
    ) -> Result<(), Violation> {
        let promises = self.member(id);
        promises.commit = 0;
        promises.applied = 0;
        let HardState { term, vote, .. } = hard_state;
        must!(
            term >= promises.term,
            "member {id} came back in term {term}, it had spoken in {}",
            promises.term
        );
        if let Some(promised) = promises.votes.get(&term) {
            must!(
                *promised == vote,
                "member {id} came back with a vote for {vote}, it had voted for {promised}"
            );
        }
        let (at, index) = promises.appended;
        must!(
            at != term || log.last_index() >= index,
            "member {id} came back with a log up to {}, it had acknowledged {index} in this term",
            log.last_index()
        );
        Ok(())
    }

    /// A member finished a turn.
    pub(crate) fn after_turn(&mut self, id: u64, core: &Core) -> Result<(), Violation> {
        let (commit, applied, last) = core.indexes();
        let promises = self.member(id);
        must!(commit >= promises.commit, "member {id}: commit went from {} to {commit}", promises.commit);
        must!(
            applied >= promises.applied,
            "member {id}: applied went from {} to {applied}",
            promises.applied
        );
        must!(
            applied <= commit && commit <= last,
            "member {id}: applied {applied}, commit {commit}, last {last}"
        );
        promises.commit = commit;
        let Leadership { term, is_leader, .. } = core.leadership();
        if is_leader && !self.leaders.contains_key(&term) {
            self.check_leader_is_complete(id, term, core)?;
        }
        if is_leader {
            let leader = *self.leaders.entry(term).or_insert(id);
            must!(leader == id, "term {term} has two leaders: {leader} and {id}");
        }
        Ok(())
    }

    /// Whoever leads has all that was committed in earlier terms.
    fn check_leader_is_complete(&self, id: u64, term: Term, core: &Core) -> Result<(), Violation> {
        let log = core.log();
        let committed = self.records.iter().rev().map(|record| &record.entry);
        for entry in committed.filter(|entry| entry.term < term).take_while(|e| e.index >= log.first_index())
        {
            let found = log.term(entry.index);
            must!(
                found == Some(entry.term),
                "member {id} leads term {term} with {found:?} at index {}, where term {} is committed",
                entry.index,
                entry.term
            );
        }
        Ok(())
    }

    /// At the end every member holds every acknowledged write at its revision.
    pub(crate) fn all_is_there(&self, id: u64, shared: &Shared) -> Result<(), Violation> {
        must!(
            shared.applied_index() == self.last_index(),
            "member {id} ended at index {}, the log at {}",
            shared.applied_index(),
            self.last_index()
        );
        let by_id: BTreeMap<u64, &Record> = self.records.iter().map(|r| (r.request_id, r)).collect();
        let compact = shared.view().compact_revision();
        for (request_id, told) in &self.acknowledged {
            let record = by_id.get(request_id);
            let record = record.ok_or_else(|| format!("the acknowledged request {request_id:x} is lost"))?;
            must!(
                record.revision >= *told,
                "request {request_id:x} was acknowledged at revision {told}, it stands at {}",
                record.revision
            );
            let request = pb::InternalRaftRequest::decode(record.entry.data.clone());
            let put = request
                .ok()
                .and_then(|request| request.put)
                .filter(|_| record.revision >= compact && matches!(record.answer, Some(Ok(_))));
            if let Some(put) = put {
                check_put(id, shared, &put, record.revision)?;
            }
        }
        Ok(())
    }
}

fn check_put(id: u64, shared: &Shared, put: &pb::PutRequest, revision: i64) -> Result<(), Violation> {
    let request = pb::RangeRequest { key: put.key.clone(), revision, ..Default::default() };
    let kvs =
        shared.range(&request).map_err(|error| format!("member {id}: revision {revision}: {error}"))?.kvs;
    let found = kvs.iter().any(|kv| kv.value == put.value && kv.mod_revision == revision);
    must!(found, "member {id} lost the acknowledged put of revision {revision}: it has {kvs:?}");
    Ok(())
}

/// The rows that must be equal after equal entries: all but the key space's own bookkeeping of its compaction, and its
/// history, which [`history_hash`] judges as etcd would.
fn rows_hash(engine: &MemoryEngine) -> u64 {
    let mut hash = 0u64;
    for family in [Family::Latest, Family::Meta] {
        let mut crc = 0;
        let scanned = engine.scan(family, &[], None, &mut |key, value| {
            if family == Family::Latest || !key.starts_with(b"mvcc/") {
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

/// The hash of the whole history, as `HashKV` takes it.
pub(crate) fn history_hash(shared: &Shared) -> Result<u64, Violation> {
    let hash = shared.view().hash_now().map_err(|error| format!("hash: {error:?}"))?;
    Ok(u64::from(hash.hash))
}

fn short(entry: &Entry) -> (Term, Index, EntryKind, u32) {
    (entry.term, entry.index, entry.kind, crc32c::crc32c(&entry.data))
}
