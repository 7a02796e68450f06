//! Errors that etcd's clients know: the gRPC code and the exact text of each. clientv3 matches on the texts.
//!
//! The table is etcd's `api/v3rpc/rpctypes/error.go`, without errors that quorate cannot return, and the error of an
//! expired deadline.
//! [`EtcdError::TooManyRequests`] and [`EtcdError::NotEnoughStarted`] reach the wire as `Unknown`, because etcd maps
//! them to an error that is no gRPC status (`toGRPCErrorMap` in `v3rpc/util.go`).

use std::fmt;
use tonic::{Code, Status};

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// An error that etcd's clients know by its text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EtcdError {
            $($(#[$doc])* $name,)*
        }

        impl EtcdError {
            /// All errors of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The gRPC code on the wire.
            pub fn code(self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)*
                }
            }

            /// The text on the wire.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

errors! {
    /// A request without a key.
    EmptyKey = InvalidArgument, "etcdserver: key is not provided";
    /// `ignore_*` for a missing key, or an empty operation in a transaction.
    KeyNotFound = InvalidArgument, "etcdserver: key not found";
    /// A value together with `ignore_value`.
    ValueProvided = InvalidArgument, "etcdserver: value is provided";
    /// A lease together with `ignore_lease`.
    LeaseProvided = InvalidArgument, "etcdserver: lease is provided";
    /// A transaction above `--max-txn-ops`.
    TooManyOps = InvalidArgument, "etcdserver: too many operations in txn request";
    /// A transaction that writes one key twice.
    DuplicateKey = InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// Metadata `client-api-version` that is not text.
    InvalidClientApiVersion = InvalidArgument, "etcdserver: invalid client api version";
    /// An unknown sort order or target.
    InvalidSortOption = InvalidArgument, "etcdserver: invalid sort option";
    /// A revision before the last compaction.
    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// A revision above the newest.
    FutureRevision = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The quota is used up.
    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// A lease that does not exist.
    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    /// A grant with an existing ID.
    LeaseExists = FailedPrecondition, "etcdserver: lease already exists";
    /// A TTL above the maximum.
    LeaseTtlTooLarge = OutOfRange, "etcdserver: too large lease TTL";
    /// A member that already exists.
    MemberExists = FailedPrecondition, "etcdserver: member ID already exist";
    /// A peer URL that is taken.
    PeerUrlExists = FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// A membership change that would leave no quorum. `Unknown` on the wire, see above.
    NotEnoughStarted = Unknown, "etcdserver: re-configuration failed due to not enough started members";
    /// Peer URLs that are none, or none at all.
    MemberBadUrls = InvalidArgument, "etcdserver: given member URLs are invalid";
    /// A member that does not exist.
    MemberNotFound = NotFound, "etcdserver: member not found";
    /// A promotion of a voter.
    MemberNotLearner = FailedPrecondition, "etcdserver: can only promote a learner member";
    /// A promotion of a learner whose log is behind.
    LearnerNotReady = FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    /// More learners than `--max-learners`.
    TooManyLearners = FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// A log entry above `--max-request-bytes`.
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    /// The inbox is full. `Unknown` on the wire, see above.
    TooManyRequests = Unknown, "etcdserver: too many requests";
    /// Metadata `hasleader` while there is none.
    NoLeader = Unavailable, "etcdserver: no leader";
    /// A leader's task, requested from a follower.
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    /// A member that cannot become leader.
    BadLeaderTransferee = FailedPrecondition, "etcdserver: bad leader transferee";
    /// The leader changed while a read waited.
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    /// A downgrade target that is not a version.
    WrongDowngradeVersionFormat = InvalidArgument, "etcdserver: wrong downgrade target version format";
    /// A downgrade by anything but one minor version.
    InvalidDowngradeTargetVersion = InvalidArgument, "etcdserver: invalid downgrade target version";
    /// A downgrade before the cluster version is decided.
    ClusterVersionUnavailable = FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    /// A second downgrade while one is active.
    DowngradeInProcess = FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    /// A downgrade cancelled while none is active.
    NoInflightDowngrade = FailedPrecondition, "etcdserver: no inflight downgrade job";
    /// An unknown action in a request.
    UnknownMethod = Unknown, "etcdserver: unknown method";
    /// This member is shutting down.
    Stopped = Unavailable, "etcdserver: server stopped";
    /// A caller's own deadline: Go's `context.DeadlineExceeded`.
    DeadlineExceeded = DeadlineExceeded, "context deadline exceeded";
    /// No quorum answered in time.
    Timeout = Unavailable, "etcdserver: request timed out";
    /// No quorum in time, after a recent loss of the leader.
    TimeoutLeaderLost = Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    /// The new leader did not take over in time. `Unknown` on the wire, as the two above.
    TimeoutLeaderTransfer = Unknown, "etcdserver: request timed out, leader transfer took too long";
    /// No quorum in time, with peers unreachable.
    TimeoutConnectionLost = Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    /// A watch stream that its client cancelled or left.
    WatchCanceled = Cancelled, "etcdserver: watch canceled";
    /// A membership change while too few members have been connected for long enough.
    Unhealthy = Unavailable, "etcdserver: unhealthy cluster";
    /// Committed entries were not applied here in time.
    TimeoutWaitAppliedIndex = Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    /// A CORRUPT alarm is raised.
    Corrupt = DataLoss, "etcdserver: corrupt cluster";
    /// A token requested while authentication is off.
    AuthNotEnabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    /// A learner serves only serializable ranges and its status.
    NotForLearner = FailedPrecondition, "etcdserver: rpc not supported for learner";
}

/// What etcd's members answer each other over HTTP; the one that asked looks for these texts.
pub mod peer_text {
    /// etcd's `rafthttp.ErrClusterIDMismatch`: the one that asks, or is asked, is of another cluster.
    pub const CLUSTER_ID_MISMATCH: &str = "cluster ID mismatch";
    /// etcd's `lease.ErrLeaseNotFound`: no lease has this ID.
    pub const LEASE_NOT_FOUND: &str = "lease not found";
    /// etcd's `lease.ErrNotPrimary`: this member does not lead.
    pub const NOT_PRIMARY: &str = "not a primary lessor";
    /// etcd's `leasehttp.ErrLeaseHTTPTimeout`: the member has not applied what is committed.
    pub const BEHIND: &str = "waiting for node to catch up its applied index has timed out";
    /// etcd's `membership.ErrIDNotFound`: no member has this ID.
    pub const MEMBER_NOT_FOUND: &str = "membership: ID not found";
    /// etcd's `membership.ErrIDRemoved`: this member was removed.
    pub const MEMBER_REMOVED: &str = "membership: ID removed";
    /// etcd's `membership.ErrMemberNotLearner`: a voter cannot be promoted.
    pub const NOT_LEARNER: &str = "membership: can only promote a learner member";
}

impl From<EtcdError> for Status {
    fn from(error: EtcdError) -> Self {
        Status::new(error.code(), error.text())
    }
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes and texts are the API: change them only when etcd does.
    #[test]
    fn codes_and_texts_are_etcds() {
        let check = |error: EtcdError, code: i32, text: &str| {
            let status = Status::from(error);
            assert_eq!((status.code() as i32, status.message()), (code, text), "{error:?}");
        };
        check(EtcdError::EmptyKey, 3, "etcdserver: key is not provided");
        check(EtcdError::TooManyOps, 3, "etcdserver: too many operations in txn request");
        check(EtcdError::Compacted, 11, "etcdserver: mvcc: required revision has been compacted");
        check(EtcdError::FutureRevision, 11, "etcdserver: mvcc: required revision is a future revision");
        check(EtcdError::NoSpace, 8, "etcdserver: mvcc: database space exceeded");
        check(EtcdError::LeaseNotFound, 5, "etcdserver: requested lease not found");
        check(EtcdError::RequestTooLarge, 3, "etcdserver: request is too large");
        check(EtcdError::NoLeader, 14, "etcdserver: no leader");
        check(EtcdError::Corrupt, 15, "etcdserver: corrupt cluster");
        check(EtcdError::NotForLearner, 9, "etcdserver: rpc not supported for learner");
        // The two without a code of their own on the wire.
        check(EtcdError::TooManyRequests, 2, "etcdserver: too many requests");
        check(
            EtcdError::NotEnoughStarted,
            2,
            "etcdserver: re-configuration failed due to not enough started members",
        );
    }

    #[test]
    fn no_two_errors_share_a_text() {
        let mut texts: Vec<_> = EtcdError::ALL.iter().map(|error| error.text()).collect();
        texts.sort_unstable();
        let all = texts.len();
        texts.dedup();
        assert_eq!(texts.len(), all);
        let foreign = texts.iter().filter(|text| !text.starts_with("etcdserver: "));
        assert_eq!(foreign.collect::<Vec<_>>(), [&EtcdError::DeadlineExceeded.text()], "Go's own");
    }
}
