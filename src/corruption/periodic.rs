//! etcd's `PeriodicCheck`: what a leader makes of its own hash, its peers', and its own again after a linearizable read.

use super::hashes::PeerHash;
use transport::HashKv;

/// The first member found wrong, `me` for this one. `before` was taken before the peers were asked, `after` once this
/// member had applied everything that they had.
pub(crate) fn judge(
    me: u64,
    before: &HashKv,
    after: &HashKv,
    peers: &[PeerHash],
    log: &slog::Logger,
) -> Option<u64> {
    let mut found = None;
    let same_history =
        after.hash_revision == before.hash_revision && after.compact_revision == before.compact_revision;
    if same_history && after.hash != before.hash {
        slog::warn!(log, "found hash mismatch";
            "revision-1" => before.hash_revision, "compact-revision-1" => before.compact_revision,
            "hash-1" => before.hash, "revision-2" => after.hash_revision,
            "compact-revision-2" => after.compact_revision, "hash-2" => after.hash);
        found = Some(me);
    }
    let mut checked = 0;
    for peer in peers {
        let Ok(theirs) = &peer.answer else { continue };
        checked += 1;
        if is_wrong(&format!("{:x}", peer.member), before, after, theirs, log) {
            found = found.or(Some(peer.member));
        }
    }
    slog::info!(log, "finished peer corruption check"; "number-of-peers-checked" => checked);
    found
}

/// Whether a follower's answer cannot be; says each reason.
fn is_wrong(peer: &str, before: &HashKv, after: &HashKv, theirs: &HashKv, log: &slog::Logger) -> bool {
    let is_ahead = theirs.revision > after.revision;
    if is_ahead {
        slog::warn!(log, "revision from follower must be less than or equal to leader's";
            "leader-revision" => after.revision, "follower-revision" => theirs.revision,
            "follower-peer-id" => peer);
    }
    let compacted_ahead = theirs.compact_revision > after.compact_revision;
    if compacted_ahead {
        slog::warn!(log, "compact revision from follower must be less than or equal to leader's";
            "leader-compact-revision" => after.compact_revision,
            "follower-compact-revision" => theirs.compact_revision, "follower-peer-id" => peer);
    }
    let differs = theirs.compact_revision == before.compact_revision && theirs.hash != before.hash;
    if differs {
        slog::warn!(log, "same compact revision then hashes must match";
            "leader-compact-revision" => after.compact_revision, "leader-hash" => before.hash,
            "follower-compact-revision" => theirs.compact_revision, "follower-hash" => theirs.hash,
            "follower-peer-id" => peer);
    }
    is_ahead || compacted_ahead || differs
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::HashError;

    fn hash(revision: i64, hash: u32, compact_revision: i64) -> HashKv {
        HashKv { revision, hash, compact_revision, hash_revision: revision }
    }

    fn peer(member: u64, answer: Result<HashKv, HashError>) -> PeerHash {
        PeerHash { member, urls: Vec::new(), answer }
    }

    /// The cases of etcd's `TestPeriodicCheck`.
    #[test]
    fn a_leader_judges_as_etcds_does() {
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let check = |before, after, peers: &[PeerHash], expected: Option<u64>| {
            assert_eq!(judge(1, &before, &after, peers, &log), expected, "{before:?} {after:?} {peers:?}");
        };
        let ok = |member, answer| peer(member, Ok(answer));
        check(hash(1, 7, -1), hash(1, 7, -1), &[], None);
        check(hash(1, 7, -1), hash(1, 8, -1), &[], Some(1));
        // Writes, or a compaction, between the two.
        check(hash(1, 7, -1), hash(2, 8, -1), &[], None);
        check(hash(2, 7, -1), hash(2, 8, 1), &[], None);
        check(hash(1, 7, -1), hash(2, 8, -1), &[ok(42, hash(2, 7, -1))], None);
        check(hash(1, 7, -1), hash(2, 8, -1), &[ok(42, hash(3, 7, -1))], Some(42));
        check(hash(9, 7, 4), hash(9, 7, 4), &[ok(42, hash(9, 8, 5))], Some(42));
        check(hash(9, 7, 4), hash(9, 7, 4), &[ok(42, hash(9, 8, 3))], None);
        check(hash(9, 7, 4), hash(9, 7, 4), &[ok(42, hash(9, 8, 4))], Some(42));
        // One alarm a round, and the leader's own comes first.
        check(hash(9, 7, 4), hash(9, 7, 4), &[ok(42, hash(9, 8, 4)), ok(43, hash(9, 8, 4))], Some(42));
        check(hash(9, 7, 4), hash(9, 6, 4), &[ok(42, hash(9, 8, 4))], Some(1));
        let gone = [peer(42, Err(HashError::Future)), peer(43, Err(HashError::Other("gone".to_owned())))];
        check(hash(9, 7, 4), hash(9, 7, 4), &gone, None);
    }
}
