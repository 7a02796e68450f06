//! A raft member: the only owner of core, log and machine, and its turn.
//!
//! ```text
//! inbox ─▶ tick, propose, step ─▶ while there is work: send, write + sync, send, apply, return results
//!   ▲                                                                                          │
//!   └── the next turn ◀── rest: write the commit index, background work of the machine ◀───────┘
//! ```
//!
//! Everything that queues up during a sync goes into the next batch: no timers form batches. The consensus thread and
//! the simulator run the same turns, each in its own [`World`], which also runs long work, a [`Job`], elsewhere.

mod apply;
mod background;
mod inbox;
mod install;
mod jobs;
mod leases;
mod queue;
mod retention;
mod transfer;
mod world;

pub use inbox::{Batch, Control};
pub use install::Install;
pub use jobs::{AppliedGroup, ApplyJob, DeadlinesJob, Job};
pub use world::{Done, MemberStatus, Step, Stop, World};

use crate::convert::Checked;
use crate::core::{Core, CoreSettings, Effects, Input, Log};
use crate::lessor::Lessor;
use crate::meters::PeerDrop;
use crate::{Leadership, Meters, NodeFault, Options, RequestIds, StartError};
use apply::Applier;
use background::Background;
use lease::Checkpoints;
use leases::{LeaseState, ROUND};
use machine::Machine;
use queue::Queue;
use retention::Retention;
use std::sync::Arc;
use std::time::Instant;
use transfer::Transfer;
use types::mutant::{Mutant, is};

/// The result of a turn.
pub type Turn<W> = Result<(), Stop<<W as World>::Halt>>;

/// What a member shares with its callers.
pub struct SharedParts {
    /// The source of this process's request IDs.
    pub ids: Arc<RequestIds>,
    /// The lease deadlines, shared with renewals.
    pub lessor: Arc<Lessor>,
    /// The node's metrics and counters.
    pub meters: Meters,
    /// The logger of the member.
    pub log: slog::Logger,
}

/// When the next turn is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// At once, without waiting.
    Again,
    /// At this time, unless something comes in before.
    Until(Instant),
}

/// A raft member, from start to end. To drive it:
/// 1. call [`Member::begin`], then [`Member::turn`] with everything that came in, again and again;
/// 2. after each turn [`Member::rest`], which says when the next one is due;
/// 3. after [`Member::has_ended`] only [`Member::finish`], once;
/// 4. after an error nothing: a fault ends the process.
pub struct Member {
    options: Options,
    core: Core,
    applier: Applier,
    machine: Arc<machine::Shared>,
    retention: Retention,
    queue: Queue,
    leases: LeaseState,
    background: Background,
    transfer: Option<Transfer>,
    /// A leader's snapshot that waits to be stepped.
    arrived: Option<Install>,
    /// The state of the one that raft goes on from, until the log says so.
    installing: Option<Machine>,
    next_tick: Instant,
    done: Vec<Done>,
    ids: Arc<RequestIds>,
    lessor: Arc<Lessor>,
    meters: Meters,
    log: slog::Logger,
    last_leadership: Leadership,
    stopping: bool,
}

impl Member {
    /// A member with this log and machine; its first tick comes one interval after `now`. `unix_millis`, the start in
    /// milliseconds since 1970, makes its read contexts unique across restarts.
    pub fn new(
        options: Options,
        now: Instant,
        unix_millis: u64,
        log: Box<dyn Log>,
        mut machine: Machine,
        parts: SharedParts,
    ) -> Result<Self, StartError> {
        let SharedParts { ids, lessor, meters, log: logger } = parts;
        machine.replays_up_to(log.last_index());
        let settings = CoreSettings {
            member: options.member,
            election_ticks: options.election_ticks,
            pre_vote: options.pre_vote,
            request_timeout: options.request_timeout,
            unix_millis,
            applied: machine.applied().0,
            conf: machine.conf_state(),
            limits: options.limits.clone(),
        };
        let raft_log = slog::Logger::root(
            slog::Drain::fuse(slog::LevelFilter::new(logger.clone(), slog::Level::Info)),
            slog::o!(),
        );
        let core = Core::new(&settings, log, raft_log)?;
        Ok(Self {
            next_tick: now + options.tick,
            retention: Retention::new(now, &options.limits),
            background: Background::new(now, meters.clone(), &options.limits),
            machine: machine.shared(),
            applier: Applier::new(machine, meters.clone()),
            core,
            queue: Queue::default(),
            leases: LeaseState::default(),
            transfer: None,
            arrived: None,
            installing: None,
            done: Vec::new(),
            ids,
            lessor,
            meters,
            log: logger,
            last_leadership: Leadership::default(),
            stopping: false,
            options,
        })
    }

    /// The raft core, for the simulator's oracles.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The machine, unless another thread has it.
    pub fn machine(&mut self) -> Option<&mut Machine> {
        self.applier.machine()
    }

    /// Whether proposals are queued here.
    pub fn is_asked(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether the member does nothing any more: it was stopped, or has applied its own removal.
    pub fn has_ended(&self) -> bool {
        self.stopping || self.core.is_removed()
    }

    /// Applies entries that are committed already. A single voter leads at once.
    pub fn begin<W: World>(&mut self, world: &mut W) -> Turn<W> {
        let now = world.now();
        self.process(now, world)?;
        if self.core.conf_state().voters == [self.options.member] {
            self.core.step(now, Input::Campaign);
            self.process(now, world)?;
        }
        self.note_members(world);
        world.status_changed(&self.status());
        Ok(())
    }

    /// Runs one turn: consumes the batch and does all resulting work.
    pub fn turn<W: World>(&mut self, batch: &mut Batch, world: &mut W) -> Turn<W> {
        let now = world.now();
        self.applier.begin_turn();
        self.take(now, batch, world)?;
        self.step_arrived(now, world)?;
        self.tick(now, world);
        self.propose(now);
        self.keep_leases(now)?;
        self.process(now, world)?;
        // After the tick's messages, because it may take long.
        if self.catch_up(now, world)? {
            self.process(now, world)?;
        }
        self.watch_transfer(now);
        self.flush_if_due(now, world)?;
        world.status_changed(&self.status());
        self.hand_back(world)
    }

    /// When idle, writes the commit index and does background work; returns when the next turn is due. `more`: a batch
    /// waits already.
    pub fn rest<W: World>(&mut self, more: bool, world: &mut W) -> Result<Rest, Stop<W::Halt>> {
        if self.has_ended() {
            return Ok(Rest::Again);
        }
        let proposes = self.queue.is_due() && self.takes_proposals();
        if more || proposes || self.applier.may_catch_up() {
            self.in_background(false, world)?;
            return Ok(Rest::Again);
        }
        self.core.settle()?;
        if self.in_background(true, world)? {
            return Ok(Rest::Again);
        }
        let wakes = [self.core.wake_at(), self.leases.wake_at()].into_iter().flatten();
        Ok(Rest::Until(wakes.fold(self.next_tick, Instant::min)))
    }

    /// Ends a member that was stopped or removed: makes everything written durable.
    pub fn finish<W: World>(&mut self, world: &mut W) -> Turn<W> {
        world.status_changed(&self.status());
        if self.core.is_removed() {
            slog::warn!(self.log, "this member was removed from the cluster");
        } else {
            self.core.settle()?;
        }
        self.hand_back(world)?;
        Ok(self.core.sync_all()?)
    }

    fn take<W: World>(&mut self, now: Instant, batch: &mut Batch, world: &mut W) -> Turn<W> {
        order_appends(&mut batch.messages);
        for (message, _permit) in batch.messages.drain(..) {
            self.core.step(now, Input::Message(message));
        }
        batch.proposals.drain(..).for_each(|proposal| self.queue.push(proposal));
        for token in batch.reads.drain(..) {
            self.core.step(now, Input::Read(token));
        }
        for member in std::mem::take(&mut batch.unreachable) {
            self.core.step(now, Input::Unreachable(member));
        }
        for control in batch.controls.drain(..) {
            self.control(now, control, world)?;
        }
        Ok(())
    }

    fn control<W: World>(&mut self, now: Instant, control: Control, world: &mut W) -> Turn<W> {
        match control {
            Control::SnapshotDone { member, ok } => self.core.step(now, Input::SnapshotDone { member, ok }),
            Control::AdvanceTicks(ticks) => (0..ticks).for_each(|_| self.core.step(now, Input::Tick)),
            Control::Install(install) => self.arrived(*install),
            Control::Transfer { id, to, deadline } => self.transfer(now, Transfer { id, to, deadline }),
            Control::ProposeInTerm { term, proposal } => {
                self.core.step(now, Input::ProposeInTerm(term, vec![proposal]));
            }
            Control::Deadlines(deadlines) => self.leases_built(now, *deadlines),
            Control::Applied(applied) => self.machine_back(now, *applied, world)?,
            Control::Flushed(result) => self.flushed(result, world)?,
            Control::Failed(fault) => return Err(fault.into()),
            Control::Stop => self.stopping = true,
        }
        Ok(())
    }

    /// Ticks once if due, without making up for missed ticks: a member that slept must hear the leader before an
    /// election.
    fn tick<W: World>(&mut self, now: Instant, world: &mut W) {
        if self.core.wake_at().is_some_and(|at| at <= now) {
            self.core.wake(now);
        }
        if now < self.next_tick {
            return;
        }
        let tick = self.options.tick;
        // Two intervals since the last one: etcd's bound for a leader's heartbeats.
        if now >= self.next_tick + tick && self.core.leadership().is_leader {
            let others = self.core.conf_state().voters.len().saturating_sub(1);
            self.meters.late_heartbeats.inc_by(others as u64);
        }
        if let Some(ticks) = world.election_ticks() {
            self.core.fix_election_timeout(ticks);
        }
        self.core.step(now, Input::Tick);
        self.next_tick += tick;
        if now >= self.next_tick {
            self.next_tick = now + tick;
        }
        self.background.wake();
        self.queue.retry_changes();
        let peers = self.core.peers();
        self.leases.tick(now, self.core.indexes().2, &peers, self.options.limits.follower_lag);
        world.peers(peers);
    }

    fn takes_proposals(&self) -> bool {
        self.core.takes_proposals() && self.applier.backlog_bytes() <= self.options.limits.backlog_bytes
    }

    fn propose(&mut self, now: Instant) {
        if self.queue.is_empty() {
            return;
        }
        if !self.takes_proposals() {
            // Proposals do not wait for ever: their waiters were answered at the deadline.
            self.queue.drop_expired(now);
            return;
        }
        let batch = self.queue.take(now, &self.options.limits);
        if is(Mutant::ForwardTwice) && !self.core.leadership().is_leader {
            let some = batch.iter().filter(|proposal| proposal.id != 0 && proposal.id % 4 == 0);
            some.for_each(|proposal| self.queue.push(proposal.again()));
        }
        if !batch.is_empty() {
            self.core.step(now, Input::Propose(batch));
        }
    }

    fn process<W: World>(&mut self, now: Instant, world: &mut W) -> Turn<W> {
        loop {
            self.act_on_effects(world);
            let Some(mut work) = self.core.work()? else {
                return Ok(());
            };
            Self::send(std::mem::take(&mut work.messages), world)?;
            self.at(Step::BeforeWrite, world)?;
            let persisted = self.core.persist(work)?;
            self.at(Step::Synced, world)?;
            // Before it is acknowledged: a leader that knows may ask for a read at once.
            if let Some(index) = persisted.installed {
                self.installed(now, index, world)?;
            }
            Self::send(persisted.messages, world)?;
            self.committed(now, persisted.committed, world)?;
        }
    }

    fn at<W: World>(&self, step: Step, world: &mut W) -> Turn<W> {
        world.at(step, self.core.log()).map_err(Stop::Halt)
    }

    fn send<W: World>(messages: Vec<proto::raftpb::Message>, world: &mut W) -> Turn<W> {
        if messages.is_empty() { Ok(()) } else { world.send(messages).map_err(Stop::Halt) }
    }

    fn hand_back<W: World>(&mut self, world: &mut W) -> Turn<W> {
        if self.done.is_empty() { Ok(()) } else { world.hand_back(&mut self.done).map_err(Stop::Halt) }
    }

    fn act_on_effects<W: World>(&mut self, world: &mut W) {
        let Effects { returned, refused, reads, leadership, dropped } = self.core.effects();
        for dropped in dropped {
            self.meters.peer_dropped(PeerDrop::Core(dropped));
        }
        returned.into_iter().rev().for_each(|proposal| self.queue.push_front(proposal));
        self.done.extend(refused.into_iter().map(|(id, error)| Done::Failed(id, error)));
        for mut read in reads {
            if let Some(own) = read.tokens.iter().position(|token| *token == ROUND) {
                read.tokens.swap_remove(own);
                self.leases_confirmed(read.result);
            }
            if !read.tokens.is_empty() {
                self.done.push(Done::Reads(read.tokens, read.result));
            }
        }
        if let Some(leadership) = leadership {
            self.queue.retry_changes();
            self.note_leadership(leadership, world);
        }
    }

    fn note_leadership<W: World>(&mut self, now: Leadership, world: &mut W) {
        let before = std::mem::replace(&mut self.last_leadership, now);
        if now.leader != before.leader {
            slog::info!(self.log, "the leader changed"; "term" => now.term,
                "from" => format!("{:x}", before.leader), "to" => format!("{:x}", now.leader));
            world.peers(self.core.peers());
        }
        self.leases_lead(now);
        world.leadership_changed(&self.status());
    }

    fn note_members<W: World>(&mut self, world: &mut W) {
        self.queue.retry_changes();
        self.lessor.with(|expirer| expirer.set_checkpoints(Checkpoints::Undecided));
        // A client that was told of a new learner may ask for its promotion at once.
        world.peers(self.core.peers());
        let is_learner = self.core.conf_state().learners.contains(&self.options.member);
        world.members_changed(self.machine.membership(), is_learner);
    }

    /// The member's current status.
    pub fn status(&self) -> MemberStatus {
        let (commit, _, last) = self.core.indexes();
        // raft is not told of the member's own removal.
        let (applied, is_removed) = (self.applier.applied(), self.core.is_removed());
        MemberStatus { leadership: self.core.leadership(), commit, applied, last, is_removed }
    }

    fn in_background<W: World>(&mut self, is_idle: bool, world: &mut W) -> Result<bool, NodeFault> {
        match self.applier.machine() {
            Some(machine) => self.background.step(|| world.now(), machine, is_idle),
            None => Ok(false),
        }
    }
}

/// Sorts appends into log order: etcd 3.7.1 sends the messages of one turn in reverse, and raft-rs refuses an append
/// before its predecessor. Other messages keep their places.
fn order_appends<P>(messages: &mut Vec<(Checked, P)>) {
    let order = |(message, _): &(Checked, P)| message.append_order();
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
