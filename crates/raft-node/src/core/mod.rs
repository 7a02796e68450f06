//! The pure core: raft-rs, its log and the bookkeeping around them, as a function of inputs and the time given.
//!
//! The driver runs it on a thread with a real disk; tests and the simulator run the same code with a faulty one. It has
//! no clock, no randomness of its own but raft's election timeout ([`Core::fix_election_timeout`]), no thread and no
//! socket. See [`Core`] for the contract of whoever drives it.

mod changes;
mod going;
mod guard;
mod log;
mod propose;
mod reads;
mod standing;

pub use log::Log;
pub use reads::ReadsDone;

use crate::convert::{Checked, log_entry, outgoing};
use crate::limits::Limits;
use crate::{Leadership, NodeFault, ProposeError, RequestIds, StartError};
use bytes::Bytes;
use going::Going;
use log::LogStore;
use machine::Outcome;
use proto::raftpb;
use raft::eraftpb::MessageType;
use raft::{Config, GetEntriesContext, RawNode, ReadOnlyOption, SnapshotStatus, StateRole, Storage as _};
use reads::{Reads, SeenReads};
use std::time::{Duration, Instant};
use types::{ConfState, Entry, EntryKind, HardState, Index, Term};

/// How a core is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This member.
    pub member: u64,
    /// Ticks without a leader before an election.
    pub election_ticks: usize,
    /// Ask before disturbing a leader.
    pub pre_vote: bool,
    /// How long a round of reads waits for its answer.
    pub request_timeout: Duration,
    /// Milliseconds since 1970 at the start: makes read contexts of this life unlike those of earlier ones.
    pub unix_millis: u64,
    /// The machine's applied index.
    pub applied: Index,
    /// The members at the applied index.
    pub conf: ConfState,
    /// What is bounded, and by how much.
    pub limits: Limits,
}

/// An entry to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Whose waiter the entry completes; 0 for a peer's, whose ID is inside the data.
    pub id: u64,
    /// What `data` is.
    pub kind: EntryKind,
    /// The entry's payload.
    pub data: Bytes,
    /// While it has not reached raft by then, it is dropped.
    pub deadline: Instant,
    /// How many members have sent it on its way here; 0 = it is of this member.
    pub hops: u8,
}

/// What was dropped of what peers sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// A message that does not fit this member's log, term or role.
    Message,
    /// A read's context that came before.
    Read,
    /// A proposal that went from member to member too often.
    Proposal,
}

/// Everything that can happen to a core.
#[derive(Debug)]
pub enum Input {
    /// A tick of the clock passed.
    Tick,
    /// A peer said something.
    Message(Checked),
    /// Entries for the log. Only while [`Core::takes_proposals`]; what cannot be taken comes back in the effects.
    Propose(Vec<Proposal>),
    /// Entries that this member logs as the leader of the term, or that nobody does: where it is not, they are refused.
    ProposeInTerm(Term, Vec<Proposal>),
    /// Somebody wants to read what is newest; the token comes back in [`Effects::reads`].
    Read(u64),
    /// Messages to this member do not arrive.
    Unreachable(u64),
    /// A snapshot was sent to this member, or failed.
    SnapshotDone {
        /// The member.
        member: u64,
        /// Whether it arrived.
        ok: bool,
    },
    /// Hand leadership to this member.
    Transfer(u64),
    /// Do not wait for the election timeout.
    Campaign,
}

/// What an input or an apply led to, besides work for disk and network.
#[derive(Debug, Default)]
pub struct Effects {
    /// Proposals that cannot be taken now; they wait and come again.
    pub returned: Vec<Proposal>,
    /// Proposals that end without being logged.
    pub refused: Vec<(u64, ProposeError)>,
    /// Reads that ended.
    pub reads: Vec<ReadsDone>,
    /// Who leads now, when that changed.
    pub leadership: Option<Leadership>,
    /// What was dropped, one by one.
    pub dropped: Vec<Dropped>,
}

/// What must be written, with the messages that need not wait for it.
#[derive(Debug)]
pub struct Work {
    /// To be sent at once: a leader replicates before its own sync.
    pub messages: Vec<raftpb::Message>,
    /// To be sent with [`Persisted::messages`]: they speak for a term or a vote that is not on disk yet.
    held: Vec<raftpb::Message>,
    ready: raft::Ready,
}

/// What may be done once the work was written and synced.
#[derive(Debug, Default)]
pub struct Persisted {
    /// To be sent now: promises that hold.
    pub messages: Vec<raftpb::Message>,
    /// To be applied now, in order.
    pub committed: Vec<Entry>,
}

/// One member's raft. The driver's contract:
///
/// 1. Call [`Core::step`] for each input, with the time of now; any number of them before the next point.
/// 2. Then, while [`Core::work`] gives any: send [`Work::messages`], and hand the work to [`Core::persist`], which writes
///    and syncs it.
/// 3. After it, send [`Persisted::messages`] and apply [`Persisted::committed`], whole and in order, in one or more groups: at
///    once, or later ([`Core::committed`] has the entries still), while points 1 to 3 go on.
/// 4. After each group call [`Core::applied`] with its last index and outcomes.
/// 5. After points 1 and 4 take [`Core::effects`], and act on them.
/// 6. With nothing left to do call [`Core::settle`], then sleep until an input, the next tick or [`Core::wake_at`],
///    whichever comes first; at the last call [`Core::wake`], and go on with point 2.
/// 7. When [`Core::is_removed`], stop: send what was handed out, and call nothing any more.
/// 8. A [`NodeFault`] is final: drop the core, end the process.
pub struct Core {
    node: RawNode<LogStore>,
    reads: Reads,
    seen: SeenReads,
    going: Going,
    leadership: Leadership,
    effects: Effects,
    /// What the log was last told of the commit index.
    written_commit: Index,
    /// An entry without data was committed: the first of a leader's term.
    term_began: bool,
    removed: bool,
    /// The time of the last call that told it.
    now: Option<Instant>,
    limits: Limits,
    logger: slog::Logger,
}

impl Core {
    /// A member that has applied up to `settings.applied` and has this log.
    pub fn new(settings: &Settings, log: Box<dyn Log>, logger: slog::Logger) -> Result<Self, StartError> {
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
        // The commit index is written late (without a sync of its own), and raft-rs panics below the applied index.
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
        let store = LogStore::new(log, hard_state, &settings.conf, &limits, logger.clone());
        let node =
            RawNode::new(&config, store, &logger).map_err(|error| StartError::Raft(error.to_string()))?;
        let ids = RequestIds::new(settings.member, settings.unix_millis);
        let leadership = Leadership { term: node.raft.term, leader: 0, is_leader: false };
        Ok(Self {
            node,
            reads: Reads::new(ids, settings.request_timeout, &limits),
            seen: SeenReads::new(&limits),
            going: Going::default(),
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

    /// Takes one input.
    pub fn step(&mut self, now: Instant, input: Input) {
        if self.removed {
            return;
        }
        match input {
            Input::Tick => drop(self.node.tick()),
            Input::Message(message) => self.step_message(message),
            Input::Propose(proposals) => self.propose(now, proposals),
            Input::ProposeInTerm(term, proposals) => self.propose_in_term(term, proposals),
            Input::Read(token) => self.reads.ask(token),
            Input::Unreachable(member) => self.node.report_unreachable(member),
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

    /// The work that has come up, if any.
    pub fn work(&mut self) -> Option<Work> {
        if self.removed {
            return None;
        }
        // A round that ended makes room for the reads that came meanwhile: they do not wait for the next input.
        if let Some(now) = self.now {
            self.run_reads(now);
        }
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        for state in ready.take_read_states() {
            self.reads.confirm(&state.request_ctx, state.index);
        }
        let messages: Vec<_> = ready.take_messages().into_iter().filter_map(outgoing).collect();
        // raft-rs takes it that whoever leads has its own vote on disk. The only voter of a cluster elects itself in one
        // step: what its learners got in a term that a crash forgets, the same term would say otherwise again.
        let written = self.log().hard_state();
        let promises = ready.hs().is_some_and(|hs| (hs.term, hs.vote) != (written.term, written.vote));
        let (messages, held) = if promises { (Vec::new(), messages) } else { (messages, Vec::new()) };
        Some(Work { messages, held, ready })
    }

    /// Writes and syncs the work.
    pub fn persist(&mut self, work: Work) -> Result<Persisted, NodeFault> {
        let mut ready = work.ready;
        if !ready.snapshot().is_empty() {
            return Err(NodeFault::Raft("a snapshot from a peer passed the checks".to_owned()));
        }
        let must_sync = ready.must_sync();
        let entries = ready.take_entries();
        // A commit index alone is not worth a write of its own: it goes with the next entries, or when things settle.
        let hard_state = if must_sync {
            let hs = ready.hs().map(|hs| HardState { term: hs.term, vote: hs.vote, commit: hs.commit });
            hs.or_else(|| self.hard_state_if_new())
        } else {
            None
        };
        let store = self.node.mut_store();
        if hard_state.is_some() || !entries.is_empty() {
            store.append(entries, hard_state.as_ref()).map_err(|error| log_fault(&error))?;
        }
        if must_sync {
            store.log_mut().sync().map_err(|error| log_fault(&error))?;
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
        self.term_began |= committed.iter().any(|entry| entry.data.is_empty());
        Ok(Persisted {
            messages: held.into_iter().chain(messages.into_iter().filter_map(outgoing)).collect(),
            committed: committed.into_iter().map(log_entry).collect(),
        })
    }

    /// Entries of [`Persisted::committed`] behind `after`, up to `last` or to [`Limits::group_bytes`]; at least one where there
    /// are any.
    pub fn committed(&self, after: Index, last: Index) -> Result<Vec<Entry>, NodeFault> {
        if after >= last {
            return Ok(Vec::new());
        }
        let context = GetEntriesContext::empty(false);
        let entries = self.node.store().entries(after + 1, last + 1, self.limits.group_bytes, context);
        let entries = entries.map_err(|error| NodeFault::Log(error.to_string()))?;
        Ok(entries.into_iter().map(log_entry).collect())
    }

    /// The machine has applied up to `index`, with these outcomes.
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
        if std::mem::take(&mut self.term_began) {
            self.reads.retry_now(now);
        }
        self.reads.applied(index, &mut self.effects.reads);
        self.note_leadership();
        self.run_reads(now);
        Ok(())
    }

    /// What came of it.
    pub fn effects(&mut self) -> Effects {
        // A read confirmed at an index that is applied already has nothing left to wait for.
        self.reads.applied(self.node.raft.raft_log.applied, &mut self.effects.reads);
        std::mem::take(&mut self.effects)
    }

    /// Writes down the commit index, without a sync, if that has not been done with some entries.
    pub fn settle(&mut self) -> Result<(), NodeFault> {
        if let Some(hard_state) = self.hard_state_if_new() {
            self.node.mut_store().append(Vec::new(), Some(&hard_state)).map_err(|error| log_fault(&error))?;
            self.written_commit = hard_state.commit;
        }
        Ok(())
    }

    /// Makes all that was written durable, the commit index too; for the end.
    pub fn sync_all(&mut self) -> Result<(), NodeFault> {
        self.node.mut_store().log_mut().sync_all().map_err(|error| log_fault(&error))
    }

    /// Sees to reads that are due: another attempt, or the end of their patience.
    pub fn wake(&mut self, now: Instant) {
        if !self.removed {
            self.run_reads(now);
        }
    }

    /// When reads need attention next.
    pub fn wake_at(&self) -> Option<Instant> {
        self.reads.wake_at()
    }

    /// The log, for reading.
    pub fn log(&self) -> &dyn Log {
        self.node.store().log()
    }

    /// Entries before this index are not needed: neither for replay nor for members that lag.
    pub fn release(&mut self, index: Index) -> Result<(), NodeFault> {
        self.node.mut_store().log_mut().release(index).map_err(|error| log_fault(&error))
    }

    /// Bytes of payload written since the start.
    pub fn written_bytes(&self) -> u64 {
        self.node.store().written_bytes()
    }

    /// Makes the next election reproducible; `ticks` in [`election_ticks`, 2 × `election_ticks`).
    pub fn fix_election_timeout(&mut self, ticks: usize) {
        self.node.raft.set_randomized_election_timeout(ticks);
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
            if !self.seen.is_new(term, message.from, &context, is_member) {
                self.effects.dropped.push(Dropped::Read);
                return;
            }
        }
        if let Err(error) = self.node.step(message) {
            // Responses of strangers, mostly members just removed: raft-rs ignores them, as etcd does.
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
        (hs.commit > self.written_commit).then_some(HardState {
            term: hs.term,
            vote: hs.vote,
            commit: hs.commit,
        })
    }
}

fn log_fault(error: &wal::WalError) -> NodeFault {
    NodeFault::Log(error.to_string())
}
