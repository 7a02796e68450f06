//! Maps every error to what a client sees: [`EtcdError`], or for a fault `Unknown`, like etcd's errors without a code.

use machine::Stop;
use mvcc::GivenUp;
pub use proto::EtcdError;
use raft_node::{ChangeError, LeaseError, ProposeError, ReadError};
use tonic::{Code, Status};

/// Why a proposal has no outcome.
pub fn propose(error: &ProposeError) -> Status {
    match error {
        ProposeError::Refused(why) => EtcdError::from(*why).into(),
        ProposeError::TooManyRequests => EtcdError::TooManyRequests.into(),
        ProposeError::TooLarge => EtcdError::RequestTooLarge.into(),
        ProposeError::Timeout => EtcdError::Timeout.into(),
        ProposeError::TimeoutLeaderLost => EtcdError::TimeoutLeaderLost.into(),
        ProposeError::TimeoutConnectionLost => EtcdError::TimeoutConnectionLost.into(),
        ProposeError::NotProposed => EtcdError::DeadlineExceeded.into(),
        ProposeError::NoLeader => EtcdError::NoLeader.into(),
        ProposeError::NotEnoughMembers => EtcdError::NotEnoughStarted.into(),
        ProposeError::Stopped => EtcdError::Stopped.into(),
        ProposeError::Fault => Status::unknown(error.to_string()),
    }
}

/// Why the members were not changed.
pub fn change(error: &ChangeError) -> Status {
    match error {
        ChangeError::NotLeader => EtcdError::NotLeader.into(),
        ChangeError::NotFound => EtcdError::MemberNotFound.into(),
        ChangeError::NotLearner => EtcdError::MemberNotLearner.into(),
        ChangeError::NotReady => EtcdError::LearnerNotReady.into(),
        ChangeError::NotEnoughStarted => EtcdError::NotEnoughStarted.into(),
        ChangeError::Unhealthy => EtcdError::Unhealthy.into(),
        ChangeError::Behind => EtcdError::TimeoutWaitAppliedIndex.into(),
        ChangeError::Propose(error) => propose(error),
        ChangeError::Unknown(_) => Status::unknown(error.to_string()),
    }
}

/// Why a read barrier failed: a client's expired deadline is gRPC's own error, the request timeout has etcd's text.
pub fn read(error: &ReadError, client_deadline_passed: bool) -> Status {
    match error {
        ReadError::Timeout if client_deadline_passed => EtcdError::DeadlineExceeded.into(),
        ReadError::Timeout => EtcdError::Timeout.into(),
        ReadError::LeaderChanged => EtcdError::LeaderChanged.into(),
        ReadError::TooManyRequests => EtcdError::TooManyRequests.into(),
        ReadError::Stopped => EtcdError::Stopped.into(),
    }
}

/// Why a lease was not renewed or found (unknown is no error). etcd has no code for an unconfirmed leader.
pub fn lease(error: LeaseError) -> Status {
    match error {
        LeaseError::NotFound => EtcdError::LeaseNotFound.into(),
        LeaseError::NotPrimary | LeaseError::Unconfirmed => Status::unknown(error.to_string()),
        LeaseError::Behind => EtcdError::TimeoutWaitAppliedIndex.into(),
        LeaseError::LeaderChanged => EtcdError::LeaderChanged.into(),
        LeaseError::NoLeader => EtcdError::NoLeader.into(),
        LeaseError::Timeout | LeaseError::NoAnswer => EtcdError::Timeout.into(),
        LeaseError::Stopped => EtcdError::Stopped.into(),
    }
}

/// Why a read of local state has no result.
pub fn stop(error: &Stop) -> Status {
    match error {
        Stop::Refused(why) => EtcdError::from(*why).into(),
        Stop::GivenUp(why) => given_up(*why),
        Stop::Fault(fault) => Status::unknown(fault.to_string()),
    }
}

/// Why a read of the key space has no result.
pub fn store(error: &mvcc::ReadError) -> Status {
    match error {
        mvcc::ReadError::Compacted => EtcdError::Compacted.into(),
        mvcc::ReadError::FutureRevision => EtcdError::FutureRevision.into(),
        mvcc::ReadError::GivenUp(why) => given_up(*why),
        mvcc::ReadError::Fault(fault) => Status::unknown(fault.to_string()),
    }
}

/// After a disconnect nobody sees the status; work that exceeds its budget is redone elsewhere.
fn given_up(why: GivenUp) -> Status {
    match why {
        GivenUp::Cancelled => Status::cancelled("context canceled"),
        GivenUp::Spent => Status::internal(why.to_string()),
    }
}

/// The refusal, by name, of a known method that this version does not serve.
pub fn not_served(method: &str, missing: &str) -> Status {
    Status::unimplemented(format!("{method} is not served by this version of quorate: {missing}"))
}

/// The error if only the response of an applied write failed, as if it was lost: a refusal's code would make clients
/// repeat the write.
pub(crate) fn after_write(status: Status) -> Status {
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => status,
        _ => EtcdError::Timeout.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
