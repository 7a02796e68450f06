//! Membership changes: decoded with etcd's numbers (raft-rs's differ), and validated when applied, since the members
//! may have changed since the proposal. After etcd's `ValidateConfigurationChange`.

use crate::apply::{Applying, outcome};
use crate::{ConfChange, ConfChangeKind, Effect, Fault, Member, Outcome, Refusal, rows};
use prost::Message as _;
use proto::raftpb;
use serde::Deserialize;
use types::{ConfState, Entry, Index};

#[derive(Debug)]
struct Proposed {
    kind: ConfChangeKind,
    node: u64,
    context: Option<Context>,
}

/// The change's payload: etcd's `ConfigChangeContext`.
#[derive(Debug, Deserialize)]
struct Context {
    #[serde(flatten)]
    member: Member,
    #[serde(rename = "isPromote", default)]
    promote: bool,
}

impl Applying<'_> {
    pub(crate) fn conf_change(&mut self, entry: &Entry) -> Result<Outcome, Fault> {
        let index = entry.index;
        let fault = |reason: String| Fault::Entry { index, reason };
        let message = raftpb::ConfChange::decode(entry.data.clone())
            .map_err(|error| fault(format!("no raftpb.ConfChange: {error}")))?;
        let kind = kind(message.r#type.unwrap_or(0)).map_err(fault)?;
        let node = message.node_id.unwrap_or(0);
        let refused = |kind, refusal| {
            let change = ConfChange { kind, node: 0, context: None };
            Effect::Conf { change, accepted: false, answer: Err(refusal) }
        };
        let id = message.id.unwrap_or(0);
        if self.state.membership.removed.contains(&node) {
            return Ok(outcome(index, id, refused(kind, Refusal::MemberRemoved)));
        }
        let context = match kind {
            ConfChangeKind::Remove => None,
            _ => Some(parse_context(message.context.as_deref().unwrap_or_default()).map_err(fault)?),
        };
        let proposed = Proposed { kind, node, context };
        if let Err(refusal) = self.check_conf_change(&proposed) {
            return Ok(outcome(index, id, refused(kind, refusal)));
        }
        let context = self.change_members(index, proposed)?;
        let change = ConfChange { kind, node, context };
        Ok(outcome(index, id, Effect::Conf { change, accepted: true, answer: Ok(()) }))
    }

    fn check_conf_change(&self, proposed: &Proposed) -> Result<(), Refusal> {
        let (membership, node) = (&self.state.membership, proposed.node);
        match (proposed.kind, &proposed.context) {
            (ConfChangeKind::Update, Some(context)) => {
                membership.check_update(node, &context.member.peer_urls)
            }
            (ConfChangeKind::AddNode | ConfChangeKind::AddLearner, Some(context)) if context.promote => {
                membership.check_promote(node)
            }
            (kind @ (ConfChangeKind::AddNode | ConfChangeKind::AddLearner), Some(context)) => {
                let learner = kind == ConfChangeKind::AddLearner && context.member.is_learner;
                let limit = learner.then_some(self.settings.max_learners);
                membership.check_add(node, &context.member.peer_urls, limit)
            }
            (ConfChangeKind::Remove, _) | (_, None) => membership.check_remove(node),
        }
    }

    fn change_members(&mut self, index: Index, proposed: Proposed) -> Result<Option<Member>, Fault> {
        let Proposed { kind, node, context } = proposed;
        self.change_conf_state(index, kind, node)?;
        self.members_changed = true;
        let batch = self.group.batch();
        let members = &mut self.state.membership.members;
        let Some(Context { member: proposed, promote }) = context else {
            members.remove(&node);
            self.state.membership.removed.insert(node);
            rows::remove_member(batch, node);
            return Ok(None);
        };
        if proposed.id != node {
            return Err(Fault::Entry { index, reason: misdescribed(node, proposed.id) });
        }
        let member = members.entry(node).or_default();
        match kind {
            ConfChangeKind::Update => member.peer_urls = proposed.peer_urls,
            _ if promote => member.is_learner = false,
            _ => *member = proposed,
        }
        rows::put_member(batch, member);
        Ok(Some(member.clone()))
    }

    /// Applies the change to raft's configuration: one step, one member.
    fn change_conf_state(&mut self, index: Index, kind: ConfChangeKind, node: u64) -> Result<(), Fault> {
        let ConfState { voters, learners } = &mut self.state.conf;
        let leave = |list: &mut Vec<u64>| list.retain(|id| *id != node);
        let enter = |list: &mut Vec<u64>| {
            if let Err(place) = list.binary_search(&node) {
                list.insert(place, node);
            }
        };
        match kind {
            ConfChangeKind::Update => return Ok(()),
            ConfChangeKind::AddNode => {
                leave(learners);
                enter(voters);
            }
            ConfChangeKind::AddLearner => {
                leave(voters);
                enter(learners);
            }
            ConfChangeKind::Remove => {
                leave(learners);
                leave(voters);
            }
        }
        if voters.is_empty() {
            // etcd's raft panics here: "removed all voters".
            let reason = format!("a change of member {node:x} leaves no voter");
            return Err(Fault::Entry { index, reason });
        }
        self.conf_changed = true;
        Ok(())
    }
}

/// Checks that a change can be applied, whatever the members are by then; otherwise returns the reason.
pub(crate) fn check_change(data: &[u8]) -> Result<(), String> {
    let message =
        raftpb::ConfChange::decode(data).map_err(|error| format!("no raftpb.ConfChange: {error}"))?;
    let node = message.node_id();
    if node == 0 {
        return Err("a change of nobody".to_owned());
    }
    if kind(message.r#type.unwrap_or(0))? == ConfChangeKind::Remove {
        return Ok(());
    }
    let described = parse_context(message.context())?.member.id;
    if described == node { Ok(()) } else { Err(misdescribed(node, described)) }
}

fn misdescribed(node: u64, described: u64) -> String {
    format!("a change of member {node:x} describes member {described:x}")
}

fn kind(number: i32) -> Result<ConfChangeKind, String> {
    match raftpb::ConfChangeType::try_from(number) {
        Ok(raftpb::ConfChangeType::ConfChangeAddNode) => Ok(ConfChangeKind::AddNode),
        Ok(raftpb::ConfChangeType::ConfChangeRemoveNode) => Ok(ConfChangeKind::Remove),
        Ok(raftpb::ConfChangeType::ConfChangeUpdateNode) => Ok(ConfChangeKind::Update),
        Ok(raftpb::ConfChangeType::ConfChangeAddLearnerNode) => Ok(ConfChangeKind::AddLearner),
        Err(_) => Err(format!("unknown kind of change {number}")),
    }
}

fn parse_context(json: &[u8]) -> Result<Context, String> {
    serde_json::from_slice(json)
        .map_err(|error| format!("a change's context is no JSON of a member: {error}"))
}
