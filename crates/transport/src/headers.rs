//! The `X-` headers that identify members to each other, and their checks (etcd `rafthttp/util.go`).

use crate::context::{Identity, hex};
use http::{HeaderMap, HeaderName, HeaderValue};
use types::Version;

pub(crate) const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub(crate) const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
pub(crate) const MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
pub(crate) const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
pub(crate) const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");
pub(crate) const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");

/// Our own, on `/version`: the member clears a lease's remaining TTL when it renews it (a feature gate in etcd).
pub(crate) const LEASE_CHECKPOINTS: HeaderName = HeaderName::from_static("x-lease-checkpoints");
pub(crate) const CLEARED: &str = "cleared";

/// The lowest cluster version this member works with, etcd's `MinClusterVersion`.
pub(crate) const MIN_CLUSTER: &str = "3.0.0";
/// The version of members without a version header.
const OLDEST: &str = "2.0.0";

pub(crate) const INCOMPATIBLE_VERSION: &str = "incompatible version";
pub(crate) use proto::peer_text::CLUSTER_ID_MISMATCH;

/// Major and minor version: the patch is never compared.
pub(crate) type MajorMinor = (u64, u64);

pub(crate) fn parse_version(text: &str) -> Option<MajorMinor> {
    Version::parse(text).map(|version| (version.major, version.minor))
}

/// A header's text; "" if it is absent or not text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// A version header; 2.0 if it is absent, `None` if it is malformed (etcd's handler panics).
pub(crate) fn version(headers: &HeaderMap, name: &HeaderName) -> Option<MajorMinor> {
    match text(headers, name) {
        "" => parse_version(OLDEST),
        text => parse_version(text),
    }
}

/// Parses a hexadecimal ID as Go's `ParseUint` does: with upper case and leading zeros, without a sign.
pub(crate) fn parse_id(text: &str) -> Option<u64> {
    if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

/// Checks the version, then the cluster ID of a sender. The error is the text of a 412.
pub(crate) fn check(headers: &HeaderMap, me: &Identity) -> Result<(), &'static str> {
    let compatible = || {
        let (server, min) = (version(headers, &SERVER_VERSION)?, version(headers, &MIN_CLUSTER_VERSION)?);
        Some(server >= parse_version(MIN_CLUSTER)? && min <= parse_version(&me.version)?)
    };
    if compatible() != Some(true) {
        return Err(INCOMPATIBLE_VERSION);
    }
    // As text: etcd does not accept a padded ID.
    if text(headers, &CLUSTER_ID) != hex(me.cluster) {
        return Err(CLUSTER_ID_MISMATCH);
    }
    Ok(())
}

/// The headers of raft POSTs and stream GETs.
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

/// Whether a server of this version has the streams: 2.1 to 3.7 as in etcd, or not older than this member.
pub(crate) fn speaks_streams(server: MajorMinor, me: MajorMinor) -> bool {
    server >= me || ((2, 1)..=(2, 3)).contains(&server) || ((3, 0)..=(3, 7)).contains(&server)
}
