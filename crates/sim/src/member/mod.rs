//! One member: its disks, and one life of it. The member is `raft_node`'s own; around it is a [`Stage`] instead of a
//! process.
//!
//! Virtual time replaces a process's threads: a turn begins when the member is free, a sync takes as long as the seed
//! says, and a crash may come between any two steps of a turn.

mod leases;
mod requests;
mod snapshots;
mod stage;
mod states;

pub(crate) use snapshots::Parcel;
pub(crate) use states::States;

use crate::client::{Ask, Question};
use crate::drawn::count_draw;
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::trace::{Trace, trace};
use crate::watching::Watching;
use crate::{Micros, Violation};
use bytes::Bytes;
use engine::MemoryEngine;
use leases::Keepalive;
use machine::{Fault, Machine, Settings as MachineSettings, Shared};
use proto::raftpb::{self, MessageType};
use raft_node::core::{Core, Log};
use raft_node::member::{Batch, Control, Job, Member, MemberStatus, Rest, SharedParts};
use raft_node::pending::PendingRequests;
use raft_node::{Lessor, Limits, Meters, Options, Renewing, RequestIds};
use snapshots::{Received, Staged};
use stage::Stage;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use types::Index;
use wal::{MemDisk, Wal};

/// etcd's default: ten heartbeats without a leader.
const ELECTION_TICKS: usize = 10;
/// The heartbeat interval, microseconds of virtual time.
const TICK: Micros = 100_000;
/// The timeout of a request, microseconds (etcd's `ReqTimeout`).
pub(crate) const REQUEST_TIMEOUT: Micros = 7_000_000;
/// Upper bound for jobs on other threads, microseconds of virtual time: longer than an election.
const JOB_MAX: Micros = 3_000_000;
/// Their usual upper bound, microseconds.
const JOB_USUAL: Micros = 5_000;
/// The longest until it is known whether other members would misunderstand checkpoints, microseconds.
const DECIDE_MAX: Micros = 2_000_000;
/// The longest that a sync hangs, microseconds.
const SYNC_MAX: Micros = 4_000_000;

#[derive(Debug)]
pub(crate) enum LifeEnd {
    Crash(&'static str),
    Removed,
    Violation(Violation),
}

impl From<Violation> for LifeEnd {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

pub(crate) struct Disks {
    pub(crate) log: MemDisk,
    pub(crate) states: States,
}

#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) start: Instant,
    pub(crate) log: wal::Options,
    /// How far the clock of a starting member may be off, milliseconds.
    pub(crate) clock_steps: u64,
    pub(crate) sync_micros: Micros,
    /// The rate of syncs that hang, sometimes longer than an election.
    pub(crate) hangs_per_mille: u64,
    pub(crate) group_split_per_mille: u64,
    pub(crate) checkpoints: bool,
    /// How often members crash around the installation of a snapshot.
    pub(crate) install_crashes_per_mille: u64,
    /// In how many turns one removes the states that are not needed any more.
    pub(crate) tidies_one_in: u64,
    /// The first members, 1 to this number.
    pub(crate) founders: u64,
    pub(crate) limits: Limits,
    /// For draws that differ between members.
    pub(crate) seed: u64,
}

impl Rules {
    pub(crate) fn instant(&self, at: Micros) -> Instant {
        self.start + Duration::from_micros(at)
    }

    /// The first microsecond not before a time.
    fn micros(&self, at: Instant) -> Micros {
        let nanos = at.saturating_duration_since(self.start).as_nanos();
        Micros::try_from(nanos.div_ceil(1_000)).unwrap_or(Micros::MAX)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub(crate) client: usize,
    pub(crate) number: u64,
    /// For a read: its question, and the revision it must see.
    pub(crate) read: Option<(Box<Question>, i64)>,
}

/// Who waits for an entry or a read.
enum Waits {
    Client(Waiter),
    Keepalive(Box<Keepalive>),
}

struct Replies;

impl raft_node::pending::Replies for Replies {
    type Request = Waits;
    type Read = Waits;
    type Transfer = ();
}

enum PendingJob {
    /// It runs until this time.
    Under(Micros, Job),
    /// It is done; the member learns of it at this time.
    Done(Micros, Control),
    /// A snapshot is made at this time.
    Export(Micros, Box<raftpb::Message>),
    /// A snapshot becomes a state on the disk at this time.
    Import(Micros, Box<Received>),
    /// The member learns of a snapshot's state at this time.
    Install(Micros, Box<Staged>),
}

impl PendingJob {
    fn at(&self) -> Micros {
        match self {
            Self::Under(at, _)
            | Self::Done(at, _)
            | Self::Export(at, _)
            | Self::Import(at, _)
            | Self::Install(at, _) => *at,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ClientAnswer {
    pub(crate) client: usize,
    pub(crate) number: u64,
    pub(crate) request_id: u64,
    /// The revision of the state that answered; `None` if the request failed.
    pub(crate) revision: Option<i64>,
}

pub(crate) struct Around<'a> {
    pub(crate) now: Micros,
    pub(crate) rules: &'a Rules,
    pub(crate) rng: &'a mut Rng,
    pub(crate) oracle: &'a mut Oracle,
    pub(crate) trace: &'a mut Trace,
    /// Messages, with the time at which they leave.
    pub(crate) sent: Vec<(Micros, raftpb::Message)>,
    /// Answers, with the time at which they leave.
    pub(crate) answers: Vec<(Micros, ClientAnswer)>,
    /// Snapshots, with the time at which they leave.
    pub(crate) parcels: Vec<(Micros, raftpb::Message, Bytes)>,
    /// Which snapshots were taken, and when: in order, or not.
    pub(crate) receipts: Vec<(Micros, u64, bool)>,
}

impl<'a> Around<'a> {
    pub(crate) fn new(
        now: Micros,
        rules: &'a Rules,
        rng: &'a mut Rng,
        oracle: &'a mut Oracle,
        trace: &'a mut Trace,
    ) -> Self {
        let (sent, answers, parcels, receipts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { now, rules, rng, oracle, trace, sent, answers, parcels, receipts }
    }
}

#[derive(Default)]
pub(crate) struct Inputs {
    pub(crate) messages: Vec<Bytes>,
    pub(crate) requests: Vec<(Ask, Waiter)>,
    pub(crate) unreachable: Vec<u64>,
    pub(crate) transfer: Option<u64>,
    pub(crate) snapshots: Vec<Parcel>,
    /// Members to which a snapshot was sent, and whether it arrived.
    pub(crate) snapshots_done: Vec<(u64, bool)>,
}

pub(crate) struct Life {
    member: Member,
    pub(crate) own: Own,
}

/// A life's state besides its member.
pub(crate) struct Own {
    id: u64,
    shared: Arc<Shared>,
    engine: Arc<MemoryEngine>,
    states: States,
    disk: MemDisk,
    ids: Arc<RequestIds>,
    lessor: Arc<Lessor>,
    pub(crate) inbox: Inputs,
    pending: PendingRequests<Replies>,
    /// Keepalives that go on in the next turn.
    renewals: Vec<(Renewing, Waiter)>,
    jobs: Vec<PendingJob>,
    /// The oracle has checked applied entries up to here.
    checked: Index,
    status: MemberStatus,
    /// When it is known whether checkpoints may be logged.
    decide_at: Option<Micros>,
    /// Disk operations before the turn's latest step.
    operations: u64,
    election_ticks: usize,
    /// The member's time within a turn: later than its start by the syncs done.
    pub(crate) clock: Micros,
    wake_at: Micros,
    /// Crash points until it crashes within a turn.
    pub(crate) crash_in: Option<u64>,
    pub(crate) disk_fails: bool,
    pub(crate) watching: Watching,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Life {
    /// Starts from the contents of the disks. A failing disk ends the life at once.
    pub(crate) fn start(
        id: u64,
        disks: &Disks,
        disk_fails: bool,
        around: &mut Around<'_>,
    ) -> Result<Self, LifeEnd> {
        let rules = around.rules;
        let (wal, replayed) = match Wal::open_with(disks.log.clone(), rules.log) {
            Ok(opened) => opened,
            Err(_) if disk_fails => return Err(LifeEnd::Crash("its disk failed at the start")),
            Err(error) => {
                return Err(LifeEnd::Violation(format!("member {id} cannot open its log: {error}")));
            }
        };
        disks.log.heal();
        let fail = |fault| format!("member {id} cannot open its state: {fault}");
        let engine = disks.states.at_start(wal.first_index()).map_err(fail)?;
        let engine = engine.ok_or_else(|| {
            format!("member {id} has no state that its log goes on from, {}", wal.first_index())
        })?;
        let machine = open_machine(rules, id, Arc::clone(&engine)).map_err(fail)?;
        around.oracle.reopened(id, replayed.hard_state, &wal)?;
        trace!(
            around.trace,
            "member {id} starts: {:?}, log {}..{}, applied {}, repaired {:?}",
            replayed.hard_state,
            wal.first_index(),
            wal.last_index(),
            machine.applied().0,
            replayed.repaired.map(|repair| repair.bytes)
        );
        let log = around.oracle.copies.listen(id, Box::new(wal));
        Self::with(id, disks, log, (engine, machine), around)
    }

    fn with(
        id: u64,
        disks: &Disks,
        log: Box<dyn Log>,
        (engine, machine): (Arc<MemoryEngine>, Machine),
        around: &mut Around<'_>,
    ) -> Result<Self, LifeEnd> {
        let rules = around.rules;
        // The clock may be set back while the process is down.
        let step = around.rng.below(2 * rules.clock_steps + 1);
        if step < rules.clock_steps {
            count_draw("clock set back");
        }
        let unix_millis = 1_000_000 + around.now / 1000 + step - rules.clock_steps;
        let unix_millis = around.oracle.starts(id, unix_millis);
        let tick = TICK * around.rng.between(97, 103) / 100;
        let options = Options {
            tick: Duration::from_micros(tick),
            election_ticks: ELECTION_TICKS,
            request_timeout: Duration::from_micros(REQUEST_TIMEOUT),
            limits: rules.limits.clone(),
            ..Options::new(id, 7)
        };
        let lessor = Lessor::new(Duration::from_micros(TICK * ELECTION_TICKS as u64), &rules.limits);
        let warnings = Arc::default();
        let parts = SharedParts {
            ids: Arc::new(RequestIds::new(id, unix_millis)),
            lessor: Arc::new(lessor),
            meters: Meters::default(),
            log: crate::warnings::logger(&warnings),
        };
        let own = Own {
            id,
            shared: machine.shared(),
            engine,
            states: disks.states.clone(),
            disk: disks.log.clone(),
            ids: Arc::clone(&parts.ids),
            lessor: Arc::clone(&parts.lessor),
            inbox: Inputs::default(),
            pending: PendingRequests::new(&options),
            renewals: Vec::new(),
            jobs: Vec::new(),
            checked: machine.applied().0,
            status: MemberStatus::default(),
            decide_at: None,
            operations: disks.log.operations(),
            election_ticks: ELECTION_TICKS,
            clock: around.now,
            wake_at: around.now,
            crash_in: None,
            disk_fails: false,
            watching: Watching::new(machine.shared(), id ^ around.now << 8),
            warnings,
        };
        // Its first tick comes within an interval.
        let first_tick = rules.instant(around.now + around.rng.between(1, tick));
        let begun = first_tick.checked_sub(options.tick).expect("this machine has been up for a tick");
        let member = Member::new(options, begun, unix_millis, log, machine, parts)
            .map_err(|error| format!("member {id} cannot start: {error}"))?;
        Ok(Self { member, own })
    }

    /// Applies entries that are committed already. A single voter leads at once.
    pub(crate) fn begin(&mut self, around: &mut Around<'_>) -> Result<(), LifeEnd> {
        let begun = self.member.begin(&mut Stage { own: &mut self.own, around });
        begun.map_err(|stop| self.own.end(stop))?;
        self.rest(around)
    }

    pub(crate) fn turn(&mut self, around: &mut Around<'_>) -> Result<(), LifeEnd> {
        self.own.clock = around.now;
        let mut batch = Batch::default();
        self.own.gather(&mut batch, self.member.core(), around)?;
        let turn = self.member.turn(&mut batch, &mut Stage { own: &mut self.own, around });
        turn.map_err(|stop| self.own.end(stop))?;
        self.rest(around)
    }

    fn rest(&mut self, around: &mut Around<'_>) -> Result<(), LifeEnd> {
        if !self.member.has_ended() {
            let more = !self.own.inbox.requests.is_empty() || !self.own.renewals.is_empty();
            let rest = self.member.rest(more, &mut Stage { own: &mut self.own, around });
            self.own.wake_at = match rest.map_err(|stop| self.own.end(stop))? {
                Rest::Again => self.own.clock,
                Rest::Until(at) => around.rules.micros(at).max(self.own.clock),
            };
        }
        self.own.look_at_warnings(around)?;
        if !self.member.is_asked() && self.own.pending.proposal_room().count() > 0 {
            return Err(format!("member {}: nothing waits, and takes room", self.own.id).into());
        }
        if self.member.core().is_removed() {
            let finished = self.member.finish(&mut Stage { own: &mut self.own, around });
            return Err(finished.err().map_or(LifeEnd::Removed, |stop| self.own.end(stop)));
        }
        let checked = self.own.checked;
        around.oracle.after_turn(self.own.id, self.member.core(), checked)?;
        Ok(())
    }

    pub(crate) fn wake_at(&self) -> Micros {
        let jobs = self.own.jobs.iter().map(PendingJob::at).min();
        jobs.unwrap_or(Micros::MAX).min(self.own.wake_at).max(self.own.clock)
    }

    /// Whether it has finished everything it was asked.
    pub(crate) fn is_idle(&self) -> bool {
        let (commit, applied, last) = self.core().indexes();
        let waits =
            self.member.is_asked() || !self.own.inbox.requests.is_empty() || !self.own.jobs.is_empty();
        let waits = waits || !self.own.renewals.is_empty() || !self.own.inbox.snapshots.is_empty();
        commit == last && applied == last && !waits
    }

    pub(crate) fn core(&self) -> &Core {
        self.member.core()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.own.shared
    }

    pub(crate) fn finish_background_work(&mut self) -> Result<(), Violation> {
        /// Far more steps than any history needs.
        const STEPS_MAX: usize = 10_000;
        let id = self.own.id;
        let machine = self.member.machine().ok_or("the machine is away at the end")?;
        for _ in 0..STEPS_MAX {
            if !machine.idle().map_err(|fault| format!("member {id}: idle: {fault}"))? {
                return Ok(());
            }
        }
        Err(format!("member {id}: background work does not end"))
    }
}

/// Opens a member's machine on a state.
fn open_machine(rules: &Rules, id: u64, engine: Arc<MemoryEngine>) -> Result<Machine, Fault> {
    let limits = crate::limits::draw_machine(rules.seed, id);
    let quota_bytes = crate::limits::draw_quota(rules.seed, id);
    Machine::open(engine, MachineSettings { limits, quota_bytes, ..MachineSettings::new(id, 2) })
}

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
