//! One member: its disks, and one life of it, driven as `raft_node`'s own driver drives the core.
//!
//! Where the driver has threads, this has virtual time: a turn begins when the member is free, a sync takes as long as
//! the seed says, and a crash may come between any two steps of the contract on [`Core`].

mod leases;
mod work;

use crate::Micros;
use crate::client::Ask;
use crate::mutation::{MutantLog, Mutation};
use crate::oracle::{Oracle, Violation};
use crate::rng::Rng;
use crate::trace::{Trace, trace};
use crate::watching::Watching;
use bytes::Bytes;
use engine::MemoryEngine;
use leases::Leases;
use machine::{Machine, Settings as MachineSettings};
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::raftpb::{self, MessageType};
use raft_node::convert::{Forwarded, Incoming, incoming};
use raft_node::core::{Core, Input, Log, Proposal, Settings};
use raft_node::{Limits, RequestIds};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use types::{EntryKind, Index, MemberId};
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
    /// It has applied its own removal.
    Removed,
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
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) start: Instant,
    pub(crate) segment_bytes: u64,
    pub(crate) sync_micros: Micros,
    pub(crate) keep_entries: u64,
    pub(crate) group_split_per_mille: u64,
    /// Whether what is left of leases is logged.
    pub(crate) checkpoints: bool,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) limits: Limits,
    /// For what differs from member to member.
    pub(crate) seed: u64,
}

impl Rules {
    pub(crate) fn instant(&self, at: Micros) -> Instant {
        self.start + Duration::from_micros(at)
    }

    pub(crate) fn log_options(&self) -> wal::Options {
        wal::Options { segment_bytes: self.segment_bytes, ..wal::Options::DEFAULT }
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

impl<'a> Around<'a> {
    pub(crate) fn new(
        now: Micros,
        rules: &'a Rules,
        rng: &'a mut Rng,
        oracle: &'a mut Oracle,
        trace: &'a mut Trace,
    ) -> Self {
        Self { now, rules, rng, oracle, trace, sent: Vec::new(), answers: Vec::new() }
    }
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
    /// Changes of members: one at a time, so they must not hold up the others.
    changes: VecDeque<Proposal>,
    /// Something happened that may let a waiting change of members through.
    retry_changes: bool,
    waiters: BTreeMap<u64, Waiter>,
    reads: BTreeMap<u64, Waiter>,
    next_read: u64,
    leases: Leases,
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
    pub(crate) watching: Watching,
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
        let limits = crate::limits::draw_machine(rules.seed, id);
        let settings = MachineSettings { limits, ..MachineSettings::new(MemberId(id), 2) };
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
            limits: rules.limits.clone(),
        };
        let warnings = Arc::default();
        let log: Box<dyn Log> = match rules.mutation {
            Some(mutation) => Box::new(MutantLog { wal, mutation }),
            None => Box::new(wal),
        };
        let core = Core::new(&settings, log, crate::warnings::logger(&warnings))
            .map_err(|error| format!("member {id} cannot start: {error}"))?;
        let watching = Watching::new(machine.shared(), id ^ around.now << 8);
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
            changes: VecDeque::new(),
            retry_changes: false,
            waiters: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_read: 0,
            leases: Leases::new(Duration::from_micros(TICK * ELECTION_TICKS as u64), rules.checkpoints),
            flushed: applied,
            idle_due: true,
            tick,
            next_tick: around.now + around.rng.between(1, tick),
            election_ticks: ELECTION_TICKS,
            clock: around.now,
            crash_in: None,
            disk_fails: false,
            watching,
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
        self.keep_leases(now, around)?;
        self.process(around)?;
        if self.core.is_removed() {
            return Err(End::Removed);
        }
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
        if self.core.is_removed() {
            return Err(End::Removed);
        }
        around.oracle.after_turn(self.id, &self.core)?;
        Ok(())
    }

    /// When its next turn is due, if nothing comes in.
    pub(crate) fn wake_at(&self, rules: &Rules) -> Micros {
        let waits = !self.proposals.is_empty() || (self.retry_changes && !self.changes.is_empty());
        if waits && self.core.takes_proposals() {
            return self.clock;
        }
        let reads = self.core.wake_at().map(|at| at.saturating_duration_since(rules.start).as_micros());
        let reads = reads.and_then(|micros| Micros::try_from(micros).ok()).unwrap_or(Micros::MAX);
        reads.min(self.next_tick).max(self.clock)
    }

    /// Whether it is done with everything it was asked.
    pub(crate) fn is_quiet(&self) -> bool {
        let (commit, applied, last) = self.core.indexes();
        let waits = !self.proposals.is_empty() || !self.changes.is_empty() || !self.inbox.requests.is_empty();
        commit == last && applied == last && !waits
    }

    fn take_inbox(&mut self, now: Instant, around: &mut Around<'_>) -> Result<(), End> {
        let mut inbox = std::mem::take(&mut self.inbox);
        let is_keepalive = |(ask, _): &mut (Ask, Waiter)| matches!(ask, Ask::KeepAlive(_));
        for (ask, waiter) in inbox.requests.extract_if(.., is_keepalive).collect::<Vec<_>>() {
            let Ask::KeepAlive(id) = ask else { unreachable!("only keepalives were taken out") };
            self.keep_alive(now, id, waiter, around);
        }
        let removed = &self.machine.shared().membership().removed;
        for bytes in inbox.messages {
            let message = raftpb::Message::decode(bytes).expect("these bytes were encoded here");
            if removed.contains(&message.from()) {
                continue;
            }
            if message.from() == self.id && message.r#type() == MessageType::MsgReadIndex {
                // A read that it forwarded while another led, forwarded back to it now that it leads: refused and
                // harmless, for the read was asked again.
                trace!(around.trace, "member {} gets its own read", self.id);
                continue;
            }
            match incoming(message, self.id, &around.rules.limits)
                .map_err(|error| format!("member {}: {error}", self.id))?
            {
                Incoming::Step(checked) => self.core.step(now, Input::Message(checked)),
                Incoming::Proposals(Forwarded { hops, left, entries }) => {
                    let timeout = Duration::from_micros(REQUEST_TIMEOUT);
                    let deadline = now + left.map_or(timeout, |left| left.min(timeout));
                    for (kind, data) in entries {
                        self.queue(Proposal { id: 0, kind, data, deadline, hops });
                    }
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
                self.proposals.push_back(Proposal { id, kind: EntryKind::Normal, data, deadline, hops: 0 });
            }
            Ask::Change(mut change) => {
                let id = self.ids.next_id();
                change.id = Some(id);
                trace!(around.trace, "member {} is asked for a change {id:x}: {change:?}", self.id);
                self.waiters.insert(id, waiter);
                let deadline = now + Duration::from_micros(REQUEST_TIMEOUT);
                let data = change.encode_to_vec().into();
                self.queue(Proposal { id, kind: EntryKind::ConfChange, data, deadline, hops: 0 });
            }
            Ask::Read(_) if around.rules.mutation != Some(Mutation::ReadWithoutQuorum) => {
                self.next_read += 1;
                trace!(around.trace, "member {} is asked to read, {}", self.id, self.next_read);
                self.reads.insert(self.next_read, waiter);
                self.core.step(now, Input::Read(self.next_read));
            }
            Ask::Read(_) | Ask::Serializable(_) => self.answer_read(waiter, around)?,
            Ask::KeepAlive(id) => self.keep_alive(now, id, waiter, around),
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
        self.retry_changes = true;
    }

    fn draw_election(&mut self, around: &mut Around<'_>) {
        let extra = around.rng.below(ELECTION_TICKS as u64);
        self.election_ticks = ELECTION_TICKS + usize::try_from(extra).expect("a few ticks");
    }

    fn queue(&mut self, proposal: Proposal) {
        match proposal.kind {
            EntryKind::Normal => self.proposals.push_back(proposal),
            EntryKind::ConfChange => {
                self.changes.push_back(proposal);
                self.retry_changes = true;
            }
        }
    }

    fn propose(&mut self, now: Instant, around: &mut Around<'_>) {
        self.proposals.retain(|proposal| proposal.deadline > now);
        self.changes.retain(|proposal| proposal.deadline > now);
        if !self.core.takes_proposals() {
            return;
        }
        let limits = &around.rules.limits;
        let (mut batch, mut bytes): (Vec<Proposal>, usize) = (Vec::new(), 0);
        while batch.len() < limits.batch_entries
            && bytes < limits.batch_bytes
            && let Some(proposal) = self.proposals.pop_front()
        {
            bytes += proposal.data.len();
            batch.push(proposal);
        }
        if std::mem::take(&mut self.retry_changes) {
            batch.extend(self.changes.drain(..));
        }
        if batch.is_empty() {
            return;
        }
        let again =
            around.rules.mutation == Some(Mutation::ForwardTwice) && !self.core.leadership().is_leader;
        if again && around.rng.one_in(4) {
            self.proposals.extend(batch.iter().cloned());
        }
        self.core.step(now, Input::Propose(batch));
    }
}

fn kind(request: &pb::InternalRaftRequest) -> &'static str {
    match request {
        pb::InternalRaftRequest { put: Some(_), .. } => "put",
        pb::InternalRaftRequest { delete_range: Some(_), .. } => "delete",
        pb::InternalRaftRequest { txn: Some(_), .. } => "txn",
        pb::InternalRaftRequest { compaction: Some(_), .. } => "compaction",
        _ => "lease",
    }
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
