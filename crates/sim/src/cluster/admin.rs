//! The administrator: adds a learner, promotes it, moves a member, removes a voter.

use super::{Cluster, Event};
use crate::client::{Ask, NOBODY};
use crate::drawn::count_draw;
use crate::member::Waiter;
use proto::raftpb::{ConfChange, ConfChangeType};

/// The minimum number of voters left if every pending change is applied.
const VOTERS_MIN: usize = 3;

impl Cluster {
    /// Asks a member for a change, and starts new members.
    pub(crate) fn change_members(&mut self) {
        let pause = self.rng.between(300_000, 6_000_000);
        self.schedule(self.now + pause, Event::Admin);
        let Some(membership) = self.membership() else { return };
        for id in membership.members.keys() {
            if !std::mem::replace(&mut self.member(*id).joined, true) {
                self.schedule(self.now + 1000, Event::Start(*id));
            }
        }
        if !self.chaos {
            return;
        }
        let ids: Vec<u64> = self.members.keys().copied().collect();
        let spare = ids.iter().find(|id| !self.members[id].joined).copied();
        let learner = membership.members.values().find(|member| member.is_learner).map(|member| member.id);
        let mut voters: Vec<u64> = membership.members.keys().copied().collect();
        voters.retain(|id| Some(*id) != learner);
        if voters.is_empty() {
            // Only a new member is up.
            return;
        }
        let any = *self.rng.pick(&voters);
        let change = match (self.rng.below(4), spare, learner) {
            (0, ..) => change(ConfChangeType::ConfChangeUpdateNode, any, &format!("moved-{}", self.now), ""),
            (_, _, Some(learner)) if self.promotes => {
                change(ConfChangeType::ConfChangeAddNode, learner, "new", r#","isPromote":true"#)
            }
            (1 | 2, Some(spare), known) if known.is_none() || !self.promotes => {
                change(ConfChangeType::ConfChangeAddLearnerNode, spare, "new", r#","isLearner":true"#)
            }
            _ if voters.len() > VOTERS_MIN => change(ConfChangeType::ConfChangeRemoveNode, any, "", ""),
            _ => return,
        };
        count_draw("change of members");
        let at = *self.rng.pick(&ids);
        let waiter = Waiter { client: NOBODY, number: 0, read: None };
        self.inbox(at, |inbox| inbox.requests.push((Ask::Change(change), waiter)));
    }
}

fn change(kind: ConfChangeType, node: u64, url: &str, more: &str) -> ConfChange {
    let json = format!(r#"{{"id":{node},"peerURLs":["http://{url}:{node}"]{more}}}"#);
    let context = (kind != ConfChangeType::ConfChangeRemoveNode).then(|| json.into());
    ConfChange { id: None, r#type: Some(kind.into()), node_id: Some(node), context }
}
