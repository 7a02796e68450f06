//! The `X-` headers by which members recognise each other, and the checks on them (etcd `rafthttp/util.go`).

use crate::context::{Identity, hex};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub(crate) const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
pub(crate) const MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
pub(crate) const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
pub(crate) const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");
pub(crate) const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");

/// Ours, on `/version`: the member clears a lease's remainder when it renews it. etcd's members do only with a feature gate.
pub(crate) const LEASE_CHECKPOINTS: HeaderName = HeaderName::from_static("x-lease-checkpoints");
/// Its only value.
pub(crate) const CLEARED: &str = "cleared";

/// The lowest cluster version this member works with, etcd's `MinClusterVersion`.
pub(crate) const MIN_CLUSTER: &str = "3.0.0";
/// What a missing version header means: etcd 2.0 had none.
const OLDEST: &str = "2.0.0";

pub(crate) const INCOMPATIBLE_VERSION: &str = "incompatible version";
pub(crate) const CLUSTER_ID_MISMATCH: &str = "cluster ID mismatch";

/// Major and minor: all that is ever compared.
pub(crate) type MajorMinor = (u64, u64);

/// Strict `major.minor.patch`, optionally with `-pre` and `+build`, as etcd's semver reads it.
pub(crate) fn parse_version(text: &str) -> Option<MajorMinor> {
    let text = text.split('+').next()?.split('-').next()?;
    let mut parts = text.split('.');
    let mut number = || {
        let part = parts.next()?;
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse::<u64>().ok()).flatten()
    };
    let (major, minor, _patch) = (number()?, number()?, number()?);
    parts.next().is_none().then_some((major, minor))
}

/// A header's text; "" when absent or not text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// A version header; absent means etcd 2.0, `None` means unparsable (etcd's handler panics there).
pub(crate) fn version(headers: &HeaderMap, name: &HeaderName) -> Option<MajorMinor> {
    match text(headers, name) {
        "" => parse_version(OLDEST),
        text => parse_version(text),
    }
}

/// An ID as etcd writes it. Upper case and leading zeros are read, as Go's `ParseUint` reads them; a sign is not.
pub(crate) fn parse_id(text: &str) -> Option<u64> {
    if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

/// May this sender talk to us? Version before cluster ID; the text of the 412 otherwise.
pub(crate) fn check(headers: &HeaderMap, me: &Identity) -> Result<(), &'static str> {
    let compatible = || {
        let (server, min) = (version(headers, &SERVER_VERSION)?, version(headers, &MIN_CLUSTER_VERSION)?);
        Some(server >= parse_version(MIN_CLUSTER)? && min <= parse_version(&me.version)?)
    };
    if compatible() != Some(true) {
        return Err(INCOMPATIBLE_VERSION);
    }
    // The text, not the number: a padded ID is another ID to etcd.
    if text(headers, &CLUSTER_ID) != hex(me.cluster) {
        return Err(CLUSTER_ID_MISMATCH);
    }
    Ok(())
}

/// The headers of every raft POST and stream GET.
pub(crate) fn outgoing(me: &Identity) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put(SERVER_FROM, &hex(me.member));
    put(SERVER_VERSION, &me.version);
    put(MIN_CLUSTER_VERSION, MIN_CLUSTER);
    put(CLUSTER_ID, &hex(me.cluster));
    put(PEER_URLS, &me.peer_urls.join(","));
    headers
}

/// Streams we read from a server of this version: our own and later ones, and all that etcd lists, 2.1 to 3.7.
pub(crate) fn speaks_streams(server: MajorMinor, me: MajorMinor) -> bool {
    server >= me || ((2, 1)..=(2, 3)).contains(&server) || ((3, 0)..=(3, 7)).contains(&server)
}
