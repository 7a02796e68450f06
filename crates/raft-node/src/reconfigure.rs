//! Changes of members that clients ask for: what etcd's server checks before it proposes one (`mayAddMember`,
//! `mayRemoveMember`), and the entries, byte for byte. What depends on the members is checked when they are applied.

use crate::bootstrap::as_go_writes;
use crate::{ChangeError, Handle};
use machine::{Member, Membership};
use proto::raftpb::{ConfChange, ConfChangeType};
use std::time::{Duration, Instant};

/// How long a member must have been connected to count as healthy: etcd's `HealthInterval`.
const HEALTH: Duration = Duration::from_secs(5);

/// A change as an entry of the log has it, without the ID that its proposal gets.
pub(crate) fn change(kind: ConfChangeType, member: u64, context: Option<String>) -> ConfChange {
    ConfChange {
        id: None,
        // Set although zero, as etcd does.
        r#type: Some(kind.into()),
        node_id: Some(member),
        context: context.map(Into::into),
    }
}

impl Handle {
    /// Adds a member, as a learner or a voter, or always as a learner ([`crate::Options::learners_first`]). Returns all
    /// members once that is applied here.
    pub async fn add_member(
        &self,
        member: &Member,
        deadline: Option<Instant>,
    ) -> Result<Vec<Member>, ChangeError> {
        let is_learner = member.is_learner || self.shared.options.learners_first;
        let member = &Member { is_learner, ..member.clone() };
        if self.shared.options.strict_reconfig_check {
            let membership = self.shared.machine.membership();
            may_add(&membership, member.is_learner, self.connected(&membership)).inspect_err(|error| {
                let why = match error {
                    ChangeError::Unhealthy => {
                        "rejecting member add request; local member has not been connected to majority peers, \
                         reconfigure breaks active quorum"
                    }
                    _ => "rejecting member add request; not enough healthy members",
                };
                slog::warn!(self.shared.log, "{}", why; "requested-member-add" => ?member, "error" => %error);
            })?;
        }
        let kind = if member.is_learner {
            ConfChangeType::ConfChangeAddLearnerNode
        } else {
            ConfChangeType::ConfChangeAddNode
        };
        self.configure(change(kind, member.id, Some(as_go_writes(member))), deadline).await
    }

    /// Removes a member for ever. Returns the others once that is applied here.
    pub async fn remove_member(
        &self,
        id: u64,
        deadline: Option<Instant>,
    ) -> Result<Vec<Member>, ChangeError> {
        if self.shared.options.strict_reconfig_check {
            let membership = self.shared.machine.membership();
            let is_away = id != self.shared.options.member && self.shared.outbound.active_since(id).is_none();
            may_remove(&membership, id, is_away, self.connected(&membership)).inspect_err(|error| {
                let why = match error {
                    ChangeError::Unhealthy => {
                        "rejecting member remove request; local member has not been connected to all peers, \
                         reconfigure breaks active quorum"
                    }
                    _ => "rejecting member remove request; not enough healthy members",
                };
                slog::warn!(self.shared.log, "{}", why;
                    "requested-member-remove" => format!("{id:x}"), "error" => %error);
            })?;
        }
        self.configure(change(ConfChangeType::ConfChangeRemoveNode, id, None), deadline).await
    }

    /// Replaces a member's peer URLs. Returns all members once that is applied here.
    pub async fn update_member(
        &self,
        id: u64,
        peer_urls: Vec<String>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Member>, ChangeError> {
        let context = as_go_writes(&Member { id, peer_urls, ..Member::default() });
        self.configure(change(ConfChangeType::ConfChangeUpdateNode, id, Some(context)), deadline).await
    }

    /// Proposes the change; returns the members once it is applied here.
    pub(crate) async fn configure(
        &self,
        change: ConfChange,
        deadline: Option<Instant>,
    ) -> Result<Vec<Member>, ChangeError> {
        let (kind, member) = (change.r#type(), change.node_id());
        self.propose_conf_change(change, deadline).await.map_err(ChangeError::Propose)?;
        slog::info!(self.shared.log, "applied a configuration change through raft";
            "raft-conf-change" => kind.as_str_name(), "raft-conf-change-node-id" => format!("{member:x}"));
        Ok(self.shared.machine.membership().members.values().cloned().collect())
    }

    /// Voters that have been connected with this one for long enough, and itself.
    fn connected(&self, membership: &Membership) -> usize {
        let me = self.shared.options.member;
        let is_connected =
            |id| self.shared.outbound.active_since(id).is_some_and(|since| since.elapsed() > HEALTH);
        voters(membership).filter(|voter| voter.id == me || is_connected(voter.id)).count()
    }
}

fn voters(membership: &Membership) -> impl Iterator<Item = &Member> {
    membership.members.values().filter(|member| !member.is_learner)
}

/// How many there are, and how many of them have ever started: those have a name.
fn count<'a>(voters: impl Iterator<Item = &'a Member>) -> (usize, usize) {
    voters.fold((0, 0), |(all, started), voter| (all + 1, started + usize::from(!voter.name.is_empty())))
}

fn quorum(members: usize) -> usize {
    members / 2 + 1
}

/// etcd's checks before a member is added: with the new one, which counts as absent, there must be a quorum.
fn may_add(membership: &Membership, is_learner: bool, connected: usize) -> Result<(), ChangeError> {
    let (all, started) = count(voters(membership));
    // A single member may always get a second one, or no cluster could grow.
    if !is_learner && (all, started) != (1, 1) && started < quorum(all + 1) {
        return Err(ChangeError::NotEnoughStarted);
    }
    if all != 1 && connected < quorum(all + 1) {
        return Err(ChangeError::Unhealthy);
    }
    Ok(())
}

/// etcd's checks before a member is removed: without it there must be a quorum. `is_away`: it is not connected, so that it
/// is no part of the present one.
fn may_remove(
    membership: &Membership,
    member: u64,
    is_away: bool,
    connected: usize,
) -> Result<(), ChangeError> {
    if membership.members.get(&member).is_some_and(|member| member.is_learner) {
        return Ok(());
    }
    let (others, started) = count(voters(membership).filter(|voter| voter.id != member));
    if started < quorum(others) {
        return Err(ChangeError::NotEnoughStarted);
    }
    let all = voters(membership).count();
    if !is_away && connected < quorum(all.saturating_sub(1)) + 1 {
        return Err(ChangeError::Unhealthy);
    }
    Ok(())
}

/// etcd's check before a learner becomes a voter, which counts as started.
pub(crate) fn may_promote(membership: &Membership) -> Result<(), ChangeError> {
    let (all, started) = count(voters(membership));
    if started + 1 < quorum(all + 1) { Err(ChangeError::NotEnoughStarted) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    /// Voters 1, 2, … of which the first `started` have a name, and one learner, 9, that has none.
    fn membership(all: u64, started: u64) -> Membership {
        let mut membership = Membership::default();
        for id in (1..=all).chain([9]) {
            let name = if id <= started { format!("m{id}") } else { String::new() };
            membership.members.insert(id, Member { id, name, is_learner: id == 9, ..Member::default() });
        }
        membership
    }

    fn said(result: Result<(), ChangeError>) -> &'static str {
        match result {
            Ok(()) => "ok",
            Err(ChangeError::NotEnoughStarted) => "started",
            Err(ChangeError::Unhealthy) => "unhealthy",
            Err(other) => panic!("{other}"),
        }
    }

    /// The cases of etcd's `TestIsReadyToAddVotingMember`, and its `util_test.go`.
    #[test]
    fn a_member_is_added_while_a_quorum_of_one_more_has_started_and_is_connected() {
        let check = |all, started, connected, voter: &str, learner: &str| {
            let membership = membership(all, started);
            assert_eq!(said(may_add(&membership, false, connected)), voter, "{all} {started} {connected}");
            assert_eq!(said(may_add(&membership, true, connected)), learner, "{all} {started} {connected}");
        };
        check(1, 1, 1, "ok", "ok");
        check(1, 0, 1, "started", "ok");
        check(2, 1, 2, "started", "ok");
        check(2, 2, 2, "ok", "ok");
        check(2, 2, 1, "unhealthy", "unhealthy");
        check(3, 0, 3, "started", "ok");
        check(3, 2, 3, "started", "ok");
        check(3, 3, 3, "ok", "ok");
        check(3, 3, 2, "unhealthy", "unhealthy");
        check(4, 3, 4, "ok", "ok");
        check(5, 5, 4, "ok", "ok");
        check(5, 5, 3, "unhealthy", "unhealthy");
    }

    /// The cases of etcd's `TestIsReadyToRemoveVotingMember`, and the arithmetic of `mayRemoveMember`.
    #[test]
    fn a_member_is_removed_while_a_quorum_of_the_others_has_started_and_is_connected() {
        let check = |all, started, member, connected, here: &str, away: &str| {
            let membership = membership(all, started);
            let told = [false, true].map(|is_away| said(may_remove(&membership, member, is_away, connected)));
            assert_eq!(told, [here, away], "{all} {started} {member} {connected}");
        };
        check(1, 1, 1, 1, "started", "started");
        check(2, 1, 2, 1, "unhealthy", "ok");
        check(2, 1, 2, 2, "ok", "ok");
        check(3, 0, 1, 3, "started", "started");
        check(3, 2, 2, 3, "started", "started");
        check(3, 3, 3, 3, "ok", "ok");
        check(3, 3, 3, 2, "unhealthy", "ok");
        check(4, 3, 3, 4, "ok", "ok");
        check(4, 3, 4, 3, "ok", "ok");
        check(4, 3, 4, 2, "unhealthy", "ok");
        check(5, 5, 1, 3, "unhealthy", "ok");
        check(5, 5, 1, 4, "ok", "ok");
        // Nobody's removal is refused when it is applied, and a learner's is never dangerous.
        check(3, 3, 7, 3, "ok", "ok");
        check(3, 0, 9, 0, "ok", "ok");
    }

    /// The cases of etcd's `TestIsReadyToPromoteMember`.
    #[test]
    fn a_learner_is_promoted_while_a_quorum_of_one_more_has_started() {
        let check = |all, started, expected: &str| {
            assert_eq!(said(may_promote(&membership(all, started))), expected, "{all} {started}");
        };
        check(1, 1, "ok");
        check(1, 0, "started");
        check(2, 2, "ok");
        check(2, 1, "ok");
        check(3, 1, "started");
        check(3, 2, "ok");
        check(4, 2, "ok");
    }

    #[test]
    fn the_entries_are_etcds_bytes() {
        let url = "http://127.0.0.1:2380";
        let member = Member { id: 300, peer_urls: vec![url.to_owned()], ..Member::default() };
        let learner = Member { is_learner: true, ..member.clone() };
        let check = |member: &Member, json: &str| assert_eq!(as_go_writes(member), json);
        check(&member, &format!(r#"{{"id":300,"peerURLs":["{url}"]}}"#));
        check(&learner, &format!(r#"{{"id":300,"peerURLs":["{url}"],"isLearner":true}}"#));
        let removal = change(ConfChangeType::ConfChangeRemoveNode, 300, None);
        assert_eq!(removal.encode_to_vec(), [0x10, 1, 0x18, 0xac, 2], "no context");
        let addition = change(ConfChangeType::ConfChangeAddNode, 2, Some("{}".to_owned()));
        assert_eq!(addition.encode_to_vec(), [0x10, 0, 0x18, 2, 0x22, 2, b'{', b'}'], "a type although zero");
    }
}
