//! Joining a running cluster (`--initial-cluster-state=existing`): its members say which of them this one is, after
//! etcd's `bootstrapExistingClusterNoWAL`. The log comes from the leader, with all members in it.

use crate::ETCD_VERSION;
use crate::config::{Config, PeerUrl};
use anyhow::{Context as _, bail, ensure};
use futures::future::join_all;
use machine::{ClusterVersion, Member};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use transport::RemoteCluster;

/// How long one of the others may take to list the members, as in etcd.
const LIST_MAX: Duration = Duration::from_secs(10);
/// How long names may take to be looked up, all together, as in etcd.
const LOOKUP_MAX: Duration = Duration::from_secs(30);
/// The pause after a name that was not found, as in etcd: a name server may learn it a moment later.
const LOOKUP_PAUSE: Duration = Duration::from_secs(1);

/// How long each of the others may take to say whether a downgrade is in progress. etcd waits for as long as a request may
/// take; but where this member is the second one, there is no quorum to answer until it has started.
const DOWNGRADE_MAX: Duration = Duration::from_secs(2);

/// The IDs of this member and of its cluster.
pub(crate) async fn identity(config: &Config, log: &slog::Logger) -> anyhow::Result<(u64, u64)> {
    let wanted = &config.cluster;
    wanted.listed(&config.name)?;
    let mut urls: Vec<&PeerUrl> =
        wanted.members.iter().filter(|(name, _)| *name != config.name).flat_map(|(_, urls)| urls).collect();
    urls.sort();
    let urls: Vec<String> = urls.into_iter().map(ToString::to_string).collect();
    let existing = transport::fetch_members(&urls, LIST_MAX).await;
    let mut existing = existing.context("cannot fetch cluster info from peer urls")?;
    existing.members.sort_unstable_by_key(|member| member.id);
    let own = find_own(&config.name, &wanted.members, &existing.members).await;
    let own = own.with_context(|| format!("error validating peerURLs {}", in_gos_words(&existing)))?;
    // Its log was lost: the others may know promises that it made.
    ensure!(own.client_urls.is_empty(), "member {:x} has already been bootstrapped", own.id);
    check_versions(config, &existing.members, own.id, log).await?;
    let learners = existing.members.iter().filter(|member| member.is_learner).count();
    ensure!(learners <= config.changes.learners_max, "membership: too many learner members in cluster");
    Ok((own.id, existing.cluster))
}

/// Finds each existing member among the configured ones by its URLs (etcd's `ValidateClusterAndAssignIDs`); returns the
/// one of this name.
async fn find_own<'a>(
    name: &str,
    configured: &[(String, Vec<PeerUrl>)],
    existing: &'a [Member],
) -> anyhow::Result<&'a Member> {
    ensure!(existing.len() == configured.len(), "member count is unequal");
    let until = Instant::now() + LOOKUP_MAX;
    let mut own = None;
    for member in existing {
        let found = find(member, configured, until).await?;
        if found == name {
            own = Some(member);
        }
    }
    own.with_context(|| format!("PeerURLs: no existing member is {name}"))
}

/// The name of the configured member with these URLs: as they are written, else as they are looked up.
async fn find<'a>(
    member: &Member,
    configured: &'a [(String, Vec<PeerUrl>)],
    until: Instant,
) -> anyhow::Result<&'a str> {
    let mut urls = member.peer_urls.clone();
    urls.sort();
    let lists: Vec<(&str, Vec<String>)> = configured
        .iter()
        .map(|(name, urls)| (name.as_str(), urls.iter().map(ToString::to_string).collect()))
        .collect();
    if let Some((name, _)) = lists.iter().find(|(_, list)| *list == urls) {
        return Ok(*name);
    }
    let mut last = String::new();
    for (name, list) in &lists {
        match are_equal(&urls, list, until).await {
            Ok(()) => return Ok(*name),
            Err(error) => last = error,
        }
    }
    bail!(
        "PeerURLs: no match found for existing member ({:x}, [{}]), last resolver error ({last})",
        member.id,
        member.peer_urls.join(" ")
    )
}

/// Whether two lists of URLs, sorted, are the same addresses (etcd's `URLStringsEqual`); otherwise the reason.
async fn are_equal(one: &[String], other: &[String], until: Instant) -> Result<(), String> {
    let quoted = |urls: &[String]| urls.iter().map(|url| format!("{url:?}")).collect::<Vec<_>>().join(" ");
    if one.len() != other.len() {
        return Err(format!("len([{}]) != len([{}])", quoted(one), quoted(other)));
    }
    let (mut ones, mut others) = (look_up_all(one, until).await?, look_up_all(other, until).await?);
    ones.sort();
    others.sort();
    match ones.iter().zip(&others).position(|(one, other)| one != other) {
        None => Ok(()),
        Some(at) => Err(format!("resolved urls: {:?} != {:?}", ones[at], others[at])),
    }
}

async fn look_up_all(urls: &[String], until: Instant) -> Result<Vec<String>, String> {
    join_all(urls.iter().map(|url| look_up(url, until))).await.into_iter().collect()
}

/// The URL with its host's address in place of the name; like Go, an IPv4 one if there is any. `localhost` stays.
async fn look_up(url: &str, until: Instant) -> Result<String, String> {
    let Some((scheme @ ("http" | "https"), authority)) = url.split_once("://") else {
        return Ok(url.to_owned());
    };
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    if host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Ok(url.to_owned());
    }
    loop {
        let found = tokio::time::timeout_at(until, tokio::net::lookup_host(authority)).await;
        let error = match found {
            Ok(Ok(addresses)) => {
                let mut addresses: Vec<_> = addresses.collect();
                addresses.sort_by_key(|address| !address.is_ipv4());
                match addresses.first() {
                    Some(address) => return Ok(format!("{scheme}://{address}")),
                    None => format!("lookup {host}: no such host"),
                }
            }
            Ok(Err(error)) => format!("lookup {host}: {error}"),
            Err(_) => return Err("context deadline exceeded".to_owned()),
        };
        if Instant::now() + LOOKUP_PAUSE >= until {
            return Err(error);
        }
        sleep_until(Instant::now() + LOOKUP_PAUSE).await;
    }
}

/// Members whose cluster version this one understands, at least one of them, and none whose it does not (etcd's
/// `isCompatibleWithCluster`). During a downgrade only what is one minor above can be joined.
async fn check_versions(
    config: &Config,
    existing: &[Member],
    own: u64,
    log: &slog::Logger,
) -> anyhow::Result<()> {
    let election = config.heartbeat * u32::try_from(config.election_ticks).unwrap_or(u32::MAX);
    let limit = raft_node::Options::request_timeout(election);
    let others: Vec<&Member> = existing.iter().filter(|member| member.id != own).collect();
    let versions = join_all(others.iter().map(|member| cluster_version(member, limit, log))).await;
    let downgraded = is_downgraded(&others, log).await;
    let mut found: Vec<ClusterVersion> = Vec::new();
    for (member, version) in others.iter().zip(versions) {
        let Some(version) = version else { continue };
        match ClusterVersion::parse(&version) {
            Some(version) => found.push(version),
            None => slog::warn!(log, "failed to parse cluster version of remote member";
                "remote-member-id" => format!("{:x}", member.id), "remote-member-cluster-version" => version),
        }
    }
    if let Err(reason) = are_compatible(&found, downgraded) {
        slog::warn!(log, "cluster version of remote member is not compatible"; "reason" => reason);
        bail!("incompatible with current running cluster");
    }
    Ok(())
}

fn are_compatible(found: &[ClusterVersion], downgraded: bool) -> Result<(), String> {
    let own = ClusterVersion::parse(ETCD_VERSION).expect("our version is one");
    let (min, max) = if downgraded {
        let above = ClusterVersion { minor: own.minor + 1, ..own };
        (above, above)
    } else {
        (ClusterVersion { minor: 0, ..own }, own)
    };
    if found.is_empty() {
        return Err("no member has one".to_owned());
    }
    match found.iter().find(|version| **version < min || max < **version) {
        Some(version) => Err(format!("{version} is not from {min} to {max}")),
        None => Ok(()),
    }
}

/// What this member says of the cluster's version.
async fn cluster_version(member: &Member, limit: Duration, log: &slog::Logger) -> Option<String> {
    for url in &member.peer_urls {
        match transport::fetch_version(url, limit).await {
            Ok(versions) => return Some(versions.etcdcluster),
            Err(error) => slog::warn!(log, "failed to reach the peer URL";
                "remote-member-id" => format!("{:x}", member.id), "error" => %error),
        }
    }
    None
}

/// Whether a downgrade is in progress, in the words of the first that answers; its answer is linearizable.
async fn is_downgraded(members: &[&Member], log: &slog::Logger) -> bool {
    for member in members {
        for url in &member.peer_urls {
            match transport::fetch_downgrade_enabled(url, DOWNGRADE_MAX).await {
                Ok(enabled) => return enabled,
                Err(error) => slog::warn!(log, "failed to get downgrade enabled status";
                    "remote-member-id" => format!("{:x}", member.id), "error" => %error),
            }
        }
    }
    false
}

/// The cluster as Go prints it.
fn in_gos_words(cluster: &RemoteCluster) -> String {
    let member = |member: &Member| {
        format!(
            "&{{ID:{:x} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} ClientURLs:[{}]}}}}",
            member.id,
            member.peer_urls.join(" "),
            member.is_learner,
            member.name,
            member.client_urls.join(" ")
        )
    };
    let members: Vec<String> = cluster.members.iter().map(member).collect();
    format!("{{ClusterID:{:x} Members:[{}] RemovedMemberIDs:[]}}", cluster.cluster, members.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cluster;

    fn existing(lists: &[&[&str]]) -> Vec<Member> {
        let member = |(id, urls): (u64, &&[&str])| {
            let peer_urls = urls.iter().map(|url| (*url).to_owned()).collect();
            Member { id, peer_urls, ..Member::default() }
        };
        (1..).zip(lists).map(member).collect()
    }

    async fn found(configured: &str, lists: &[&[&str]]) -> Result<u64, String> {
        let cluster = Cluster::parse("http://127.0.0.1:1", configured, "t").expect("a configuration");
        let existing = existing(lists);
        find_own("b", &cluster.members, &existing)
            .await
            .map(|own| own.id)
            .map_err(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn members_are_known_by_their_urls_in_whatever_order() {
        let lists: &[&[&str]] = &[&["http://127.0.0.1:3", "http://127.0.0.1:2"], &["http://127.0.0.1:1"]];
        let configured = "a=http://127.0.0.1:1,b=http://127.0.0.1:2,b=http://127.0.0.1:3";
        assert_eq!(found(configured, lists).await, Ok(1));
        assert_eq!(found("b=http://127.0.0.1:1", lists).await, Err("member count is unequal".to_owned()));
        let text = "PeerURLs: no match found for existing member (1, [http://127.0.0.1:3 http://127.0.0.1:2]), last \
                    resolver error (resolved urls: \"http://127.0.0.1:2\" != \"http://127.0.0.1:4\")";
        let configured = "a=http://127.0.0.1:1,b=http://127.0.0.1:4,b=http://127.0.0.1:5";
        assert_eq!(found(configured, lists).await, Err(text.to_owned()));
        let text = "PeerURLs: no match found for existing member (1, [http://127.0.0.1:3 http://127.0.0.1:2]), last \
                    resolver error (len([\"http://127.0.0.1:2\" \"http://127.0.0.1:3\"]) != len([\"http://127.0.0.1:2\"]))";
        let configured = "a=http://127.0.0.1:1,b=http://127.0.0.1:2";
        assert_eq!(found(configured, lists).await, Err(text.to_owned()));
        // Two that are the same leave nobody to be.
        let lists: &[&[&str]] = &[&["http://127.0.0.1:1"], &["http://127.0.0.1:1"]];
        let text = "PeerURLs: no existing member is b";
        assert_eq!(found("a=http://127.0.0.1:1,b=http://127.0.0.1:2", lists).await, Err(text.to_owned()));
    }

    #[tokio::test]
    async fn localhost_and_addresses_are_not_looked_up() {
        for url in ["http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1", "unix://a:b"] {
            assert_eq!(look_up(url, Instant::now()).await, Ok(url.to_owned()));
        }
        let late = look_up("http://name.invalid:1", Instant::now()).await;
        assert!(late.is_err(), "{late:?}");
    }

    #[test]
    fn a_cluster_is_joined_only_in_a_version_that_is_understood() {
        let check = |found: &[&str], downgraded, expected| {
            let found: Vec<_> =
                found.iter().map(|text| ClusterVersion::parse(text).expect("a version")).collect();
            assert_eq!(are_compatible(&found, downgraded).is_ok(), expected, "{found:?} {downgraded}");
        };
        check(&["3.7.0"], false, true);
        check(&["3.0.0", "3.7.0"], false, true);
        check(&["3.7.0", "3.8.0"], false, false);
        check(&["2.3.0"], false, false);
        check(&["4.0.0"], false, false);
        check(&[], false, false);
        check(&["3.7.0"], true, false);
        check(&["3.8.0"], true, true);
    }

    #[test]
    fn a_cluster_reads_as_go_prints_it() {
        let cluster = RemoteCluster { cluster: 0xab, members: existing(&[&["http://a:1", "http://b:1"]]) };
        let text = "{ClusterID:ab Members:[&{ID:1 RaftAttributes:{PeerURLs:[http://a:1 http://b:1] IsLearner:false} \
                    Attributes:{Name: ClientURLs:[]}}] RemovedMemberIDs:[]}";
        assert_eq!(in_gos_words(&cluster), text);
    }
}
