//! Outcomes: what entries did.

use crate::{Later, Member, Refusal};
use proto::etcdserverpb as pb;
use types::Index;

/// What one entry did.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The entry's place in the log.
    pub index: Index,
    /// The ID by which the proposer waits; 0 = nobody waits.
    pub request_id: u64,
    /// What the entry did.
    pub effect: Effect,
    /// The request took effect but exceeds this member's quota: the node must propose `alarm { ACTIVATE, own ID,
    /// NOSPACE }`, as etcd does. Only while no NOSPACE alarm is raised.
    pub over_quota: bool,
}

/// What an entry did.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Nothing to report: a term's first entry, or a range that another member proposed.
    Nothing,
    /// The answer to a request.
    Answer(Result<Response, Refusal>),
    /// A membership change, accepted or not.
    Conf {
        /// The change to pass to raft.
        change: ConfChange,
        /// Whether the membership changed.
        accepted: bool,
        /// The answer for the proposer.
        answer: Result<(), Refusal>,
    },
}

/// A membership change in raft's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfChange {
    /// The kind of change. `Update` means nothing to raft.
    pub kind: ConfChangeKind,
    /// The member's ID; 0 if refused, which raft takes as "no change".
    pub node: u64,
    /// The member after the change; `None` if it was removed or the change refused.
    pub context: Option<Member>,
}

/// The kinds of membership change, as in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfChangeKind {
    /// A new voter, or a learner's promotion.
    AddNode,
    /// A new learner joins.
    AddLearner,
    /// A member is removed.
    Remove,
    /// A member's peer URLs change.
    Update,
}

/// An answer in wire types. Only the header's `revision` is set.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// Answers a range that went through the log.
    Range(pb::RangeResponse),
    /// Answers a put request.
    Put(pb::PutResponse),
    /// Answers a `DeleteRange` request.
    DeleteRange(pb::DeleteRangeResponse),
    /// Answers a transaction request.
    Txn(pb::TxnResponse),
    /// Answers any of these four if it takes more reading than an entry may.
    Unread(Box<Unread>),
    /// Answers a logical compaction.
    Compaction(pb::CompactionResponse),
    /// Answers a lease grant.
    LeaseGrant(pb::LeaseGrantResponse),
    /// Answers a lease revoke.
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// Answers a lease checkpoint.
    LeaseCheckpoint(pb::LeaseCheckpointResponse),
    /// Answers an alarm request.
    Alarm(pb::AlarmResponse),
    /// Answers requests of members: attributes, cluster version, downgrade.
    Published,
}

/// An answer some of whose rows are still to be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Unread {
    /// The answer without the rows of `reads`.
    pub answer: Response,
    /// The deferred reads, in the order of their operations.
    pub reads: Vec<Later>,
}
