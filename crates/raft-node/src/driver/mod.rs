//! The consensus thread: the only owner of core, log and machine (which it lends out: [`apply`]).
//!
//! ```text
//! park ─▶ take the inbox ─▶ tick, propose, step ─▶ while there is work: send, write + sync, send, apply, hand back
//!   ▲                                                                                                        │
//!   └───────────── commit index written down, background work of the machine, flush if due ◀─────────────────┘
//! ```
//!
//! Whatever waits while a sync runs goes into the next batch: there are no timers to gather by.

mod apply;
mod background;
mod flush;
mod leases;
mod transfer;

use crate::core::{Core, Effects, Input, Proposal, Settings};
use crate::front::{Batch, Command, Done, Front, Inbox, Load, Outbox, lock};
use crate::handle::Shared;
use crate::leases::Lessor;
use crate::meters::{PeerDrop, Timed};
use crate::status::StatusCells;
use crate::tasks::spawn_tasks;
use crate::{Handle, Leadership, Meters, NodeFault, Options, Outbound, ProposeError, RequestIds, StartError};
use apply::Applier;
pub(crate) use apply::Back;
use background::Background;
use engine::Engine;
use flush::Flusher;
use lease::Checkpoints;
use leases::{Leases, ROUND};
use machine::Machine;
use slog::Drain as _;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, watch};
use transfer::Transfer;
use types::EntryKind;
use wal::{Disk, Wal};

/// Starts a node. Must be called inside a tokio runtime: its tasks live there, and there its waiters are woken.
///
/// `wal` is the log as it was opened (for a fresh cluster with [`crate::bootstrap::first_log`] appended and synced),
/// `machine` what was opened on `engine`. The thread ends after [`Handle::stop`], after this member's removal, or with
/// a fault, upon which the process must end.
pub fn start<D: Disk>(
    options: Options,
    wal: Wal<D>,
    mut machine: Machine,
    engine: Arc<dyn Engine>,
    outbound: Arc<dyn Outbound>,
    log: slog::Logger,
) -> Result<(Handle, JoinHandle<Result<(), NodeFault>>), StartError>
where
    Wal<D>: Send,
{
    // Peers can cause most lines of the node and of raft-rs.
    let log = crate::quiet::limited(log, &options.limits);
    machine.replays_up_to(wal.last_index());
    let unix_millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or_default());
    let settings = Settings {
        member: options.member,
        election_ticks: options.election_ticks,
        pre_vote: options.pre_vote,
        request_timeout: options.request_timeout,
        unix_millis,
        applied: machine.applied().0,
        conf: machine.conf_state(),
        limits: options.limits.clone(),
    };
    let raft_log =
        slog::Logger::root(slog::LevelFilter::new(log.clone(), slog::Level::Info).fuse(), slog::o!());
    let meters = Meters::new();
    let wal = Timed::new(wal, meters.clone());
    let core = Core::new(&settings, Box::new(wal), raft_log)?;
    let shared = Arc::new(Shared {
        ids: RequestIds::new(options.member, unix_millis),
        front: Mutex::new(Front::new()),
        inbox: Inbox::default(),
        outbox: Outbox::default(),
        load: Load::default(),
        lessor: Lessor::new(options.election_timeout(), &options.limits),
        cells: StatusCells::default(),
        flush: Notify::new(),
        deadlines: Notify::new(),
        leadership: watch::Sender::new(Leadership::default()),
        applied: watch::Sender::new(settings.applied),
        ended: watch::Sender::new(false),
        machine: machine.shared(),
        outbound,
        meters,
        log,
        options,
    });
    let flusher = Flusher::start(engine, Arc::clone(&shared)).map_err(StartError::Thread)?;
    let applier = Applier::start(machine, Arc::clone(&shared)).map_err(StartError::Thread)?;
    let driver = Driver::new(Arc::clone(&shared), core, applier, flusher);
    let thread = std::thread::Builder::new()
        .name("consensus".to_owned())
        .spawn(move || driver.main())
        .map_err(StartError::Thread)?;
    spawn_tasks(&shared);
    Ok((Handle { shared }, thread))
}

struct Driver {
    shared: Arc<Shared>,
    core: Core,
    applier: Applier,
    flusher: Flusher,
    inbox: Batch,
    /// Normal entries that wait for a leader, or for room.
    proposals: VecDeque<Proposal>,
    /// Changes of members: one at a time, so they must not hold up the others.
    changes: VecDeque<Proposal>,
    done: Vec<Done>,
    next_tick: Instant,
    transfer: Option<Transfer>,
    /// Something happened that may let a waiting change of members through.
    retry_changes: bool,
    background: Background,
    leases: Leases,
    stopping: bool,
}

impl Driver {
    fn new(shared: Arc<Shared>, core: Core, applier: Applier, flusher: Flusher) -> Self {
        let background = Background::new(Instant::now(), shared.meters.clone(), &shared.options.limits);
        Self {
            next_tick: Instant::now() + shared.options.tick,
            shared,
            core,
            applier,
            flusher,
            inbox: Batch::default(),
            proposals: VecDeque::new(),
            changes: VecDeque::new(),
            done: Vec::new(),
            transfer: None,
            retry_changes: false,
            background,
            leases: Leases::new(),
            stopping: false,
        }
    }

    /// The thread's body: however it ends, nobody is left waiting.
    fn main(self) -> Result<(), NodeFault> {
        let shared = Arc::clone(&self.shared);
        shared.inbox.set_thread(std::thread::current());
        let result = std::panic::catch_unwind(AssertUnwindSafe(move || self.run()))
            .unwrap_or(Err(NodeFault::Panicked));
        let reason = match &result {
            Ok(()) => ProposeError::Stopped,
            Err(fault) => {
                slog::crit!(shared.log, "the node failed"; "error" => %fault);
                ProposeError::Fault
            }
        };
        shared.outbox.hand_back(&mut vec![Done::Ended(reason)]);
        result
    }

    fn run(mut self) -> Result<(), NodeFault> {
        self.begin()?;
        while !self.stopping && !self.core.is_removed() {
            let now = Instant::now();
            self.applier.begin_turn();
            self.take_inbox(now)?;
            self.tick(now);
            self.propose(now);
            self.keep_leases(now)?;
            self.process(now)?;
            // Behind the tick's messages: it may take long.
            if self.catch_up(now)? {
                self.process(now)?;
            }
            self.watch_transfer(now);
            self.flusher.flush_if_due(now, &mut self.core)?;
            self.publish_status();
            self.shared.outbox.hand_back(&mut self.done);
            self.rest()?;
        }
        self.finish()
    }

    /// Applies what is committed already. A member that decides alone leads at once.
    fn begin(&mut self) -> Result<(), NodeFault> {
        let now = Instant::now();
        self.process(now)?;
        if self.core.conf_state().voters == [self.shared.options.member] {
            self.core.step(now, Input::Campaign);
            self.process(now)?;
        }
        self.note_members();
        self.publish_status();
        Ok(())
    }

    fn take_inbox(&mut self, now: Instant) -> Result<(), NodeFault> {
        let mut batch = std::mem::take(&mut self.inbox);
        let load = &self.shared.load;
        if !batch.messages.is_empty() {
            load.messages.fetch_sub(batch.messages.len(), Relaxed);
            load.message_bytes
                .fetch_sub(batch.messages.iter().map(crate::convert::Checked::bytes).sum(), Relaxed);
        }
        order_appends(&mut batch.messages);
        for message in batch.messages.drain(..) {
            self.core.step(now, Input::Message(message));
        }
        for proposal in batch.proposals.drain(..) {
            match proposal.kind {
                EntryKind::Normal => self.proposals.push_back(proposal),
                EntryKind::ConfChange => {
                    self.changes.push_back(proposal);
                    self.retry_changes = true;
                }
            }
        }
        for round in batch.reads.drain(..) {
            self.core.step(now, Input::Read(round));
        }
        for member in std::mem::take(&mut batch.unreachable) {
            self.core.step(now, Input::Unreachable(member));
        }
        for command in batch.commands.drain(..) {
            self.command(now, command)?;
        }
        // Its buffers serve again.
        self.inbox = batch;
        Ok(())
    }

    fn command(&mut self, now: Instant, command: Command) -> Result<(), NodeFault> {
        match command {
            Command::SnapshotDone { member, ok } => self.core.step(now, Input::SnapshotDone { member, ok }),
            Command::AdvanceTicks(ticks) => (0..ticks).for_each(|_| self.core.step(now, Input::Tick)),
            Command::Transfer { to, deadline, reply } => self.transfer(now, Transfer { to, deadline, reply }),
            Command::ProposeInTerm { term, proposal } => {
                self.core.step(now, Input::ProposeInTerm(term, vec![proposal]));
            }
            Command::Deadlines(deadlines) => self.leases_built(now, *deadlines),
            Command::Applied(back) => self.machine_back(now, *back)?,
            Command::Flushed(result) => self.flusher.flushed(result, &mut self.core)?,
            Command::Stop => self.stopping = true,
        }
        Ok(())
    }

    /// One tick when it is due. After a pause the ticks missed are not made up for: a member that slept must hear the
    /// leader before it thinks of an election.
    fn tick(&mut self, now: Instant) {
        if self.core.wake_at().is_some_and(|at| at <= now) {
            self.core.wake(now);
        }
        if now < self.next_tick {
            return;
        }
        // Twice the interval after the last one: etcd's bound for the heartbeats of a leader.
        if now >= self.next_tick + self.shared.options.tick && self.core.leadership().is_leader {
            let others = self.core.conf_state().voters.len().saturating_sub(1);
            self.shared.meters.late_heartbeats.inc_by(others as u64);
        }
        self.core.step(now, Input::Tick);
        self.next_tick += self.shared.options.tick;
        if now >= self.next_tick {
            self.next_tick = now + self.shared.options.tick;
        }
        self.background.wake();
        self.retry_changes = true;
        let peers = self.core.peers();
        self.leases.tick(now, self.core.indexes().2, &peers, self.shared.options.limits.follower_lag);
        *lock(&self.shared.cells.peers) = peers;
    }

    fn takes_proposals(&self) -> bool {
        self.core.takes_proposals()
            && self.applier.backlog_bytes() <= self.shared.options.limits.backlog_bytes
    }

    fn propose(&mut self, now: Instant) {
        if self.proposals.is_empty() && self.changes.is_empty() {
            return;
        }
        if !self.takes_proposals() {
            // They wait, but not for ever: whoever asked was told when the deadline passed.
            self.drop_expired(now);
            return;
        }
        let limits = &self.shared.options.limits;
        let (entries_max, bytes_max) = (limits.batch_entries.max(1), limits.batch_bytes.max(1));
        let mut batch = Vec::with_capacity(self.proposals.len().min(entries_max));
        let mut bytes = 0;
        while batch.len() < entries_max
            && bytes < bytes_max
            && let Some(proposal) = self.proposals.pop_front()
        {
            if proposal.deadline <= now {
                self.shared.load.sub(1, proposal.data.len());
                continue;
            }
            bytes += proposal.data.len();
            batch.push(proposal);
        }
        if std::mem::take(&mut self.retry_changes) {
            for change in self.changes.drain(..) {
                if change.deadline <= now {
                    self.shared.load.sub(1, change.data.len());
                    continue;
                }
                bytes += change.data.len();
                batch.push(change);
            }
        }
        let count = batch.len();
        if count == 0 {
            return;
        }
        self.shared.load.sub(count, bytes);
        self.core.step(now, Input::Propose(batch));
    }

    fn drop_expired(&mut self, now: Instant) {
        for queue in [&mut self.proposals, &mut self.changes] {
            queue.retain(|proposal| {
                let waits = proposal.deadline > now;
                if !waits {
                    self.shared.load.sub(1, proposal.data.len());
                }
                waits
            });
        }
    }

    fn process(&mut self, now: Instant) -> Result<(), NodeFault> {
        loop {
            self.act_on_effects();
            let Some(mut work) = self.core.work() else {
                return Ok(());
            };
            self.send(std::mem::take(&mut work.messages));
            let persisted = self.core.persist(work)?;
            self.send(persisted.messages);
            self.committed(now, persisted.committed)?;
        }
    }

    fn send(&self, messages: Vec<proto::raftpb::Message>) {
        if !messages.is_empty() {
            self.shared.outbound.send(messages);
        }
    }

    fn act_on_effects(&mut self) {
        let Effects { returned, refused, reads, leadership, dropped } = self.core.effects();
        for dropped in dropped {
            self.shared.meters.peer_dropped(PeerDrop::Core(dropped));
        }
        for proposal in returned.into_iter().rev() {
            self.shared.load.add(proposal.data.len());
            match proposal.kind {
                EntryKind::Normal => self.proposals.push_front(proposal),
                EntryKind::ConfChange => self.changes.push_front(proposal),
            }
        }
        self.done.extend(refused.into_iter().map(|(id, error)| Done::Failed(id, error)));
        for read in reads {
            if read.tokens.contains(&ROUND) {
                self.leases_confirmed(read.result);
            }
            self.done.push(Done::Reads(read.tokens, read.result));
        }
        if let Some(leadership) = leadership {
            self.retry_changes = true;
            self.note_leadership(leadership);
        }
    }

    fn note_leadership(&mut self, now: Leadership) {
        let before = *self.shared.leadership.borrow();
        if now.leader != before.leader {
            slog::info!(self.shared.log, "the leader changed"; "term" => now.term,
                "from" => format!("{:x}", before.leader), "to" => format!("{:x}", now.leader));
            let at = Instant::now();
            *lock(&self.shared.cells.leader_lost) = (now.leader == 0).then_some(at);
            if now.leader != 0 {
                *lock(&self.shared.cells.leader_since) = Some(at);
            }
            *lock(&self.shared.cells.peers) = self.core.peers();
        }
        self.leases_lead(now);
        self.publish_status();
        self.shared.leadership.send_replace(now);
    }

    fn note_members(&mut self) {
        self.retry_changes = true;
        self.shared.lessor.with(|expirer| expirer.set_checkpoints(Checkpoints::Undecided));
        let learners = self.core.conf_state().learners;
        self.shared.cells.is_learner.store(learners.contains(&self.shared.options.member), Relaxed);
        // Whoever was told that a learner was added may ask for its promotion at once.
        *lock(&self.shared.cells.peers) = self.core.peers();
        self.shared.outbound.members_changed(self.shared.machine.membership());
    }

    fn publish_status(&self) {
        let cells = &self.shared.cells;
        let Leadership { term, leader, is_leader } = self.core.leadership();
        let (commit, applied, last) = self.core.indexes();
        cells.term.store(term, Relaxed);
        cells.leader.store(leader, Relaxed);
        cells.is_leader.store(is_leader, Relaxed);
        cells.commit.store(commit, Relaxed);
        cells.applied.store(applied, Relaxed);
        cells.last.store(last, Relaxed);
    }

    /// Fetches the next batch; with nothing to do, settles, does background work, or sleeps.
    fn rest(&mut self) -> Result<(), NodeFault> {
        let proposes = (!self.proposals.is_empty() || (self.retry_changes && !self.changes.is_empty()))
            && self.takes_proposals();
        let busy = proposes || self.applier.may_catch_up();
        if self.stopping || self.core.is_removed() {
            return Ok(());
        }
        if self.shared.inbox.take(&mut self.inbox, false) || busy {
            return self.in_background(false).map(drop);
        }
        self.core.settle()?;
        if self.in_background(true)? || self.shared.inbox.take(&mut self.inbox, true) {
            return Ok(());
        }
        let wakes = [self.core.wake_at(), self.leases.wake_at()].into_iter().flatten();
        let wake_at = wakes.fold(self.next_tick, Instant::min);
        std::thread::park_timeout(
            wake_at.saturating_duration_since(Instant::now()).max(Duration::from_micros(50)),
        );
        self.shared.inbox.take(&mut self.inbox, false);
        Ok(())
    }

    /// A step of the machine's background work; `true` = there is more to do now.
    fn in_background(&mut self, is_idle: bool) -> Result<bool, NodeFault> {
        match self.applier.machine() {
            Some(machine) => self.background.step(Instant::now(), machine, is_idle),
            None => Ok(false),
        }
    }

    fn finish(mut self) -> Result<(), NodeFault> {
        self.publish_status();
        if self.core.is_removed() {
            slog::warn!(self.shared.log, "this member was removed from the cluster");
            self.shared.cells.is_removed.store(true, Relaxed);
            self.shared.cells.leader.store(0, Relaxed);
            self.shared.cells.is_leader.store(false, Relaxed);
        } else {
            self.core.settle()?;
        }
        self.shared.outbox.hand_back(&mut self.done);
        self.core.sync_all()?;
        self.applier.finish();
        self.flusher.finish()
    }
}

/// Puts appends in the order of the log: etcd 3.7.1 sends the messages of one turn in reverse, and raft-rs refuses what
/// comes before its predecessor. Other messages keep their places.
fn order_appends(messages: &mut Vec<crate::convert::Checked>) {
    let order = |message: &crate::convert::Checked| message.append_order();
    if messages.iter().filter_map(order).is_sorted() {
        return;
    }
    let places: Vec<usize> = (0..messages.len()).filter(|at| order(&messages[*at]).is_some()).collect();
    let mut sorted = places.clone();
    sorted.sort_by_key(|at| order(&messages[*at]));
    let mut slots: Vec<_> = messages.drain(..).map(Some).collect();
    let moved: Vec<_> = sorted.into_iter().map(|at| slots[at].take()).collect();
    for (place, message) in places.into_iter().zip(moved) {
        slots[place] = message;
    }
    messages.extend(slots.into_iter().flatten());
}
