//! The one place that turns what went wrong into what a client sees: etcd's gRPC code and its exact text.
//!
//! clientv3 matches on the texts, so they are part of the API. The table is etcd's `api/v3rpc/rpctypes/error.go`, as far
//! as this member can give its errors. Two of them reach the wire as `Unknown`, because etcd maps them to an error that
//! is no gRPC status (`toGRPCErrorMap` in `v3rpc/util.go`): [`Known::TooManyRequests`] and
//! [`Known::NotEnoughStarted`]. Where this process fails, the client sees `Unknown` with the reason, as etcd does with
//! errors that it has no code for.

use machine::{Refusal, Stop};
use mvcc::GivenUp;
use raft_node::{LeaseError, ProposeError, ReadError};
use tonic::{Code, Status};

macro_rules! known {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// An error that etcd's clients know by its text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Known {
            $($(#[$doc])* $name,)*
        }

        impl Known {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The gRPC code on the wire.
            pub fn code(self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)*
                }
            }

            /// The text.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

known! {
    /// A request without a key.
    EmptyKey = InvalidArgument, "etcdserver: key is not provided";
    /// `ignore_*` of a key that is not there, or an operation of a transaction that says nothing.
    KeyNotFound = InvalidArgument, "etcdserver: key not found";
    /// A value beside `ignore_value`.
    ValueProvided = InvalidArgument, "etcdserver: value is provided";
    /// A lease beside `ignore_lease`.
    LeaseProvided = InvalidArgument, "etcdserver: lease is provided";
    /// A transaction above `--max-txn-ops`.
    TooManyOps = InvalidArgument, "etcdserver: too many operations in txn request";
    /// A transaction that writes one key twice.
    DuplicateKey = InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// Metadata `client-api-version` that is not text.
    InvalidClientApiVersion = InvalidArgument, "etcdserver: invalid client api version";
    /// An unknown sort order or target.
    InvalidSortOption = InvalidArgument, "etcdserver: invalid sort option";
    /// A revision that is no longer kept.
    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// A revision that is not there yet.
    FutureRevision = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The quota is used up.
    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// An unknown lease.
    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    /// A lease ID given twice.
    LeaseExists = FailedPrecondition, "etcdserver: lease already exists";
    /// A lease longer than any.
    LeaseTtlTooLarge = OutOfRange, "etcdserver: too large lease TTL";
    /// A member that is there already.
    MemberExists = FailedPrecondition, "etcdserver: member ID already exist";
    /// A peer URL that is taken.
    PeerUrlExists = FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// A change of members that would leave no quorum. `Unknown` on the wire, see above.
    NotEnoughStarted = Unknown, "etcdserver: re-configuration failed due to not enough started members";
    /// An unknown member.
    MemberNotFound = NotFound, "etcdserver: member not found";
    /// A promotion of a voter.
    MemberNotLearner = FailedPrecondition, "etcdserver: can only promote a learner member";
    /// More learners than `--max-learners`.
    TooManyLearners = FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// A log entry above `--max-request-bytes`.
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    /// The inbox is full. `Unknown` on the wire, see above.
    TooManyRequests = Unknown, "etcdserver: too many requests";
    /// Metadata `hasleader` while there is none.
    NoLeader = Unavailable, "etcdserver: no leader";
    /// Asked of a follower what only the leader can do.
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    /// Leadership cannot go to that member.
    BadLeaderTransferee = FailedPrecondition, "etcdserver: bad leader transferee";
    /// Leadership moved while a read waited.
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    /// A downgrade's target that is no version.
    WrongDowngradeVersionFormat = InvalidArgument, "etcdserver: wrong downgrade target version format";
    /// A downgrade by anything but one minor version.
    InvalidDowngradeTargetVersion = InvalidArgument, "etcdserver: invalid downgrade target version";
    /// A downgrade before the members have agreed on a version.
    ClusterVersionUnavailable = FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    /// A downgrade during a downgrade.
    DowngradeInProcess = FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    /// An action that nobody knows.
    UnknownMethod = Unknown, "etcdserver: unknown method";
    /// This member is going down.
    Stopped = Unavailable, "etcdserver: server stopped";
    /// No quorum in time.
    Timeout = Unavailable, "etcdserver: request timed out";
    /// No quorum in time, and the leader was lost shortly before.
    TimeoutLeaderLost = Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    /// No quorum in time, and peers are out of reach.
    TimeoutConnectionLost = Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    /// A stream of watches whose client went away or cancelled it.
    WatchCanceled = Cancelled, "etcdserver: watch canceled";
    /// What is committed was not applied here in time.
    TimeoutWaitAppliedIndex = Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    /// A CORRUPT alarm is raised.
    Corrupt = DataLoss, "etcdserver: corrupt cluster";
    /// A token is asked for where there are no users.
    AuthNotEnabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    /// A learner serves only serializable ranges and its status.
    NotForLearner = FailedPrecondition, "etcdserver: rpc not supported for learner";
}

impl From<Known> for Status {
    fn from(known: Known) -> Self {
        Status::new(known.code(), known.text())
    }
}

/// What the machine refuses, alike on every member.
pub fn refusal(refusal: &Refusal) -> Known {
    match refusal {
        Refusal::KeyNotFound => Known::KeyNotFound,
        Refusal::Compacted => Known::Compacted,
        Refusal::FutureRevision => Known::FutureRevision,
        Refusal::LeaseNotFound => Known::LeaseNotFound,
        Refusal::LeaseExists => Known::LeaseExists,
        Refusal::LeaseTtlTooLarge => Known::LeaseTtlTooLarge,
        Refusal::NoSpace => Known::NoSpace,
        Refusal::Corrupt => Known::Corrupt,
        Refusal::MemberExists => Known::MemberExists,
        // etcd tells clients the same of a member that was removed and one that never was.
        Refusal::MemberRemoved | Refusal::MemberNotFound => Known::MemberNotFound,
        Refusal::PeerUrlExists => Known::PeerUrlExists,
        Refusal::MemberNotLearner => Known::MemberNotLearner,
        Refusal::TooManyLearners => Known::TooManyLearners,
    }
}

/// Why a proposal has no answer.
pub fn propose(error: &ProposeError) -> Status {
    match error {
        ProposeError::Refused(why) => refusal(why).into(),
        ProposeError::TooManyRequests => Known::TooManyRequests.into(),
        ProposeError::TooLarge => Known::RequestTooLarge.into(),
        ProposeError::Timeout => Known::Timeout.into(),
        ProposeError::TimeoutLeaderLost => Known::TimeoutLeaderLost.into(),
        ProposeError::TimeoutConnectionLost => Known::TimeoutConnectionLost.into(),
        ProposeError::NotProposed => Status::deadline_exceeded("context deadline exceeded"),
        ProposeError::NoLeader => Known::NoLeader.into(),
        ProposeError::NotEnoughMembers => Known::NotEnoughStarted.into(),
        ProposeError::Stopped => Known::Stopped.into(),
        ProposeError::Fault => Status::unknown(error.to_string()),
    }
}

/// Why a read barrier failed. etcd hands a client's own expired deadline back as gRPC's error, and keeps its own text
/// for a quorum that did not answer within the request timeout.
pub fn read(error: &ReadError, client_deadline_passed: bool) -> Status {
    match error {
        ReadError::Timeout if client_deadline_passed => {
            Status::deadline_exceeded("context deadline exceeded")
        }
        ReadError::Timeout => Known::Timeout.into(),
        ReadError::LeaderChanged => Known::LeaderChanged.into(),
        ReadError::TooManyRequests => Known::TooManyRequests.into(),
        ReadError::Stopped => Known::Stopped.into(),
    }
}

/// Why a lease was not renewed, or its time not told. An unknown lease is answered, not refused, by both; etcd has no code
/// for a leader that the others do not confirm.
pub fn lease(error: LeaseError) -> Status {
    match error {
        LeaseError::NotFound => Known::LeaseNotFound.into(),
        LeaseError::NotPrimary | LeaseError::Unconfirmed => Status::unknown(error.to_string()),
        LeaseError::Behind => Known::TimeoutWaitAppliedIndex.into(),
        LeaseError::LeaderChanged => Known::LeaderChanged.into(),
        LeaseError::NoLeader => Known::NoLeader.into(),
        LeaseError::Timeout | LeaseError::NoAnswer => Known::Timeout.into(),
        LeaseError::Stopped => Known::Stopped.into(),
    }
}

/// Why a read of this member's state ended without an answer.
pub fn stop(error: &Stop) -> Status {
    match error {
        Stop::Refused(why) => refusal(why).into(),
        Stop::GivenUp(why) => given_up(*why),
        Stop::Fault(fault) => Status::unknown(fault.to_string()),
    }
}

/// Why a read of the key space itself ended without an answer.
pub fn store(error: &mvcc::ReadError) -> Status {
    match error {
        mvcc::ReadError::Compacted => Known::Compacted.into(),
        mvcc::ReadError::FutureRevision => Known::FutureRevision.into(),
        mvcc::ReadError::GivenUp(why) => given_up(*why),
        mvcc::ReadError::Fault(fault) => Status::unknown(fault.to_string()),
    }
}

/// Nobody is there to be told that the client went away; and what costs too much here is done elsewhere.
fn given_up(why: GivenUp) -> Status {
    match why {
        GivenUp::Cancelled => Status::cancelled("context canceled"),
        GivenUp::Spent => Status::internal(why.to_string()),
    }
}

/// A method that is known but not served by this version: refused by name.
pub fn not_served(method: &str, missing: &str) -> Status {
    Status::unimplemented(format!("{method} is not served by this version of quorate: {missing}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code and text of everything that is refused, as a client receives it. The table is the API: change it only with
    /// etcd's.
    #[test]
    fn codes_and_texts_are_etcds() {
        let check = |known: Known, code: i32, text: &str| {
            let status = Status::from(known);
            assert_eq!((status.code() as i32, status.message()), (code, text), "{known:?}");
        };
        check(Known::EmptyKey, 3, "etcdserver: key is not provided");
        check(Known::TooManyOps, 3, "etcdserver: too many operations in txn request");
        check(Known::Compacted, 11, "etcdserver: mvcc: required revision has been compacted");
        check(Known::FutureRevision, 11, "etcdserver: mvcc: required revision is a future revision");
        check(Known::NoSpace, 8, "etcdserver: mvcc: database space exceeded");
        check(Known::LeaseNotFound, 5, "etcdserver: requested lease not found");
        check(Known::RequestTooLarge, 3, "etcdserver: request is too large");
        check(Known::NoLeader, 14, "etcdserver: no leader");
        check(Known::Corrupt, 15, "etcdserver: corrupt cluster");
        check(Known::NotForLearner, 9, "etcdserver: rpc not supported for learner");
        // The two that reach the wire without their code.
        check(Known::TooManyRequests, 2, "etcdserver: too many requests");
        check(
            Known::NotEnoughStarted,
            2,
            "etcdserver: re-configuration failed due to not enough started members",
        );
    }

    #[test]
    fn no_two_errors_share_a_text() {
        let mut texts: Vec<_> = Known::ALL.iter().map(|known| known.text()).collect();
        texts.sort_unstable();
        let all = texts.len();
        texts.dedup();
        assert_eq!(texts.len(), all);
        assert!(texts.iter().all(|text| text.starts_with("etcdserver: ")));
    }

    /// What the machine and the node call their refusals is what clients read.
    #[test]
    fn refusals_keep_their_texts() {
        for refused in [
            Refusal::KeyNotFound,
            Refusal::Compacted,
            Refusal::FutureRevision,
            Refusal::LeaseNotFound,
            Refusal::LeaseExists,
            Refusal::LeaseTtlTooLarge,
            Refusal::NoSpace,
            Refusal::Corrupt,
            Refusal::MemberExists,
            Refusal::MemberNotFound,
            Refusal::PeerUrlExists,
            Refusal::MemberNotLearner,
            Refusal::TooManyLearners,
        ] {
            assert_eq!(refusal(&refused).text(), refused.to_string());
        }
        for error in [
            ProposeError::TooManyRequests,
            ProposeError::TooLarge,
            ProposeError::Timeout,
            ProposeError::TimeoutLeaderLost,
            ProposeError::TimeoutConnectionLost,
            ProposeError::NotProposed,
            ProposeError::NoLeader,
            ProposeError::NotEnoughMembers,
            ProposeError::Stopped,
        ] {
            assert_eq!(propose(&error).message(), error.to_string());
        }
    }

    #[test]
    fn a_clients_own_deadline_is_told_apart_from_a_quorum_that_is_away() {
        let check = |passed, code, text: &str| {
            let status = read(&ReadError::Timeout, passed);
            assert_eq!((status.code(), status.message()), (code, text));
        };
        check(true, Code::DeadlineExceeded, "context deadline exceeded");
        check(false, Code::Unavailable, "etcdserver: request timed out");
    }
}
