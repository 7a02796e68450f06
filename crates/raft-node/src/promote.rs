//! Promotion of a learner: the leader's checks before the proposal (etcd `promoteMember`). That the learner exists is
//! checked again when the change is applied.

use crate::{Handle, PeerProgress, ProposeError};
use machine::{Membership, Refusal};
use proto::{EtcdError, peer_text, raftpb};
use thiserror::Error;

/// Why a member was not promoted. The texts are etcd's.
#[derive(Clone, Debug, Error)]
pub enum PromoteError {
    /// Only the leader knows a learner's progress.
    #[error("{}", EtcdError::NotLeader)]
    NotLeader,
    /// No member has this ID.
    #[error("{}", peer_text::MEMBER_NOT_FOUND)]
    NotFound,
    /// The member is a voter already.
    #[error("{}", peer_text::NOT_LEARNER)]
    NotLearner,
    /// Its log is too far behind.
    #[error("{}", EtcdError::LearnerNotReady)]
    NotReady,
    /// Too few voters have ever started: one more would cost the quorum.
    #[error("{}", EtcdError::NotEnoughStarted)]
    NotEnoughMembers,
    /// The change was not logged, or its fate is unknown.
    #[error(transparent)]
    Propose(ProposeError),
}

/// Promotes the learner to a voter. Only on the leader; returns once the change is applied here.
pub async fn promote(handle: &Handle, member: u64) -> Result<(), PromoteError> {
    let status = handle.status();
    if !status.is_leader {
        return Err(PromoteError::NotLeader);
    }
    check(&handle.peers(), &handle.machine().membership(), handle.options().member, member)?;
    let change = raftpb::ConfChange {
        id: None,
        r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode.into()),
        node_id: Some(member),
        context: Some(format!(r#"{{"id":{member},"peerURLs":null,"isPromote":true}}"#).into()),
    };
    handle.propose_conf_change(change, None).await.map_err(|error| match error {
        ProposeError::Refused(Refusal::MemberNotFound | Refusal::MemberRemoved) => PromoteError::NotFound,
        ProposeError::Refused(Refusal::MemberNotLearner) => PromoteError::NotLearner,
        error => PromoteError::Propose(error),
    })
}

/// The checks in etcd's order: known to raft, in sync (nine tenths of the leader's log), enough others started.
fn check(
    peers: &[PeerProgress],
    membership: &Membership,
    leader: u64,
    member: u64,
) -> Result<(), PromoteError> {
    let matched = |id| peers.iter().find(|peer| peer.member == id).map(|peer| peer.matched);
    let learner = matched(member).ok_or(PromoteError::NotFound)?;
    if u128::from(learner) * 10 < u128::from(matched(leader).unwrap_or(u64::MAX)) * 9 {
        return Err(PromoteError::NotReady);
    }
    let voters = membership.members.values().filter(|other| !other.is_learner);
    let (all, started) =
        voters.fold((1, 1), |(all, started), voter| (all + 1, started + usize::from(!voter.name.is_empty())));
    if started < all / 2 + 1 { Err(PromoteError::NotEnoughMembers) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::Member;

    /// Leader 1 at 1,000, voter 2, learner 9 at `learner`; `started` voters have a name.
    fn checked(member: u64, learner: u64, started: u64) -> String {
        let progress = |member, matched| PeerProgress {
            member,
            matched,
            active: true,
            is_learner: member == 9,
            snapshot: 0,
        };
        let peers = [progress(1, 1_000), progress(2, 1_000), progress(9, learner)];
        let mut membership = Membership::default();
        for id in [1, 2, 9] {
            let name = if id <= started { "m".to_owned() } else { String::new() };
            membership.members.insert(id, Member { id, name, is_learner: id == 9, ..Member::default() });
        }
        check(&peers, &membership, 1, member).map_or_else(|error| format!("{error:?}"), |()| "ok".to_owned())
    }

    #[test]
    fn a_learner_in_step_is_promoted_if_enough_have_started() {
        assert_eq!(checked(9, 1_000, 2), "ok");
        assert_eq!(checked(9, 900, 2), "ok");
        assert_eq!(checked(9, 899, 2), "NotReady");
        assert_eq!(checked(7, 1_000, 2), "NotFound");
        assert_eq!(checked(9, 1_000, 1), "ok");
        assert_eq!(checked(9, 1_000, 0), "NotEnoughMembers");
        // Checked when it is applied: another member may have promoted it by then.
        assert_eq!(checked(2, 1_000, 2), "ok");
    }
}
