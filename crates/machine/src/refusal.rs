//! Refusals: answers that are the same on every member.

/// Why a request was refused. The texts are what etcd's clients match on (`rpctypes/error.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// `ignore_value` or `ignore_lease` on a key that is not there.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// The revision is compacted.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// The revision is not there yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// There is no such lease.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// The lease is there already.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// A lease cannot be that long.
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// A member is out of space, or the quota was passed by this very request (which took effect all the same).
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// A member is corrupt.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// The member is in the cluster already.
    #[error("etcdserver: member ID already exist")]
    MemberExists,
    /// The member was removed once; its ID never comes back. etcd has no gRPC status for it: clients see its own text.
    #[error("membership: ID removed")]
    MemberRemoved,
    /// There is no such member.
    #[error("etcdserver: member not found")]
    MemberNotFound,
    /// Another member has this peer URL.
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExists,
    /// Only learners are promoted.
    #[error("etcdserver: can only promote a learner member")]
    MemberNotLearner,
    /// No room for another learner.
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
}

impl From<lease::GrantError> for Refusal {
    fn from(error: lease::GrantError) -> Self {
        match error {
            lease::GrantError::NoId => Refusal::LeaseNotFound,
            lease::GrantError::Exists => Refusal::LeaseExists,
            lease::GrantError::TtlTooLarge => Refusal::LeaseTtlTooLarge,
        }
    }
}
