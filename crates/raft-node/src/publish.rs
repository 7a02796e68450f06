//! What members tell each other through the log: their names and client URLs, and the cluster's version.
//!
//! The HTTP side (asking the others for their versions) is the server's; here are the proposals and the decision.

use crate::{Handle, ProposeError};
use proto::{etcdserverpb as pb, membershippb};
use std::collections::BTreeMap;
use std::time::Duration;

/// The cluster version before all members have been heard (etcd `version.MinClusterVersion`).
pub const CLUSTER_VERSION_MIN: &str = "3.0.0";
/// How often the leader looks at the members' versions (etcd `monitorVersionInterval`, with its jitter left out).
pub const VERSION_INTERVAL: Duration = Duration::from_secs(4);
/// A member that was told "stopped" does not try again; anything else waits this long first.
const RETRY: Duration = Duration::from_millis(100);

/// Publishes this member's name and client URLs, and tries again until that is applied (etcd `publishV3`); clients are
/// served after it. Ends without it only when the node does.
pub async fn attributes(handle: &Handle, name: &str, client_urls: &[String]) -> Result<(), ProposeError> {
    let attributes = membershippb::Attributes { name: name.to_owned(), client_urls: client_urls.to_vec() };
    let request = pb::InternalRaftRequest {
        cluster_member_attr_set: Some(membershippb::ClusterMemberAttrSetRequest {
            member_id: handle.options().member,
            member_attributes: Some(attributes),
        }),
        ..Default::default()
    };
    loop {
        match handle.propose(request.clone(), None).await {
            Ok(_) => return Ok(()),
            Err(error @ (ProposeError::Stopped | ProposeError::Fault)) => return Err(error),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Proposes the cluster version.
pub async fn cluster_version(handle: &Handle, version: String) -> Result<(), ProposeError> {
    let request = pb::InternalRaftRequest {
        cluster_version_set: Some(membershippb::ClusterVersionSetRequest { ver: version }),
        ..Default::default()
    };
    handle.propose(request, None).await.map(drop)
}

/// The version that a leader should propose, if any (etcd `version.Monitor`): the lowest of the members' server
/// versions, without its patch; `3.0.0` while none is decided and somebody is out of reach. It only ever rises.
///
/// `versions` has every member, with its server version if it answered.
pub fn decide_version(current: Option<&str>, versions: &BTreeMap<u64, Option<String>>) -> Option<String> {
    let lowest = versions.values().map(|version| version.as_deref().and_then(major_minor)).min().flatten();
    match (current.and_then(major_minor), lowest) {
        (None, None) => Some(CLUSTER_VERSION_MIN.to_owned()),
        (None, Some(lowest)) => Some(render(lowest)),
        (Some(current), Some(lowest)) if lowest > current => Some(render(lowest)),
        (Some(_), _) => None,
    }
}

fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    parts.next()?;
    Some((major, minor))
}

fn render((major, minor): (u64, u64)) -> String {
    format!("{major}.{minor}.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(current: Option<&str>, versions: &[Option<&str>], expected: Option<&str>) {
        let versions = (1..).zip(versions.iter().map(|v| v.map(str::to_owned))).collect();
        assert_eq!(decide_version(current, &versions).as_deref(), expected, "{current:?} {versions:?}");
    }

    #[test]
    fn the_cluster_version_is_the_lowest_and_only_rises() {
        check(None, &[Some("3.7.3")], Some("3.7.0"));
        check(None, &[Some("3.7.3"), Some("3.6.11")], Some("3.6.0"));
        check(None, &[Some("3.7.3"), None], Some("3.0.0"));
        check(Some("3.0.0"), &[Some("3.7.3"), None], None);
        check(Some("3.0.0"), &[Some("3.7.3"), Some("3.7.1")], Some("3.7.0"));
        check(Some("3.7.0"), &[Some("3.7.3"), Some("3.6.1")], None);
        check(Some("3.7.0"), &[Some("3.7.3")], None);
        check(Some("3.7.0"), &[Some("junk")], None);
    }
}
