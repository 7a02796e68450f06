//! Promotion of a learner. Only the leader knows how far the learner's log is, so that any other member asks it over the
//! peer port (etcd `PromoteMember`). That the learner exists is checked again when the change is applied.

use crate::lessor::RETRY;
use crate::reconfigure::{change, may_promote};
use crate::{ChangeError, Handle, PeerProgress, ProposeError};
use machine::{Member, Refusal};
use proto::raftpb::ConfChangeType;
use std::time::{Duration, Instant};

/// A learner is promoted by itself when it lacks no more entries than this: some milliseconds of writes.
const LAG_MAX: u64 = 500;
/// How long a promotion waits for committed entries to be applied (etcd: `applyTimeout`).
const APPLY_MAX: Duration = Duration::from_secs(1);

impl Handle {
    /// Promotes a learner to a voter, through the leader. Returns all members, in the words of the one that did it.
    pub async fn promote_member(
        &self,
        member: u64,
        deadline: Option<Instant>,
    ) -> Result<Vec<Member>, ChangeError> {
        match self.promote_as_leader(member, deadline).await {
            Err(ChangeError::NotLeader) => {}
            answer => return answer,
        }
        let latest = Instant::now() + self.shared.options.request_timeout;
        let deadline = deadline.map_or(latest, |deadline| deadline.min(latest));
        match tokio::time::timeout_at(deadline.into(), self.ask_to_promote(member, deadline)).await {
            Ok(answer) => answer,
            Err(_) if self.status().leader == 0 => Err(ChangeError::Propose(ProposeError::NoLeader)),
            Err(_) => Err(ChangeError::Propose(ProposeError::Timeout)),
        }
    }

    /// Asks the leader, here or at each of its peer URLs, until it promotes the learner or says that it cannot be.
    async fn ask_to_promote(&self, member: u64, deadline: Instant) -> Result<Vec<Member>, ChangeError> {
        loop {
            let stopped = |_| ChangeError::Propose(ProposeError::Stopped);
            for url in self.leader_urls().await.map_err(stopped)? {
                let answer = match url {
                    None => match self.promote_as_leader(member, Some(deadline)).await {
                        Err(ChangeError::NotLeader) => continue,
                        answer => return answer,
                    },
                    Some(url) => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        self.shared.outbound.promote(url, member, left).await
                    }
                };
                match answer {
                    Ok(members) => return Ok(members),
                    Err(
                        error @ (ChangeError::NotFound | ChangeError::NotLearner | ChangeError::NotReady),
                    ) => return Err(error),
                    // As in etcd, whatever else is wrong with the leader may be right a moment later.
                    Err(_) => {}
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Promotes a learner to a voter, if this member leads. Returns all members once that is applied here.
    pub async fn promote_as_leader(
        &self,
        member: u64,
        deadline: Option<Instant>,
    ) -> Result<Vec<Member>, ChangeError> {
        let answer = self.promote(member, deadline).await;
        match &answer {
            Ok(_) => self.shared.meters.promoted(),
            Err(ChangeError::NotLeader) => {}
            Err(error) => self.shared.meters.not_promoted(&error.to_string()),
        }
        answer
    }

    /// Learners that have started, are connected, and lack little of this leader's log; none on other members.
    pub fn learners_in_step(&self) -> Vec<u64> {
        let (peers, membership) = (self.peers(), self.machine().membership());
        let last = self.status().last;
        let has_started = |id| membership.members.get(&id).is_some_and(|member| !member.name.is_empty());
        let in_step = |peer: &&PeerProgress| {
            peer.is_learner
                && peer.active
                && last.saturating_sub(peer.matched) <= LAG_MAX
                && has_started(peer.member)
        };
        peers.iter().filter(in_step).map(|peer| peer.member).collect()
    }

    async fn promote(&self, member: u64, deadline: Option<Instant>) -> Result<Vec<Member>, ChangeError> {
        self.apply_what_is_committed().await?;
        if !self.status().is_leader {
            return Err(ChangeError::NotLeader);
        }
        is_ready(&self.peers(), self.options().member, member).inspect_err(|error| {
            slog::error!(self.shared.log, "rejecting promote learner: learner is not ready";
                "requested-member" => format!("{member:x}"), "error" => %error);
        })?;
        if self.shared.options.strict_reconfig_check {
            may_promote(&self.shared.machine.membership()).inspect_err(|error| {
                slog::warn!(self.shared.log, "rejecting member promote request; not enough healthy members";
                    "requested-member" => format!("{member:x}"), "error" => %error);
            })?;
        }
        let context = format!(r#"{{"id":{member},"peerURLs":null,"isPromote":true}}"#);
        let change = change(ConfChangeType::ConfChangeAddNode, member, Some(context));
        self.configure(change, deadline).await.map_err(|error| match error {
            ChangeError::Propose(ProposeError::Refused(Refusal::MemberNotFound | Refusal::MemberRemoved)) => {
                ChangeError::NotFound
            }
            ChangeError::Propose(ProposeError::Refused(Refusal::MemberNotLearner)) => ChangeError::NotLearner,
            error => error,
        })
    }

    /// Waits, but not for long, until what is known to be committed is applied here (etcd `waitAppliedIndex`).
    async fn apply_what_is_committed(&self) -> Result<(), ChangeError> {
        let commit = self.status().commit;
        let mut applied = self.watch_applied();
        match tokio::time::timeout(APPLY_MAX, applied.wait_for(|applied| *applied >= commit)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ChangeError::Propose(ProposeError::Stopped)),
            Err(_) => Err(ChangeError::Behind),
        }
    }
}

/// Known to raft, and in sync: it has nine tenths of the leader's log.
fn is_ready(peers: &[PeerProgress], leader: u64, member: u64) -> Result<(), ChangeError> {
    let matched = |id| peers.iter().find(|peer| peer.member == id).map(|peer| peer.matched);
    let learner = matched(member).ok_or(ChangeError::NotFound)?;
    if u128::from(learner) * 10 < u128::from(matched(leader).unwrap_or(u64::MAX)) * 9 {
        return Err(ChangeError::NotReady);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_in_step_is_ready() {
        let progress = |member, matched| PeerProgress {
            member,
            matched,
            active: true,
            is_learner: member == 9,
            snapshot: 0,
        };
        // Leader 1 at 1,000, voter 2, learner 9 at `learner`.
        let check = |member: u64, learner: u64, expected: &str| {
            let peers = [progress(1, 1_000), progress(2, 1_000), progress(9, learner)];
            let found = is_ready(&peers, 1, member);
            let said = found.map_or_else(|error| format!("{error:?}"), |()| "ok".to_owned());
            assert_eq!(said, expected, "{member} {learner}");
        };
        check(9, 1_000, "ok");
        check(9, 900, "ok");
        check(9, 899, "NotReady");
        check(7, 1_000, "NotFound");
        // Checked when it is applied: another member may have promoted it by then.
        check(2, 1_000, "ok");
    }
}
