//! Refusals: errors that are the same on every member.

use proto::{EtcdError, peer_text};
use std::fmt;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// `ignore_value` or `ignore_lease` on a missing key.
    KeyNotFound,
    /// The revision is already compacted.
    Compacted,
    /// The revision does not exist yet.
    FutureRevision,
    /// No lease has this ID.
    LeaseNotFound,
    /// A lease has this ID already.
    LeaseExists,
    /// The TTL is above the maximum.
    LeaseTtlTooLarge,
    /// A member is out of space, or this very request exceeded the quota (but took effect).
    NoSpace,
    /// A member has raised the CORRUPT alarm.
    Corrupt,
    /// The member is already in the cluster.
    MemberExists,
    /// The member was removed; its ID may never return. etcd has no gRPC status for it: clients see its plain text.
    MemberRemoved,
    /// No member has this ID.
    MemberNotFound,
    /// Another member has this peer URL.
    PeerUrlExists,
    /// Only a learner can be promoted.
    MemberNotLearner,
    /// The maximum number of learners is reached.
    TooManyLearners,
}

impl From<Refusal> for EtcdError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::KeyNotFound => Self::KeyNotFound,
            Refusal::Compacted => Self::Compacted,
            Refusal::FutureRevision => Self::FutureRevision,
            Refusal::LeaseNotFound => Self::LeaseNotFound,
            Refusal::LeaseExists => Self::LeaseExists,
            Refusal::LeaseTtlTooLarge => Self::LeaseTtlTooLarge,
            Refusal::NoSpace => Self::NoSpace,
            Refusal::Corrupt => Self::Corrupt,
            Refusal::MemberExists => Self::MemberExists,
            // etcd does not distinguish a removed member from an unknown one.
            Refusal::MemberRemoved | Refusal::MemberNotFound => Self::MemberNotFound,
            Refusal::PeerUrlExists => Self::PeerUrlExists,
            Refusal::MemberNotLearner => Self::MemberNotLearner,
            Refusal::TooManyLearners => Self::TooManyLearners,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MemberRemoved => f.write_str(peer_text::MEMBER_REMOVED),
            other => EtcdError::from(*other).fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<lease::GrantError> for Refusal {
    fn from(error: lease::GrantError) -> Self {
        match error {
            lease::GrantError::NoId => Refusal::LeaseNotFound,
            lease::GrantError::Exists => Refusal::LeaseExists,
            lease::GrantError::TtlTooLarge => Refusal::LeaseTtlTooLarge,
        }
    }
}
