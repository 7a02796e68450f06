//! Whoever changes the members: adds a learner, promotes it, moves a member, removes a voter.

use crate::client::Ask;
use crate::cluster::{Cluster, Event};
use crate::member::Waiter;
use proto::raftpb::{ConfChange, ConfChangeType};

/// Voters that are left at least, if every change under way is applied alone.
const VOTERS_MIN: usize = 3;
/// The client in whose name changes are asked for: it waits for nothing.
pub(crate) const NOBODY: usize = usize::MAX;

impl Cluster {
    /// Asks a member for a change, and starts whoever has joined.
    pub(crate) fn administer(&mut self) {
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
            // Only one who has just joined is up.
            return;
        }
        let any = *self.rng.pick(&voters);
        let change = match (self.rng.below(4), spare, learner) {
            (0, ..) => change(ConfChangeType::ConfChangeUpdateNode, any, &format!("moved-{}", self.now), ""),
            (_, _, Some(learner)) => {
                change(ConfChangeType::ConfChangeAddNode, learner, "new", r#","isPromote":true"#)
            }
            (1 | 2, Some(spare), None) => {
                change(ConfChangeType::ConfChangeAddLearnerNode, spare, "new", r#","isLearner":true"#)
            }
            _ if voters.len() > VOTERS_MIN => change(ConfChangeType::ConfChangeRemoveNode, any, "", ""),
            _ => return,
        };
        let at = *self.rng.pick(&ids);
        let waiter = Waiter { client: NOBODY, number: 0, read: None };
        self.inbox(at, |inbox| inbox.requests.push((Ask::Change(change), waiter)));
    }
}

/// A change as etcd writes it.
fn change(kind: ConfChangeType, node: u64, url: &str, more: &str) -> ConfChange {
    let json = format!(r#"{{"id":{node},"peerURLs":["http://{url}:{node}"]{more}}}"#);
    let context = (kind != ConfChangeType::ConfChangeRemoveNode).then(|| json.into());
    ConfChange { id: None, r#type: Some(kind.into()), node_id: Some(node), context }
}
