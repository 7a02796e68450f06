//! What members publish through the log: names and client URLs, the cluster version, downgrades. Asking the others for
//! their versions over HTTP is the server's job.

use crate::{Handle, ProposeError};
use machine::{ClusterVersion, Downgrade};
use proto::membershippb;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The cluster version before all members' versions are known (etcd `version.MinClusterVersion`).
pub const CLUSTER_VERSION_MIN: &str = "3.0.0";
/// How often the leader checks the members' versions (etcd `monitorVersionInterval`, without its jitter).
pub const VERSION_INTERVAL: Duration = Duration::from_secs(4);
/// The delay before a failed attempt is repeated; a stopped member does not repeat it.
const RETRY: Duration = Duration::from_millis(100);
/// The timeout of one attempt to publish; publishing twice is harmless. A returning member forwards all requests at
/// once and may lose some in the queue of POSTs: clients must not wait a whole request timeout for that.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Publishes this member's name and client URLs (etcd `publishV3`), until applied. Fails only if the node ends.
pub async fn attributes(handle: &Handle, name: &str, client_urls: &[String]) -> Result<(), ProposeError> {
    let attributes = membershippb::Attributes { name: name.to_owned(), client_urls: client_urls.to_vec() };
    let request = membershippb::ClusterMemberAttrSetRequest {
        member_id: handle.options().member,
        member_attributes: Some(attributes),
    };
    loop {
        match handle.propose(request.clone(), Some(Instant::now() + ATTEMPT)).await {
            Ok(()) => return Ok(()),
            Err(error @ (ProposeError::Stopped | ProposeError::Fault)) => return Err(error),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Proposes the cluster version.
pub async fn cluster_version(handle: &Handle, version: String) -> Result<(), ProposeError> {
    handle.propose(membershippb::ClusterVersionSetRequest { ver: version }, None).await
}

/// Proposes a downgrade to a version, or with `None` to cancel it.
pub async fn downgrade(
    handle: &Handle,
    target: Option<ClusterVersion>,
    deadline: Option<Instant>,
) -> Result<(), ProposeError> {
    let ver = target.map(|target| target.to_string()).unwrap_or_default();
    let request = membershippb::DowngradeInfoSetRequest { enabled: target.is_some(), ver };
    handle.propose(request, deadline).await
}

/// Every member's server version, by ID; `None` if unknown.
pub type Versions = BTreeMap<u64, Option<String>>;

/// The cluster version that a leader should propose, if any (etcd `version.Monitor`): the lowest server version without
/// its patch; `3.0.0` while none is decided and a member is unreachable. It only rises, except in a downgrade: then it
/// becomes the target, one minor below both itself and the lowest server version. It does not rise beyond `max`.
pub fn decide_version(
    current: Option<&str>,
    downgrade: Option<&Downgrade>,
    versions: &Versions,
    max: Option<ClusterVersion>,
) -> Result<Option<String>, InvalidDowngrade> {
    let lowest =
        versions.values().map(|version| version.as_deref().and_then(ClusterVersion::parse)).min().flatten();
    let highest = |lowest: ClusterVersion| max.map_or(lowest, |max| max.min(lowest));
    let next = match (current.and_then(ClusterVersion::parse), lowest) {
        (None, None) => return Ok(Some(CLUSTER_VERSION_MIN.to_owned())),
        (None, Some(lowest)) => Some(highest(lowest)),
        (Some(_), None) => None,
        (Some(current), Some(lowest)) => match downgrade.filter(|job| job.enabled) {
            Some(job) => downgraded(current, lowest, &job.target_version)?,
            None => Some(highest(lowest)).filter(|next| *next > current && next.major == current.major),
        },
    };
    Ok(next.map(|version| version.to_string()))
}

fn downgraded(
    current: ClusterVersion,
    lowest: ClusterVersion,
    target: &str,
) -> Result<Option<ClusterVersion>, InvalidDowngrade> {
    let invalid = || InvalidDowngrade { target: target.to_owned(), cluster: current, lowest };
    let target = ClusterVersion::parse(target).ok_or_else(invalid)?;
    if target == current {
        return Ok(None);
    }
    let is_below = |version: ClusterVersion| version.one_below() == Some(target);
    if is_below(current) && is_below(lowest) { Ok(Some(target)) } else { Err(invalid()) }
}

/// Whether every member runs the downgrade's target version, so that the job is done (etcd's `versionsMatchTarget`).
pub fn is_downgraded(target: &str, versions: &Versions) -> bool {
    let Some(target) = ClusterVersion::parse(target) else { return false };
    versions.values().all(|version| version.as_deref().and_then(ClusterVersion::parse) == Some(target))
}

/// A logged downgrade job that cannot be carried out. Cancel it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid downgrade target {target:?}: the cluster is at {cluster}, its oldest member at {lowest}")]
pub struct InvalidDowngrade {
    target: String,
    cluster: ClusterVersion,
    lowest: ClusterVersion,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(servers: &[Option<&str>]) -> Versions {
        (1..).zip(servers.iter().map(|v| v.map(str::to_owned))).collect()
    }

    fn check(current: Option<&str>, servers: &[Option<&str>], expected: Option<&str>) {
        let decided = decide_version(current, None, &versions(servers), None);
        assert_eq!(decided.unwrap().as_deref(), expected, "{current:?} {servers:?}");
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

    #[test]
    fn the_cluster_version_rises_no_further_than_it_may() {
        let decide = |current: Option<&str>, servers: &[Option<&str>], max: &str| {
            decide_version(current, None, &versions(servers), ClusterVersion::parse_target(max)).unwrap()
        };
        let all = [Some("3.7.3"), Some("3.7.3")];
        assert_eq!(decide(None, &all, "3.5").as_deref(), Some("3.5.0"));
        assert_eq!(decide(Some("3.0.0"), &all, "3.5").as_deref(), Some("3.5.0"));
        assert_eq!(decide(Some("3.5.0"), &all, "3.5"), None);
        assert_eq!(decide(Some("3.6.0"), &all, "3.5"), None, "it does not fall");
        assert_eq!(decide(Some("3.5.0"), &all, "3.6").as_deref(), Some("3.6.0"));
        assert_eq!(decide(Some("3.0.0"), &[Some("3.7.3"), Some("3.4.9")], "3.5").as_deref(), Some("3.4.0"));
    }

    #[test]
    fn a_downgrade_takes_the_cluster_one_minor_down_and_ends_when_all_are_there() {
        let decide = |target: &str, enabled, current, servers: &[Option<&str>]| {
            let job = Downgrade { target_version: target.to_owned(), enabled };
            decide_version(Some(current), Some(&job), &versions(servers), None).map_err(drop)
        };
        let all = [Some("3.7.3"), Some("3.7.3")];
        assert_eq!(decide("3.6.0", true, "3.7.0", &all), Ok(Some("3.6.0".to_owned())));
        assert_eq!(decide("3.6.0", true, "3.6.0", &all), Ok(None), "there already");
        assert_eq!(
            decide("3.6.0", true, "3.7.0", &[Some("3.7.3"), None]),
            Ok(None),
            "somebody is out of reach"
        );
        assert_eq!(decide("3.5.0", true, "3.7.0", &all), Err(()), "two minors");
        assert_eq!(decide("", false, "3.6.0", &all), Ok(Some("3.7.0".to_owned())), "cancelled: up again");
        assert!(!is_downgraded("3.6.0", &versions(&[Some("3.7.3"), Some("3.6.11")])));
        assert!(!is_downgraded("3.6.0", &versions(&[Some("3.6.11"), None])));
        assert!(is_downgraded("3.6.0", &versions(&[Some("3.6.11"), Some("3.6.2")])));
    }
}
