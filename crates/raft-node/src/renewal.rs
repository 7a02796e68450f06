//! The renewal of one lease at its leader, step by step. Pure: whoever runs it waits between the steps.

use crate::{LeaseError, Lessor};
use lease::Renewal;
use proto::etcdserverpb as pb;
use std::time::Instant;
use types::{LeaseId, Term};

/// A renewal under way.
#[derive(Clone, Debug)]
pub struct Renewing {
    id: LeaseId,
    deadline: Instant,
    is_retried: bool,
    is_known_to_be_applied: bool,
}

/// What a renewal needs before its next step.
#[derive(Clone, Debug, PartialEq)]
pub enum RenewalStep {
    /// Nothing: this is its answer, the TTL in seconds.
    Done(Result<i64, LeaseError>),
    /// Everything acknowledged anywhere must be applied here: the lease may have been granted a moment ago.
    Applied,
    /// A read round that confirms this term; then [`lease::Expirer::confirm`].
    Confirmed(Term),
    /// The lease must be gone: it is past its deadline.
    Gone,
    /// This entry, logged in this term and applied, which clears the remaining TTL; if it fails,
    /// [`lease::Expirer::not_cleared`].
    Cleared(Term, pb::LeaseCheckpointRequest),
}

impl Renewing {
    /// The renewal of a lease, which gives up at the deadline.
    pub fn new(id: LeaseId, deadline: Instant) -> Self {
        Self { id, deadline, is_retried: false, is_known_to_be_applied: false }
    }

    /// The ID of the lease to renew.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Renews the lease if that is possible now; call it again after what it needs.
    pub fn step(&mut self, lessor: &Lessor, now: Instant) -> RenewalStep {
        if std::mem::replace(&mut self.is_retried, true) && now >= self.deadline {
            return RenewalStep::Done(Err(LeaseError::Unconfirmed));
        }
        match lessor.renew(now, self.id) {
            Renewal::Renewed(ttl) => RenewalStep::Done(Ok(ttl)),
            Renewal::NotPrimary => RenewalStep::Done(Err(LeaseError::NotPrimary)),
            Renewal::Unknown if self.is_known_to_be_applied => RenewalStep::Done(Err(LeaseError::NotFound)),
            Renewal::Unknown => {
                self.is_known_to_be_applied = true;
                RenewalStep::Applied
            }
            Renewal::Unconfirmed(term) => RenewalStep::Confirmed(term),
            Renewal::Expired => RenewalStep::Gone,
            Renewal::Checkpointed(term) => {
                let checkpoint = pb::LeaseCheckpoint { id: self.id, remaining_ttl: 0 };
                RenewalStep::Cleared(term, pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use std::time::Duration;

    #[test]
    fn a_renewal_ends_with_an_answer_or_its_deadline() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let lessor = Lessor::new(second, &Limits::default());
        let step = |renewing: &mut Renewing, at| renewing.step(&lessor, at);
        let follower = &mut Renewing::new(7, now);
        assert_eq!(step(follower, now), RenewalStep::Done(Err(LeaseError::NotPrimary)));
        let info = lease::Info { id: 7, ttl: 60, remaining_ttl: 20 };
        lessor.promote(lease::Deadlines::new(lease::Pace::of(second), now, 3, [info]));
        let renewing = &mut Renewing::new(7, now + second);
        assert_eq!(step(renewing, now), RenewalStep::Confirmed(3));
        lessor.with(|expirer| expirer.confirm(3, now));
        let RenewalStep::Cleared(3, request) = step(renewing, now) else { panic!("the TTL is not cleared") };
        assert_eq!(request.checkpoints, [pb::LeaseCheckpoint { id: 7, remaining_ttl: 0 }]);
        lessor.applied(now, &[lease::Change::Checkpointed { id: 7, remaining_ttl: 0 }]);
        assert_eq!(step(renewing, now), RenewalStep::Done(Ok(60)));
        let unknown = &mut Renewing::new(8, now + second);
        assert_eq!(step(unknown, now), RenewalStep::Applied);
        assert_eq!(step(unknown, now), RenewalStep::Done(Err(LeaseError::NotFound)));
        let late = &mut Renewing::new(8, now);
        assert_eq!(step(late, now), RenewalStep::Applied, "everybody is looked at once");
        assert_eq!(step(late, now), RenewalStep::Done(Err(LeaseError::Unconfirmed)));
        let expired = &mut Renewing::new(7, now + 90 * second);
        assert_eq!(step(expired, now + 80 * second), RenewalStep::Confirmed(3), "confirmed long ago");
        lessor.with(|expirer| expirer.confirm(3, now + 80 * second));
        assert_eq!(step(expired, now + 80 * second), RenewalStep::Gone);
    }
}
