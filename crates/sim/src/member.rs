//! One member: its disks, and one life of it, driven as `raft_node`'s own driver drives the core.
//!
//! Where the driver has threads, this has virtual time: a turn begins when the member is free, a sync takes as long as
//! the seed says, and a crash may come between any two steps of the contract on [`Core`].

use crate::Micros;
use crate::client::Ask;
use crate::mutation::{MutantLog, Mutation};
use crate::oracle::{Oracle, Violation};
use crate::rng::Rng;
use crate::trace::{Trace, trace};
use bytes::Bytes;
use engine::{Engine as _, MemoryEngine};
use machine::{Effect, Machine, Outcome, Response, Settings as MachineSettings};
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::raftpb::{self, MessageType};
use raft_node::convert::{Incoming, incoming};
use raft_node::core::{Core, Effects, Input, Log, Proposal, Settings};
use raft_node::{NodeFault, RequestIds};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use types::{Entry, EntryKind, Index, MemberId};
use wal::{MemDisk, Wal};

/// etcd's default: ten heartbeats without a leader.
const ELECTION_TICKS: usize = 10;
/// A heartbeat, in microseconds of virtual time.
const TICK: Micros = 100_000;
/// How long a request waits (etcd's `ReqTimeout`).
pub(crate) const REQUEST_TIMEOUT: Micros = 7_000_000;

/// How a member stops to be.
pub(crate) enum End {
    /// It crashed, as it was to.
    Crash(&'static str),
    /// It did what must not be.
    Violation(Violation),
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// What a member has that outlives it.
pub(crate) struct Disks {
    pub(crate) log: MemDisk,
    pub(crate) engine: Arc<MemoryEngine>,
}

/// What all members of a run share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) start: Instant,
    pub(crate) segment_bytes: u64,
    pub(crate) sync_micros: Micros,
    pub(crate) keep_entries: u64,
    pub(crate) group_split_per_mille: u64,
    pub(crate) mutation: Option<Mutation>,
}

impl Rules {
    pub(crate) fn instant(&self, at: Micros) -> Instant {
        self.start + Duration::from_micros(at)
    }

    pub(crate) fn log_options(&self) -> wal::Options {
        wal::Options { segment_bytes: self.segment_bytes }
    }
}

/// A request that waits at a member.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub(crate) client: usize,
    pub(crate) number: u64,
    /// For a read: what it asks, and what it must see.
    pub(crate) read: Option<(pb::RangeRequest, i64)>,
}

/// What a member tells a client.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) client: usize,
    pub(crate) number: u64,
    /// Of an acknowledged write.
    pub(crate) request_id: u64,
    /// Of the state that it was answered from; nothing when the request failed.
    pub(crate) revision: Option<i64>,
}

/// The world around a turn.
pub(crate) struct Around<'a> {
    pub(crate) now: Micros,
    pub(crate) rules: &'a Rules,
    pub(crate) rng: &'a mut Rng,
    pub(crate) oracle: &'a mut Oracle,
    pub(crate) trace: &'a mut Trace,
    /// Messages with the time at which they leave.
    pub(crate) sent: Vec<(Micros, raftpb::Message)>,
    /// Answers with the time at which they leave.
    pub(crate) answers: Vec<(Micros, Answer)>,
}

/// What waits for a member's next turn.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) messages: Vec<Bytes>,
    pub(crate) requests: Vec<(Ask, Waiter)>,
    pub(crate) unreachable: Vec<u64>,
    pub(crate) transfer: Option<u64>,
    pub(crate) flush: bool,
}

/// One life of a member.
pub(crate) struct Life {
    id: u64,
    pub(crate) core: Core,
    pub(crate) machine: Machine,
    engine: Arc<MemoryEngine>,
    disk: MemDisk,
    ids: RequestIds,
    pub(crate) inbox: Inbox,
    proposals: VecDeque<Proposal>,
    waiters: BTreeMap<u64, Waiter>,
    reads: BTreeMap<u64, Waiter>,
    next_read: u64,
    flushed: Index,
    idle_due: bool,
    tick: Micros,
    next_tick: Micros,
    election_ticks: usize,
    /// Its own time within a turn: later than the turn's start by the syncs that it did.
    pub(crate) clock: Micros,
    /// Steps until it crashes within a turn.
    pub(crate) crash_in: Option<u64>,
    /// Its disk is to fail.
    pub(crate) disk_fails: bool,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Life {
    /// Starts from what the disks hold. A disk that fails ends it before it began.
    pub(crate) fn start(
        id: u64,
        disks: &Disks,
        disk_fails: bool,
        around: &mut Around<'_>,
    ) -> Result<Self, End> {
        let rules = around.rules;
        let (wal, replayed) = match Wal::open_with(disks.log.clone(), rules.log_options()) {
            Ok(opened) => opened,
            Err(_) if disk_fails => return Err(End::Crash("its disk failed at the start")),
            Err(error) => return Err(End::Violation(format!("member {id} cannot open its log: {error}"))),
        };
        disks.log.heal();
        let settings =
            MachineSettings { member: MemberId(id), lease_ttl_min: 2, max_learners: 1, quota_bytes: 0 };
        let machine = Machine::open(disks.engine.clone(), settings)
            .map_err(|fault| format!("member {id} cannot open its state: {fault}"))?;
        around.oracle.reopened(id, replayed.hard_state, &wal)?;
        let applied = machine.applied().0;
        trace!(
            around.trace,
            "member {id} starts: {:?}, log {}..{}, applied {applied}, repaired {:?}",
            replayed.hard_state,
            wal.first_index(),
            wal.last_index(),
            replayed.repaired.map(|repair| repair.bytes)
        );
        let unix_millis = 1_000_000 + around.now / 1000;
        let settings = Settings {
            member: id,
            election_ticks: ELECTION_TICKS,
            pre_vote: true,
            request_timeout: Duration::from_micros(REQUEST_TIMEOUT),
            unix_millis,
            applied,
            conf: machine.conf_state(),
        };
        let warnings = Arc::default();
        let log: Box<dyn Log> = match rules.mutation {
            Some(mutation) => Box::new(MutantLog { wal, mutation }),
            None => Box::new(wal),
        };
        let core = Core::new(&settings, log, crate::warnings::logger(&warnings))
            .map_err(|error| format!("member {id} cannot start: {error}"))?;
        let tick = TICK * around.rng.between(97, 103) / 100;
        Ok(Self {
            id,
            core,
            machine,
            engine: disks.engine.clone(),
            disk: disks.log.clone(),
            ids: RequestIds::new(id, unix_millis),
            inbox: Inbox::default(),
            proposals: VecDeque::new(),
            waiters: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_read: 0,
            flushed: applied,
            idle_due: true,
            tick,
            next_tick: around.now + around.rng.between(1, tick),
            election_ticks: ELECTION_TICKS,
            clock: around.now,
            crash_in: None,
            disk_fails: false,
            warnings,
        })
    }

    /// Applies what is committed already. A member that decides alone leads at once.
    pub(crate) fn begin(&mut self, around: &mut Around<'_>) -> Result<(), End> {
        self.process(around)?;
        if self.core.conf_state().voters == [self.id] {
            self.core.step(around.rules.instant(self.clock), Input::Campaign);
            self.process(around)?;
        }
        self.after(around)
    }

    /// One turn of the driver's loop.
    pub(crate) fn turn(&mut self, around: &mut Around<'_>) -> Result<(), End> {
        self.clock = around.now;
        let now = around.rules.instant(around.now);
        self.take_inbox(now, around)?;
        if self.core.wake_at().is_some_and(|at| at <= now) {
            self.core.wake(now);
        }
        if around.now >= self.next_tick {
            self.tick(now, around);
        }
        self.propose(now, around);
        self.process(around)?;
        self.flush(around)?;
        self.core.settle().map_err(|fault| self.fault(&fault))?;
        if self.idle_due && around.rng.one_in(3) {
            self.idle_due =
                self.machine.idle().map_err(|fault| format!("member {}: idle: {fault}", self.id))?;
        }
        self.after(around)
    }

    fn after(&mut self, around: &mut Around<'_>) -> Result<(), End> {
        for warning in self.warnings.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            trace!(around.trace, "member {} warns: {warning}", self.id);
            // Of correct members nobody sends what the guard refuses for this member's log.
            if warning.contains("was its log lost")
                || warning.contains("contradicts")
                || warning.contains("never sent")
            {
                return Err(End::Violation(format!("member {}: {warning}", self.id)));
            }
        }
        around.oracle.after_turn(self.id, &self.core)?;
        Ok(())
    }

    /// When its next turn is due, if nothing comes in.
    pub(crate) fn wake_at(&self, rules: &Rules) -> Micros {
        if !self.proposals.is_empty() && self.core.takes_proposals() {
            return self.clock;
        }
        let reads = self.core.wake_at().map(|at| at.saturating_duration_since(rules.start).as_micros());
        let reads = reads.and_then(|micros| Micros::try_from(micros).ok()).unwrap_or(Micros::MAX);
        reads.min(self.next_tick).max(self.clock)
    }

    /// Whether it is done with everything it was asked.
    pub(crate) fn is_quiet(&self) -> bool {
        let (commit, applied, last) = self.core.indexes();
        commit == last && applied == last && self.proposals.is_empty() && self.inbox.requests.is_empty()
    }

    fn take_inbox(&mut self, now: Instant, around: &mut Around<'_>) -> Result<(), End> {
        let inbox = std::mem::take(&mut self.inbox);
        for bytes in inbox.messages {
            let message = raftpb::Message::decode(bytes).expect("these bytes were encoded here");
            if message.from() == self.id && message.r#type() == MessageType::MsgReadIndex {
                // A read that it forwarded while another led, forwarded back to it now that it leads: refused and
                // harmless, for the read was asked again.
                trace!(around.trace, "member {} gets its own read", self.id);
                continue;
            }
            match incoming(message, self.id).map_err(|error| format!("member {}: {error}", self.id))? {
                Incoming::Step(checked) => self.core.step(now, Input::Message(checked)),
                Incoming::Proposals(entries) => {
                    let deadline = now + Duration::from_micros(REQUEST_TIMEOUT);
                    let forwarded =
                        entries.into_iter().map(|(kind, data)| Proposal { id: 0, kind, data, deadline });
                    self.proposals.extend(forwarded);
                }
                Incoming::Snapshot { .. } => return Err(format!("member {} got a snapshot", self.id).into()),
            }
        }
        for (ask, waiter) in inbox.requests {
            self.request(now, ask, waiter, around)?;
        }
        for member in inbox.unreachable {
            self.core.step(now, Input::Unreachable(member));
        }
        if let Some(to) = inbox.transfer.filter(|to| *to != self.id && self.core.leadership().is_leader) {
            trace!(around.trace, "member {} hands leadership to {to}", self.id);
            self.core.step(now, Input::Transfer(to));
        }
        self.inbox.flush = inbox.flush;
        Ok(())
    }

    fn request(
        &mut self,
        now: Instant,
        ask: Ask,
        waiter: Waiter,
        around: &mut Around<'_>,
    ) -> Result<(), End> {
        match ask {
            Ask::Write(mut request) => {
                let id = self.ids.next_id();
                request.header = Some(pb::RequestHeader { id, ..Default::default() });
                let data: Bytes = request.encode_to_vec().into();
                trace!(around.trace, "member {} is asked to write {id:x}: {}", self.id, kind(&request));
                if around.rules.mutation == Some(Mutation::AnswerBeforeCommit) {
                    let Waiter { client, number, .. } = waiter;
                    let revision = Some(around.oracle.floor());
                    around.answers.push((self.clock, Answer { client, number, request_id: id, revision }));
                } else {
                    self.waiters.insert(id, waiter);
                }
                let deadline = now + Duration::from_micros(REQUEST_TIMEOUT);
                self.proposals.push_back(Proposal { id, kind: EntryKind::Normal, data, deadline });
            }
            Ask::Read(_) if around.rules.mutation != Some(Mutation::ReadWithoutQuorum) => {
                self.next_read += 1;
                trace!(around.trace, "member {} is asked to read, {}", self.id, self.next_read);
                self.reads.insert(self.next_read, waiter);
                self.core.step(now, Input::Read(self.next_read));
            }
            Ask::Read(_) | Ask::Serializable(_) => self.answer_read(waiter, around)?,
        }
        Ok(())
    }

    fn answer_read(&mut self, waiter: Waiter, around: &mut Around<'_>) -> Result<(), End> {
        let Waiter { client, number, read } = waiter;
        let (request, floor) = read.expect("a read says what it asks");
        let revision = around.oracle.read(self.id, &self.machine.shared(), &request, floor)?;
        // A serializable read says nothing about what is newest.
        let revision = Some(if request.serializable { 0 } else { revision });
        around.answers.push((self.clock, Answer { client, number, request_id: 0, revision }));
        Ok(())
    }

    /// One tick when it is due; ticks missed are not made up for.
    fn tick(&mut self, now: Instant, around: &mut Around<'_>) {
        if around.rng.one_in(12) {
            self.draw_election(around);
        }
        // raft-rs has drawn one of its own if its role changed: this one counts.
        self.core.fix_election_timeout(self.election_ticks);
        self.core.step(now, Input::Tick);
        self.next_tick += self.tick;
        if around.now >= self.next_tick {
            self.next_tick = around.now + self.tick;
        }
        self.idle_due = true;
    }

    fn draw_election(&mut self, around: &mut Around<'_>) {
        let extra = around.rng.below(ELECTION_TICKS as u64);
        self.election_ticks = ELECTION_TICKS + usize::try_from(extra).expect("a few ticks");
    }

    fn propose(&mut self, now: Instant, around: &mut Around<'_>) {
        self.proposals.retain(|proposal| proposal.deadline > now);
        if self.proposals.is_empty() || !self.core.takes_proposals() {
            return;
        }
        let batch: Vec<Proposal> = self.proposals.drain(..).collect();
        let again =
            around.rules.mutation == Some(Mutation::ForwardTwice) && !self.core.leadership().is_leader;
        if again && around.rng.one_in(4) {
            self.proposals.extend(batch.iter().cloned());
        }
        self.core.step(now, Input::Propose(batch));
    }

    fn process(&mut self, around: &mut Around<'_>) -> Result<(), End> {
        loop {
            self.act_on_effects(around)?;
            let Some(mut work) = self.core.work() else { return Ok(()) };
            self.send(std::mem::take(&mut work.messages), around)?;
            self.crash_point("before its write")?;
            let operations = self.disk.operations();
            let persisted = self.core.persist(work).map_err(|fault| self.fault(&fault))?;
            if self.disk.operations() != operations {
                self.clock += around.rng.between(around.rules.sync_micros / 4, around.rules.sync_micros);
            }
            self.crash_point("after its sync")?;
            self.send(persisted.messages, around)?;
            self.crash_point("before it applied")?;
            for group in Self::groups(&persisted.committed, around) {
                self.apply(group, around)?;
            }
        }
    }

    fn send(&self, messages: Vec<raftpb::Message>, around: &mut Around<'_>) -> Result<(), End> {
        for message in messages {
            around.oracle.sent(self.id, &message)?;
            around.sent.push((self.clock, message));
        }
        Ok(())
    }

    /// Committed entries in one or more groups, as the seed says; one ends at every index where states are compared.
    fn groups<'e>(entries: &'e [Entry], around: &mut Around<'_>) -> Vec<&'e [Entry]> {
        let split = around.rules.group_split_per_mille;
        let mut groups = Vec::new();
        let mut from = 0;
        for (at, entry) in entries.iter().enumerate() {
            let ends = Oracle::is_checkpoint(entry.index) || around.rng.per_mille(split);
            if ends || at + 1 == entries.len() {
                groups.push(&entries[from..=at]);
                from = at + 1;
            }
        }
        groups
    }

    fn apply(&mut self, entries: &[Entry], around: &mut Around<'_>) -> Result<(), End> {
        let broken: Vec<Entry>;
        let given = if around.rules.mutation == Some(Mutation::SkipEntry) && self.id == 2 {
            broken = entries.iter().map(skip_some).collect();
            &broken
        } else {
            entries
        };
        let outcomes = self.machine.apply(given).map_err(|fault| format!("member {}: {fault}", self.id))?;
        let (first, last) = (entries[0].index, entries[entries.len() - 1].index);
        let applied = entries.len() - outcomes.len();
        for (entry, outcome) in entries[applied..].iter().zip(&outcomes) {
            around.oracle.applied(self.id, entry, outcome)?;
        }
        let (rows, history) = around.oracle.group_ended(self.id, &self.machine, &self.engine)?;
        trace!(around.trace, "member {} applies {first}..={last}: {rows:016x} {history:08x}", self.id);
        self.crash_point("after it applied")?;
        let now = around.rules.instant(self.clock);
        self.core.applied(now, last, &outcomes).map_err(|fault| self.fault(&fault))?;
        self.complete(&outcomes, around);
        self.act_on_effects(around)
    }

    fn complete(&mut self, outcomes: &[Outcome], around: &mut Around<'_>) {
        for outcome in outcomes {
            let Some(waiter) = self.waiters.remove(&outcome.request_id) else { continue };
            let Waiter { client, number, .. } = waiter;
            let request_id = outcome.request_id;
            let revision = match &outcome.effect {
                Effect::Answer(Ok(response)) => Some(revision(response)),
                // A refusal is an answer too; what it says was compared with the model.
                _ => Some(0),
            };
            self.idle_due |= matches!(outcome.effect, Effect::Answer(Ok(Response::Compaction(_))));
            around.answers.push((self.clock, Answer { client, number, request_id, revision }));
        }
    }

    fn act_on_effects(&mut self, around: &mut Around<'_>) -> Result<(), End> {
        let Effects { returned, refused, reads, leadership } = self.core.effects();
        for proposal in returned.into_iter().rev() {
            self.proposals.push_front(proposal);
        }
        if let Some((id, error)) = refused.first() {
            return Err(format!("member {}: request {id:x} refused: {error}", self.id).into());
        }
        if let Some(now) = leadership {
            trace!(around.trace, "member {}: term {}, leader {}", self.id, now.term, now.leader);
            self.draw_election(around);
        }
        for done in reads {
            for token in done.tokens {
                let Some(waiter) = self.reads.remove(&token) else {
                    return Err(format!("member {}: read {token} ended twice", self.id).into());
                };
                match done.result {
                    Ok(()) => self.answer_read(waiter, around)?,
                    Err(error) => {
                        trace!(around.trace, "member {}: read {token}: {error}", self.id);
                        let Waiter { client, number, .. } = waiter;
                        let answer = Answer { client, number, request_id: 0, revision: None };
                        around.answers.push((self.clock, answer));
                    }
                }
            }
        }
        Ok(())
    }

    /// As `driver::flush`: the engine, then the log behind it, but nothing that a member may lack.
    fn flush(&mut self, around: &mut Around<'_>) -> Result<(), End> {
        if !std::mem::take(&mut self.inbox.flush) {
            return Ok(());
        }
        let applied = self.machine.applied().0;
        if around.rules.mutation != Some(Mutation::ReleaseBeforeFlush) {
            self.engine.flush().map_err(|fault| format!("member {}: {fault}", self.id))?;
        }
        self.flushed = applied;
        let near = applied.saturating_sub(around.rules.keep_entries);
        let keep_from = if self.core.conf_state().voters.len() == 1 {
            near
        } else {
            let lacking = self.core.peers().into_iter().map(|peer| peer.matched + 1).min();
            near.min(lacking.unwrap_or(0))
        };
        let first = self.core.log().first_index();
        if keep_from > first {
            self.core.release(keep_from).map_err(|fault| self.fault(&fault))?;
        }
        let now_first = self.core.log().first_index();
        trace!(around.trace, "member {} flushes {applied}, log from {first} to {now_first}", self.id);
        self.crash_point("after a flush")
    }

    fn crash_point(&mut self, place: &'static str) -> Result<(), End> {
        match &mut self.crash_in {
            Some(0) => Err(End::Crash(place)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn fault(&self, fault: &NodeFault) -> End {
        match fault {
            NodeFault::Log(_) if self.disk_fails => End::Crash("its disk failed"),
            fault => End::Violation(format!("member {}: {fault}", self.id)),
        }
    }

    /// Background work until there is none.
    pub(crate) fn idle_to_the_end(&mut self) -> Result<(), Violation> {
        /// Far more steps than any history needs.
        const STEPS_MAX: usize = 10_000;
        for _ in 0..STEPS_MAX {
            if !self.machine.idle().map_err(|fault| format!("member {}: idle: {fault}", self.id))? {
                return Ok(());
            }
        }
        Err(format!("member {}: background work does not end", self.id))
    }
}

/// What [`Mutation::SkipEntry`] makes of an entry.
fn skip_some(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    if entry.index % 97 == 96 && entry.kind == EntryKind::Normal {
        entry.data = Bytes::new();
    }
    entry
}

fn kind(request: &pb::InternalRaftRequest) -> &'static str {
    match request {
        pb::InternalRaftRequest { put: Some(_), .. } => "put",
        pb::InternalRaftRequest { delete_range: Some(_), .. } => "delete",
        pb::InternalRaftRequest { txn: Some(_), .. } => "txn",
        _ => "compaction",
    }
}

fn revision(response: &Response) -> i64 {
    let header = match response {
        Response::Put(response) => &response.header,
        Response::DeleteRange(response) => &response.header,
        Response::Txn(response) => &response.header,
        Response::Compaction(response) => &response.header,
        _ => return 0,
    };
    header.as_ref().map_or(0, |header| header.revision)
}

/// A message in a few words.
pub(crate) fn describe(message: &raftpb::Message) -> String {
    let kind = MessageType::as_str_name(&message.r#type());
    let mut text = format!("{kind} {}->{} term {}", message.from(), message.to(), message.term());
    let _ = write!(text, " index {} commit {}", message.index(), message.commit());
    if !message.entries.is_empty() {
        let _ = write!(text, " entries {}", message.entries.len());
    }
    if message.reject() {
        text += " reject";
    }
    text
}
