//! etcd's `InitialCheck`: a member that starts on what it has compares it with its peers before it serves anybody.

use super::hashes::{Asker, PeerHash};
use anyhow::{Context as _, ensure};
use gotext::duration;
use transport::{HashError, HashKv};

/// [`compare`], and a line for its error.
pub(crate) async fn check(asker: &Asker, log: &slog::Logger) -> anyhow::Result<()> {
    let compared = compare(asker, log).await;
    compared
        .inspect_err(|error| slog::error!(log, "checkInitialHashKV failed"; "error" => format!("{error:#}")))
}

/// Compares; an error in etcd's words if a peer has other data of the same history. Peers that do not answer, are behind
/// or compacted something else show nothing.
async fn compare(asker: &Asker, log: &slog::Logger) -> anyhow::Result<()> {
    slog::info!(log, "starting initial corruption check"; "local-member-id" => asker.me(),
        "timeout" => duration::show(asker.limit()));
    let own = asker.own(0).await.with_context(|| format!("{} failed to fetch hash", asker.me()))?;
    let peers = asker.peers(own.hash_revision).await;
    let mismatches = peers.iter().filter(|peer| differs(asker, &own, peer, log)).count();
    ensure!(mismatches == 0, "{} found data inconsistency with peers", asker.me());
    slog::info!(log, "initial corruption checking passed; no corruption"; "local-member-id" => asker.me());
    Ok(())
}

fn differs(asker: &Asker, own: &HashKv, peer: &PeerHash, log: &slog::Logger) -> bool {
    let log =
        log.new(slog::o!("local-member-id" => asker.me(), "local-member-revision" => own.hash_revision,
        "local-member-compact-revision" => own.compact_revision, "local-member-hash" => own.hash,
        "remote-peer-id" => format!("{:x}", peer.member), "remote-peer-endpoints" => peer.urls.join(",")));
    let theirs = match &peer.answer {
        Ok(theirs) => theirs,
        Err(error) => {
            match error {
                HashError::Future => {
                    slog::warn!(log, "cannot fetch hash from slow remote peer"; "error" => %error);
                }
                HashError::Compacted => {
                    let what = "cannot fetch hash from remote peer; local member is behind";
                    slog::warn!(log, "{what}"; "error" => %error);
                }
                HashError::OtherCluster => slog::warn!(log, "cluster ID mismatch"; "error" => %error),
                // The line of the failed request says it all.
                HashError::NotServed | HashError::Other(_) => {}
            }
            return false;
        }
    };
    if own.hash == theirs.hash {
        return false;
    }
    let is_mismatch = own.compact_revision == theirs.compact_revision;
    let what = if is_mismatch {
        "found different hash values from remote peer"
    } else {
        "found different compact revision values from remote peer"
    };
    slog::warn!(log, "{what}"; "remote-peer-revision" => theirs.revision,
        "remote-peer-compact-revision" => theirs.compact_revision, "remote-peer-hash" => theirs.hash);
    is_mismatch
}
