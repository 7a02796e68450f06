//! The pure core: raft-rs, its log and bookkeeping, as a function of inputs and the time given. It has no clock, thread
//! or socket, and no randomness except raft's election timeout ([`Core::fix_election_timeout`]).

mod changes;
mod guard;
mod log;
mod pending_revokes;
mod propose;
mod reads;
mod snapshot;
mod state;

pub use log::Log;
pub use propose::Proposal;
pub use reads::ReadsDone;
pub use state::{Leadership, PeerProgress};

use crate::convert::{Checked, log_entry, outgoing};
use crate::limits::Limits;
use crate::{NodeFault, ProposeError, RequestIds, SnapshotHead, StartError};
use log::LogStore;
use machine::Outcome;
use pending_revokes::PendingRevokes;
use proto::raftpb;
use raft::eraftpb::MessageType;
use raft::{Config, GetEntriesContext, RawNode, ReadOnlyOption, SnapshotStatus, StateRole, Storage as _};
use reads::{Reads, SeenReads};
use std::time::{Duration, Instant};
use types::mutant::{Mutant, is};
use types::{ConfState, Entry, HardState, Index, Term};

/// Configuration of a core.
#[derive(Clone, Debug)]
pub struct CoreSettings {
    /// The ID of this member.
    pub member: u64,
    /// Ticks without a leader before an election.
    pub election_ticks: usize,
    /// Whether to hold a pre-vote before an election.
    pub pre_vote: bool,
    /// How long a round of reads waits for its answer.
    pub request_timeout: Duration,
    /// Milliseconds since 1970 at the start: makes read contexts unique across restarts.
    pub unix_millis: u64,
    /// The machine's applied index.
    pub applied: Index,
    /// The members at the applied index.
    pub conf: ConfState,
    /// The node's limits, with their defaults.
    pub limits: Limits,
}

/// What was dropped of peers' messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// A message that does not fit this member's log, term or role.
    Message,
    /// A read context that was seen before.
    Read,
    /// A proposal that was forwarded too often.
    Proposal,
}

/// An input of the core.
#[derive(Debug)]
pub enum Input {
    /// A tick of the clock passed.
    Tick,
    /// A message came from a peer.
    Message(Checked),
    /// Entries to propose, while [`Core::takes_proposals`]; those that cannot be accepted are in the effects.
    Propose(Vec<Proposal>),
    /// Entries that only the leader of this term may log: on any other member they are refused.
    ProposeInTerm(Term, Vec<Proposal>),
    /// A linearizable read; the token comes back in [`Effects::reads`].
    Read(u64),
    /// Messages to this member are not delivered.
    Unreachable(u64),
    /// A leader's snapshot, whose state is durable and at hand.
    Snapshot(SnapshotHead),
    /// A snapshot was sent to this member, or failed.
    SnapshotDone {
        /// The receiving member's ID.
        member: u64,
        /// Whether it was delivered.
        ok: bool,
    },
    /// Transfer leadership to this member.
    Transfer(u64),
    /// Start an election without waiting for the timeout.
    Campaign,
}

/// The results of an input or an apply, besides work for disk and network.
#[derive(Debug, Default)]
pub struct Effects {
    /// Proposals that cannot be accepted now: propose them again.
    pub returned: Vec<Proposal>,
    /// Proposals that ended without being logged.
    pub refused: Vec<(u64, ProposeError)>,
    /// Reads that were served or failed.
    pub reads: Vec<ReadsDone>,
    /// The new leadership, if it changed.
    pub leadership: Option<Leadership>,
    /// The dropped messages, one by one.
    pub dropped: Vec<Dropped>,
}

/// Data to write, and the messages that need not wait for it.
#[derive(Debug)]
pub struct Work {
    /// Send at once: a leader replicates before its own sync.
    pub messages: Vec<raftpb::Message>,
    /// Sent with [`Persisted::messages`], because they depend on a term or vote that is not on disk yet.
    held: Vec<raftpb::Message>,
    ready: raft::Ready,
}

/// What may be done after the work was written and synced.
#[derive(Debug, Default)]
pub struct Persisted {
    /// Send now: they promise what is durable.
    pub messages: Vec<raftpb::Message>,
    /// The log goes on from the snapshot that was stepped: its state replaces the machine's before anything is applied.
    pub installed: Option<Index>,
    /// Apply now, in order.
    pub committed: Vec<Entry>,
}

/// One member's raft. To drive it:
///
/// 1. Call [`Core::step`] for each input, with the current time; any number of them before point 2.
/// 2. Then, while [`Core::work`] returns any: send [`Work::messages`], and pass the work to [`Core::persist`].
/// 3. Afterwards send [`Persisted::messages`] and apply [`Persisted::committed`], all and in order, in one or more
///    groups: at once, or later (read them with [`Core::committed`]) while points 1 to 3 go on.
/// 4. After each group call [`Core::applied`] with its last index and outcomes.
/// 5. After points 1 and 4 take [`Core::effects`], and act on them.
/// 6. When nothing is left call [`Core::settle`], then sleep until an input, the next tick or [`Core::wake_at`],
///    whichever comes first; after the last call [`Core::wake`] and continue with point 2.
/// 7. When [`Core::is_removed`], stop: send the messages already returned, and call nothing any more.
/// 8. A [`NodeFault`] is final: drop the core and end the process.
pub struct Core {
    node: RawNode<LogStore>,
    reads: Reads,
    seen: SeenReads,
    pending_revokes: PendingRevokes,
    leadership: Leadership,
    effects: Effects,
    /// The commit index in the hard state last written to the log.
    written_commit: Index,
    /// An entry without data was committed: the first of a leader's term.
    term_began: bool,
    removed: bool,
    /// The time passed in by the last call that had one.
    now: Option<Instant>,
    limits: Limits,
    logger: slog::Logger,
}

impl Core {
    /// A core of a member that has this log and has applied up to `settings.applied`.
    pub fn new(settings: &CoreSettings, log: Box<dyn Log>, logger: slog::Logger) -> Result<Self, StartError> {
        let applied = settings.applied;
        let (first, last) = (log.first_index(), log.last_index());
        if last < applied {
            return Err(StartError::LogBehindEngine { last, applied });
        }
        if first > applied + 1 {
            return Err(StartError::LogAheadOfEngine { first, applied });
        }
        let mut hard_state = log.hard_state();
        let written_commit = hard_state.commit;
        // The log may lack the newest commit index (not synced by itself), but raft-rs panics if applied is above it.
        hard_state.commit = hard_state.commit.max(applied).min(last);
        let limits = settings.limits.clone();
        let config = Config {
            id: settings.member,
            election_tick: settings.election_ticks,
            heartbeat_tick: 1,
            applied,
            max_size_per_msg: limits.message_bytes,
            max_inflight_msgs: limits.inflight_messages.max(1),
            check_quorum: true,
            pre_vote: settings.pre_vote,
            read_only_option: ReadOnlyOption::Safe,
            skip_bcast_commit: false,
            batch_append: false,
            priority: 0,
            max_uncommitted_size: limits.raft_uncommitted_bytes.max(limits.message_bytes),
            max_committed_size_per_ready: limits.group_bytes,
            ..Config::default()
        };
        let store = LogStore::new(log, hard_state, applied, &settings.conf, &limits);
        let node =
            RawNode::new(&config, store, &logger).map_err(|error| StartError::Raft(error.to_string()))?;
        let ids = RequestIds::new(settings.member, settings.unix_millis);
        let leadership = Leadership { term: node.raft.term, leader: 0, is_leader: false };
        Ok(Self {
            node,
            reads: Reads::new(ids, settings.request_timeout, &limits),
            seen: SeenReads::new(&limits),
            pending_revokes: PendingRevokes::default(),
            leadership,
            effects: Effects::default(),
            written_commit,
            term_began: false,
            removed: false,
            now: None,
            limits,
            logger,
        })
    }

    /// Processes one of the inputs.
    pub fn step(&mut self, now: Instant, input: Input) {
        if self.removed {
            return;
        }
        match input {
            Input::Tick => drop(self.node.tick()),
            Input::Message(message) => self.step_message(message),
            Input::Propose(proposals) => self.propose(now, proposals),
            Input::ProposeInTerm(term, proposals) => self.propose_in_term(term, proposals),
            Input::Read(token) if is(Mutant::ReadWithoutRound) => {
                let applied = self.node.raft.raft_log.applied;
                self.reads.confirmed_at(applied, token);
            }
            Input::Read(token) => self.reads.ask(token),
            Input::Unreachable(member) => self.node.report_unreachable(member),
            Input::Snapshot(head) => self.step_snapshot(head),
            Input::SnapshotDone { member, ok } => {
                let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.node.report_snapshot(member, status);
            }
            Input::Transfer(to) => self.node.transfer_leader(to),
            Input::Campaign => self.campaign(),
        }
        self.note_leadership();
        self.run_reads(now);
    }

    /// The work that raft has produced, if any.
    pub fn work(&mut self) -> Result<Option<Work>, NodeFault> {
        if self.removed {
            return Ok(None);
        }
        // The end of a round lets waiting reads start the next one, without another input.
        if let Some(now) = self.now {
            self.run_reads(now);
        }
        let ready = self.node.has_ready().then(|| self.node.ready());
        self.check_log()?;
        let Some(mut ready) = ready else { return Ok(None) };
        for state in ready.take_read_states() {
            self.reads.confirm(&state.request_ctx, state.index);
        }
        let mut messages: Vec<_> = ready.take_messages().into_iter().filter_map(outgoing).collect();
        if is(Mutant::SendBeforeWrite) {
            messages.extend(ready.take_persisted_messages().into_iter().filter_map(outgoing));
        }
        // raft-rs assumes a leader's own vote on disk. A sole voter elects itself in one step: if a crash lost that
        // term, its learners might see the same term with other entries.
        let written = self.log().hard_state();
        let promises = !is(Mutant::SendBeforeOwnTerm)
            && ready.hs().is_some_and(|hs| (hs.term, hs.vote) != (written.term, written.vote));
        let (messages, held) = if promises { (Vec::new(), messages) } else { (messages, Vec::new()) };
        Ok(Some(Work { messages, held, ready }))
    }

    /// Writes and syncs the work.
    pub fn persist(&mut self, work: Work) -> Result<Persisted, NodeFault> {
        let mut ready = work.ready;
        let installed = self.install(&ready)?;
        let must_sync = ready.must_sync();
        let entries = ready.take_entries();
        // A commit index alone is not worth a write: it is written with the next entries, or by `settle`.
        let hard_state = if must_sync {
            let hs = ready.hs().map(|hs| HardState { term: hs.term, vote: hs.vote, commit: hs.commit });
            hs.or_else(|| self.hard_state_if_new()).filter(|_| !is(Mutant::ForgetVote))
        } else {
            None
        };
        let store = self.node.mut_store();
        if hard_state.is_some() || !entries.is_empty() {
            store.append(entries, hard_state.as_ref())?;
        }
        if must_sync && !is(Mutant::SkipSync) {
            let log = store.log_mut();
            let mut synced = log.sync();
            if is(Mutant::SyncAgain) && synced.is_err() {
                synced = log.sync();
            }
            synced?;
        }
        if let Some(hard_state) = hard_state {
            self.written_commit = hard_state.commit;
        }
        let held = work.held;
        let mut messages = ready.take_persisted_messages();
        let mut committed = ready.take_committed_entries();
        let mut light = self.node.advance_append(ready);
        messages.append(&mut light.take_messages());
        committed.append(&mut light.take_committed_entries());
        self.check_log()?;
        self.term_began |= committed.iter().any(|entry| entry.data.is_empty());
        Ok(Persisted {
            messages: held.into_iter().chain(messages.into_iter().filter_map(outgoing)).collect(),
            installed,
            committed: committed.into_iter().map(log_entry).collect(),
        })
    }

    /// Committed entries after `after`, up to `last` or [`Limits::group_bytes`]; at least one if there are any.
    pub fn committed(&self, after: Index, last: Index) -> Result<Vec<Entry>, NodeFault> {
        if after >= last {
            return Ok(Vec::new());
        }
        let context = GetEntriesContext::empty(false);
        let entries = self.node.store().entries(after + 1, last + 1, self.limits.group_bytes, context);
        self.check_log()?;
        Ok(entries?.into_iter().map(log_entry).collect())
    }

    /// Reports that the machine has applied up to `index`, with these outcomes.
    pub fn applied(&mut self, now: Instant, index: Index, outcomes: &[Outcome]) -> Result<(), NodeFault> {
        if self.removed {
            return Ok(());
        }
        for outcome in outcomes {
            self.apply_change(outcome)?;
        }
        if self.removed {
            return Ok(());
        }
        self.node.advance_apply_to(index);
        self.node.mut_store().applied(index);
        if std::mem::take(&mut self.term_began) {
            self.reads.retry_now(now);
        }
        self.reads.applied(index, &mut self.effects.reads);
        self.note_leadership();
        self.run_reads(now);
        Ok(())
    }

    /// Takes the effects since the last call.
    pub fn effects(&mut self) -> Effects {
        // A read confirmed at an applied index can be served at once.
        self.reads.applied(self.node.raft.raft_log.applied, &mut self.effects.reads);
        std::mem::take(&mut self.effects)
    }

    /// Writes the commit index, without a sync, unless some entries carried it.
    pub fn settle(&mut self) -> Result<(), NodeFault> {
        if let Some(hard_state) = self.hard_state_if_new() {
            self.node.mut_store().append(Vec::new(), Some(&hard_state))?;
            self.written_commit = hard_state.commit;
        }
        Ok(())
    }

    /// Makes everything written durable, including the commit index: for an orderly end.
    pub fn sync_all(&mut self) -> Result<(), NodeFault> {
        Ok(self.node.mut_store().log_mut().sync_all()?)
    }

    /// Retries or expires reads that are due.
    pub fn wake(&mut self, now: Instant) {
        if !self.removed {
            self.run_reads(now);
        }
    }

    /// When reads need attention next.
    pub fn wake_at(&self) -> Option<Instant> {
        self.reads.wake_at()
    }

    /// The log, for reading only.
    pub fn log(&self) -> &dyn Log {
        self.node.store().log()
    }

    /// Releases entries before this index: they are needed neither for replay nor for lagging members.
    pub fn release(&mut self, index: Index) -> Result<(), NodeFault> {
        Ok(self.node.mut_store().log_mut().release(index)?)
    }

    /// Payload bytes written since the start.
    pub fn written_bytes(&self) -> u64 {
        self.node.store().written_bytes()
    }

    /// Sets the next election timeout, for reproducible runs; `ticks` in [`election_ticks`, 2 × `election_ticks`).
    pub fn fix_election_timeout(&mut self, ticks: usize) {
        self.node.raft.set_randomized_election_timeout(ticks);
    }

    /// Returns an error if raft-rs tried to read what could not be read.
    fn check_log(&self) -> Result<(), NodeFault> {
        Ok(self.node.store().take_fault()?)
    }

    fn campaign(&mut self) {
        if let Err(error) = self.node.campaign() {
            slog::warn!(self.logger, "campaign refused"; "error" => %error);
        }
    }

    fn step_message(&mut self, message: Checked) {
        let message = message.0;
        let raft = &self.node.raft;
        if let Err(reason) = guard::check(raft, &message, &self.limits) {
            self.effects.dropped.push(Dropped::Message);
            slog::warn!(self.logger, "dropped a peer's message"; "reason" => reason,
                "kind" => ?message.get_msg_type(), "from" => format!("{:x}", message.from), "term" => message.term);
            return;
        }
        let is_read = message.get_msg_type() == MessageType::MsgReadIndex;
        if is_read && raft.state == StateRole::Leader {
            let (term, context) = (raft.term, message.entries[0].data.clone());
            let is_member = |id| raft.prs().get(id).is_some();
            if !self.seen.is_new(term, message.from, &context, is_member) && !is(Mutant::TakeReadTwice) {
                self.effects.dropped.push(Dropped::Read);
                return;
            }
        }
        if let Err(error) = self.node.step(message) {
            // Responses of strangers, mostly just removed members: raft-rs ignores them, as etcd does.
            slog::debug!(self.logger, "raft ignored a peer's message"; "error" => %error);
        }
    }

    fn run_reads(&mut self, now: Instant) {
        self.now = Some(now);
        self.reads.expire(now, &mut self.effects.reads);
        if let Some(context) = self.reads.due(now) {
            self.node.read_index(context.to_be_bytes().to_vec());
        }
    }

    fn note_leadership(&mut self) {
        let raft = &self.node.raft;
        let now = Leadership {
            term: raft.term,
            leader: raft.leader_id,
            is_leader: raft.state == StateRole::Leader,
        };
        if now == self.leadership {
            return;
        }
        if now.leader != 0 && now.leader != self.leadership.leader {
            self.reads.leader_changed(&mut self.effects.reads);
        }
        self.leadership = now;
        self.effects.leadership = Some(now);
    }

    fn hard_state_if_new(&self) -> Option<HardState> {
        let hs = self.node.raft.hard_state();
        let known = HardState { term: hs.term, vote: hs.vote, commit: hs.commit };
        let known = if is(Mutant::ForgetVote) {
            HardState { commit: hs.commit, ..self.log().hard_state() }
        } else {
            known
        };
        (hs.commit > self.written_commit).then_some(known)
    }
}
