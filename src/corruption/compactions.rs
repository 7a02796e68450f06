//! etcd's `CompactHashCheck`: all members compact at the same revisions, and each compaction leaves a hash, so a leader
//! can compare without hashing anything.

use super::hashes::{Asker, PeerHash};
use gotext::duration;
use mvcc::HashKv as Kept;
use std::collections::BTreeMap;

/// How far the comparison has come.
#[derive(Debug, Default)]
pub(crate) struct Compactions {
    /// The newest compaction of which all members are known to agree.
    checked: i64,
}

/// What the hashes of one compaction show.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// All members have the same hash.
    Same,
    /// Those who could be compared agree.
    Skipped,
    /// The alarm is due for these members; 0 = nobody knows for whom.
    Different(Vec<u64>),
}

impl Compactions {
    /// Compares the newest compaction that all members have finished; the members for which the alarm is due.
    pub(crate) async fn check(&mut self, asker: &Asker, log: &slog::Logger) -> Vec<u64> {
        slog::info!(log, "starting compact hash check"; "local-member-id" => asker.me(),
            "timeout" => duration::show(asker.limit()));
        let (mut alarms, mut looked) = (Vec::new(), 0);
        for kept in self.unchecked(asker.shared().view().compaction_hashes()) {
            looked += 1;
            let peers = asker.peers(kept.hash_revision).await;
            if peers.is_empty() {
                continue;
            }
            match compare(asker.member(), &kept, &peers, log) {
                Finding::Skipped => continue,
                Finding::Same => self.checked = self.checked.max(kept.hash_revision),
                Finding::Different(members) => alarms = members,
            }
            break;
        }
        slog::info!(log, "finished compaction hash check"; "number-of-hashes-checked" => looked);
        alarms
    }

    /// The compactions to look at, the newest first.
    fn unchecked(&self, kept: &[Kept]) -> Vec<Kept> {
        kept.iter().rev().take_while(|kept| kept.hash_revision > self.checked).copied().collect()
    }
}

/// etcd's `checkPeerHashes`: whoever is not of the majority is wrong; without a majority all may be.
fn compare(me: u64, kept: &Kept, peers: &[PeerHash], log: &slog::Logger) -> Finding {
    let log = log.new(slog::o!("leader-id" => format!("{me:x}"), "leader-revision" => kept.hash_revision,
        "leader-compact-revision" => kept.compact_revision, "leader-hash" => kept.hash));
    let mut groups = BTreeMap::from([(kept.hash, vec![me])]);
    let mut checked = 0;
    for peer in peers {
        let reason = match &peer.answer {
            Ok(theirs) if theirs.compact_revision == kept.compact_revision => {
                checked += 1;
                groups.entry(theirs.hash).or_default().push(peer.member);
                continue;
            }
            Ok(theirs) => format!(
                "the peer's CompactRevision {} doesn't match leader's CompactRevision {}",
                theirs.compact_revision, kept.compact_revision
            ),
            Err(_) => "no response".to_owned(),
        };
        slog::warn!(log, "Skipped peer's hash"; "number-of-peers" => peers.len(),
            "peer-id" => format!("{:x}", peer.member), "reason" => reason);
    }
    if groups.len() == 1 {
        return consistent(kept, checked, peers.len(), &log);
    }
    let members = peers.len() + 1;
    let quorum = members / 2 + 1;
    let majority = groups.iter().find(|(_, members)| members.len() >= quorum).map(|(hash, _)| *hash);
    match majority {
        Some(hash) => drop(groups.remove(&hash)),
        None => slog::error!(
            log,
            "Detected compaction hash mismatch but cannot identify the corrupted members, so intentionally set the \
             memberID as 0"
        ),
    }
    for (hash, members) in &groups {
        let ids: Vec<String> = members.iter().map(|member| format!("{member:x}")).collect();
        slog::error!(log, "Detected compaction hash mismatch"; "peer-hash" => hash, "peer-ids" => ids.join(","),
            "quorum-exist" => majority.is_some());
    }
    Finding::Different(if majority.is_some() { groups.into_values().flatten().collect() } else { vec![0] })
}

fn consistent(kept: &Kept, checked: usize, peers: usize, log: &slog::Logger) -> Finding {
    let log = log.new(slog::o!("number-of-peers-checked" => checked, "revision" => kept.hash_revision,
        "compactRevision" => kept.compact_revision));
    if checked == peers {
        slog::info!(log, "successfully checked hash on whole cluster");
        return Finding::Same;
    }
    slog::warn!(log, "skipped revision in compaction hash check; was not able to check all peers";
        "number-of-peers" => peers);
    Finding::Skipped
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::{HashError, HashKv};

    const KEPT: Kept = Kept { hash: 1, compact_revision: 4, hash_revision: 9 };

    /// Peers 2, 3, … with these hashes; `None` = no answer.
    fn peers(hashes: &[Option<u32>]) -> Vec<PeerHash> {
        let answer = |hash: &Option<u32>| match hash {
            Some(hash) => Ok(HashKv { revision: 20, hash: *hash, compact_revision: 4, hash_revision: 9 }),
            None => Err(HashError::Future),
        };
        (2..)
            .zip(hashes)
            .map(|(member, h)| PeerHash { member, urls: Vec::new(), answer: answer(h) })
            .collect()
    }

    /// The cases of etcd's `TestCompactHashCheck`.
    #[test]
    fn the_majority_is_right() {
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let check = |hashes: &[Option<u32>], expected| {
            assert_eq!(compare(1, &KEPT, &peers(hashes), &log), expected, "{hashes:?}");
        };
        check(&[Some(1), Some(1)], Finding::Same);
        check(&[Some(1), None], Finding::Skipped);
        check(&[None, None], Finding::Skipped);
        check(&[Some(1), Some(2)], Finding::Different(vec![3]));
        check(&[Some(2), Some(2)], Finding::Different(vec![1]));
        check(&[Some(2), Some(3)], Finding::Different(vec![0]));
        check(&[Some(2)], Finding::Different(vec![0]));
        // One of three does not answer: two that differ are no majority.
        check(&[Some(2), None], Finding::Different(vec![0]));
        check(&[Some(1), Some(1), Some(2), Some(3)], Finding::Different(vec![4, 5]));
        check(&[Some(1), Some(2), Some(2), None], Finding::Different(vec![0]));
        let mut other = peers(&[Some(2), Some(1)]);
        other[0].answer.as_mut().unwrap().compact_revision = 5;
        assert_eq!(compare(1, &KEPT, &other, &log), Finding::Skipped, "of another history");
    }

    #[test]
    fn what_was_checked_is_not_looked_at_again() {
        let kept = |revision| Kept { hash_revision: revision, ..KEPT };
        let all = [kept(3), kept(5), kept(9)];
        let check = |checked, expected: &[i64]| {
            let found = Compactions { checked }.unchecked(&all);
            assert_eq!(found.iter().map(|kept| kept.hash_revision).collect::<Vec<_>>(), expected);
        };
        check(0, &[9, 5, 3]);
        check(5, &[9]);
        check(9, &[]);
    }
}
