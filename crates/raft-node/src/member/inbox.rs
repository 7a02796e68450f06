//! The inputs of a member's next turn.

use super::install::Install;
use super::jobs::AppliedGroup;
use crate::NodeFault;
use crate::convert::Checked;
use crate::core::Proposal;
use crate::room::Permit;
use lease::Deadlines;
use std::collections::BTreeSet;
use std::time::Instant;
use types::{Index, Term};

/// A control message to a member, besides messages, proposals and reads.
#[derive(Debug)]
pub enum Control {
    /// A snapshot was sent to a member, or failed.
    SnapshotDone {
        /// The receiving member's ID.
        member: u64,
        /// Whether it was delivered.
        ok: bool,
    },
    /// A leader's snapshot has arrived, and is to be the state from now on.
    Install(Box<Install>),
    /// Transfer leadership to a member, 0 = the best one; ends with [`super::Done::Transferred`].
    Transfer {
        /// The request's own ID.
        id: u64,
        /// The target's member ID.
        to: u64,
        /// When the request gives up.
        deadline: Instant,
    },
    /// Advance the election clock by this many ticks.
    AdvanceTicks(usize),
    /// Log an entry as the leader of this term, or refuse it.
    ProposeInTerm {
        /// The term to lead.
        term: Term,
        /// The entry to log.
        proposal: Proposal,
    },
    /// The machine comes back from the other thread.
    Applied(Box<AppliedGroup>),
    /// The engine was flushed up to this index.
    Flushed(Result<Index, NodeFault>),
    /// A new leader's deadlines, built on another thread.
    Deadlines(Box<Deadlines>),
    /// A job on another thread failed: the member ends.
    Failed(NodeFault),
    /// Stop the member, in order.
    Stop,
}

/// Everything that came in since the last turn.
#[derive(Debug, Default)]
pub struct Batch {
    /// Proposals of clients here and of other members.
    pub proposals: Vec<Proposal>,
    /// Peers' messages, with the queue space they hold.
    pub messages: Vec<(Checked, Option<Permit>)>,
    /// Tokens of linearizable reads; they come back in [`super::Done::Reads`].
    pub reads: Vec<u64>,
    /// Unreachable members, each once.
    pub unreachable: BTreeSet<u64>,
    /// All other inputs, in order.
    pub controls: Vec<Control>,
}

impl Batch {
    /// Whether the batch is empty.
    pub fn is_empty(&self) -> bool {
        self.proposals.is_empty()
            && self.messages.is_empty()
            && self.reads.is_empty()
            && self.unreachable.is_empty()
            && self.controls.is_empty()
    }

    /// Moves everything out of the other batch, keeping the larger buffers.
    pub fn take_from(&mut self, other: &mut Batch) {
        fn merge<T>(into: &mut Vec<T>, from: &mut Vec<T>) {
            if into.is_empty() {
                std::mem::swap(into, from);
            } else {
                into.append(from);
            }
        }
        merge(&mut self.proposals, &mut other.proposals);
        merge(&mut self.messages, &mut other.messages);
        merge(&mut self.reads, &mut other.reads);
        self.unreachable.append(&mut other.unreachable);
        merge(&mut self.controls, &mut other.controls);
    }
}
