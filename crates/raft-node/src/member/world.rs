//! The world that a member's turn runs in: its time, and its ways to peers, waiters and other threads. The consensus
//! thread is one (`thread`), the simulator another, with its own clock and crashes between any two steps.

use super::Job;
use crate::core::Log;
use crate::{Leadership, NodeFault, PeerProgress, ProposeError, ReadError, TransferError};
use machine::{Machine, Membership, Outcome};
use proto::raftpb;
use std::sync::Arc;
use std::time::Instant;
use types::{Entry, Index};

/// Why a member stops in the middle of a turn.
#[derive(Debug)]
pub enum Stop<H> {
    /// Its log, its engine or raft failed: the process must end.
    Fault(NodeFault),
    /// The world stopped it: a simulated member crashes.
    Halt(H),
}

impl<H> From<NodeFault> for Stop<H> {
    fn from(fault: NodeFault) -> Self {
        Self::Fault(fault)
    }
}

/// Points in a turn at which a member may crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Before a write of the log.
    BeforeWrite,
    /// After the log was written, and synced if needed.
    Synced,
    /// Before a group of entries is applied.
    BeforeApply,
    /// After the engine was flushed and the log behind it released.
    Flushed,
    /// After a leader's snapshot became the state.
    Installed,
}

/// A result for a waiter.
#[derive(Debug)]
pub enum Done {
    /// Applied entries that a local waiter may wait for, or that exceed the quota.
    Outcomes(Vec<Outcome>),
    /// Finished reads, by the tokens they were asked with.
    Reads(Vec<u64>, Result<(), ReadError>),
    /// A proposal that ended without being logged.
    Failed(u64, ProposeError),
    /// A leadership transfer that ended.
    Transferred(u64, Result<(), TransferError>),
    /// The member has ended; this is the error for everyone who still waits.
    Ended(ProposeError),
}

/// A member's status after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// The current leader and term.
    pub leadership: Leadership,
    /// The newest commit index known here.
    pub commit: Index,
    /// The newest applied index.
    pub applied: Index,
    /// The log's last index.
    pub last: Index,
    /// Whether the member has applied its own removal.
    pub is_removed: bool,
}

/// The surroundings of a turn. No method may block.
pub trait World {
    /// Why this world stops a member; an empty type if it never does.
    type Halt;

    /// The current time. Later than the turn's start if a step took long.
    fn now(&mut self) -> Instant;

    /// Called at each crash point of the turn.
    fn at(&mut self, _step: Step, _log: &dyn Log) -> Result<(), Self::Halt> {
        Ok(())
    }

    /// The election timeout in ticks, if raft is not to draw it itself. Called before every tick.
    fn election_ticks(&mut self) -> Option<usize> {
        None
    }

    /// Trims these committed entries to those to be applied as one group: at least one.
    fn group(&mut self, _committed: &mut Vec<Entry>) {}

    /// Called after a group was applied, before raft is told.
    fn applied(
        &mut self,
        _group: &[Entry],
        _outcomes: &[Outcome],
        _machine: &Machine,
    ) -> Result<(), Self::Halt> {
        Ok(())
    }

    /// The state at this index, of a leader's snapshot, is the one from now on, also after a restart: older ones may be
    /// removed. To drop the former machine may take long.
    fn installed(&mut self, index: Index, former: Machine) -> Result<(), Self::Halt>;

    /// Sends messages to peers, in order for each of them. A `MsgSnap` asks for a snapshot that includes what it names.
    fn send(&mut self, messages: Vec<raftpb::Message>) -> Result<(), Self::Halt>;

    /// Passes results to their waiters; empties the vector.
    fn hand_back(&mut self, done: &mut Vec<Done>) -> Result<(), Self::Halt>;

    /// Runs a job elsewhere, or returns it. Its result must come back as a control in a later batch.
    fn start(&mut self, job: Job) -> Result<(), Job>;

    /// Publishes the member's status.
    fn status_changed(&mut self, status: &MemberStatus);

    /// Publishes a change of leader or term.
    fn leadership_changed(&mut self, status: &MemberStatus);

    /// Publishes a leader's knowledge of the others, after every tick and change; empty on other members.
    fn peers(&mut self, peers: Vec<PeerProgress>);

    /// Publishes a change of the cluster's members.
    fn members_changed(&mut self, membership: Arc<Membership>, is_learner: bool);
}
