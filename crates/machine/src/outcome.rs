//! What became of an entry.

use crate::{Member, Refusal, Unread};
use proto::etcdserverpb as pb;
use types::Index;

/// What became of one entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The entry.
    pub index: Index,
    /// Whose waiter it completes; 0 = nobody's.
    pub request_id: u64,
    /// What happened.
    pub effect: Effect,
    /// The request took effect though it passes this member's quota: the node proposes
    /// `alarm { ACTIVATE, own ID, NOSPACE }`, as etcd does. Only ever true while no NOSPACE alarm is raised.
    pub over_quota: bool,
}

/// What an entry did.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Nothing to tell: a term's first entry, or a range that another member proposed.
    Nothing,
    /// A request's answer.
    Answer(Result<Response, Refusal>),
    /// A change of members.
    Conf {
        /// What raft must be told.
        change: ConfChange,
        /// Whether the members changed.
        accepted: bool,
        /// The proposer's answer.
        answer: Result<(), Refusal>,
    },
}

/// A change of members, in raft's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfChange {
    /// What kind. `Update` changes nothing for raft.
    pub kind: ConfChangeKind,
    /// Whom; 0 when refused, which raft takes as "no change".
    pub node: u64,
    /// The member as it stands after the change; `None` when it was removed or the change refused.
    pub context: Option<Member>,
}

/// etcd's kinds of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfChangeKind {
    /// A new voter, or a learner that becomes one.
    AddNode,
    /// A new learner.
    AddLearner,
    /// A member leaves.
    Remove,
    /// A member's peer URLs change.
    Update,
}

/// An answer, in the wire's types. Of the header only `revision` is filled in.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// Of a range that went through the log.
    Range(pb::RangeResponse),
    /// Of a put.
    Put(pb::PutResponse),
    /// Of a delete.
    DeleteRange(pb::DeleteRangeResponse),
    /// Of a transaction.
    Txn(pb::TxnResponse),
    /// Of any of these four, where it takes more reading than an entry may.
    Unread(Box<Unread>),
    /// Of a logical compaction.
    Compaction(pb::CompactionResponse),
    /// Of a lease grant.
    LeaseGrant(pb::LeaseGrantResponse),
    /// Of a lease revoke.
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// Of lease checkpoints.
    LeaseCheckpoint(pb::LeaseCheckpointResponse),
    /// Of an alarm request.
    Alarm(pb::AlarmResponse),
    /// Of what members tell each other through the log: attributes, cluster version, downgrade.
    Published,
}
