//! Whether remaining TTLs may be logged: a member that renews a lease must clear what a checkpoint left, or the lease
//! ends early under the next leader. Ours do; etcd's do with the feature gate `LeaseCheckpoint`, off by default. So the
//! leader asks every member whether it is one of ours, and logs nothing before it knows.

use machine::{Membership, Shared};
use raft_node::{Checkpoints, Handle};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How often a leader looks for members that it does not know.
const INTERVAL: Duration = Duration::from_secs(4);

/// As long as this member leads, says whether checkpoints may be logged. Ends with the node.
pub(crate) async fn decide(node: Handle, shared: Arc<Shared>, log: slog::Logger) {
    let mut leadership = node.watch_leader();
    let mut known = BTreeMap::from([(node.options().member, true)]);
    loop {
        if node.status().is_leader {
            let members = shared.membership();
            ask(&members, &mut known).await;
            let checkpoints = judge(&members, &known);
            if node.set_lease_checkpoints(&members.members.keys().copied().collect(), checkpoints) {
                slog::info!(log, "lease checkpoints"; "decided" => ?checkpoints);
            }
        }
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Asks who is not known to clear them. A member that does not may come back with the feature gate, or as one of ours.
async fn ask(membership: &Membership, known: &mut BTreeMap<u64, bool>) {
    for member in membership.members.values() {
        if known.get(&member.id) == Some(&true) {
            continue;
        }
        for url in &member.peer_urls {
            if let Ok(clears) = transport::fetch_clears_checkpoints(url, ANSWER_MAX).await {
                known.insert(member.id, clears);
                break;
            }
        }
    }
}

/// Learners count: they may be promoted any time.
fn judge(membership: &Membership, known: &BTreeMap<u64, bool>) -> Checkpoints {
    let mut members = membership.members.keys().map(|id| known.get(id));
    if members.clone().any(|clears| clears == Some(&false)) {
        Checkpoints::Forbidden
    } else if members.all(|clears| clears == Some(&true)) {
        Checkpoints::Allowed
    } else {
        Checkpoints::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::Member;

    #[test]
    fn checkpoints_are_logged_only_where_every_member_is_known_to_clear_them() {
        let check = |known: &[(u64, bool)], expected| {
            let member = |id| (id, Member { id, ..Member::default() });
            let membership = Membership { members: (1..=3).map(member).collect(), ..Membership::default() };
            assert_eq!(judge(&membership, &known.iter().copied().collect()), expected, "{known:?}");
        };
        check(&[(1, true)], Checkpoints::Undecided);
        check(&[(1, true), (2, true), (3, true)], Checkpoints::Allowed);
        check(&[(1, true), (2, false)], Checkpoints::Forbidden);
        check(&[(1, true), (2, false), (3, true)], Checkpoints::Forbidden);
    }
}
