//! What a member does besides answering: it publishes itself, and as a leader it agrees on the cluster's version. Here
//! it asks the others; `raft_node::publish` decides and proposes.

use crate::ETCD_VERSION;
use machine::{ClusterVersion, Membership, Shared};
use raft_node::{Handle, ProposeError, publish};
use std::sync::Arc;
use std::time::Duration;

const VERSION_ANSWER_MAX: Duration = Duration::from_secs(2);

/// Tells the cluster this member's name and client URLs. Returns when that is applied here; fails when the node ends. One
/// that joins waits until it has applied that it was added: before, it would publish itself again and again.
pub(crate) async fn publish_member(
    node: &Handle,
    name: &str,
    client_urls: &[String],
    log: &slog::Logger,
) -> Result<(), ProposeError> {
    let (machine, me) = (node.machine(), node.options().member);
    let is_member = |_: &u64| machine.membership().members.contains_key(&me);
    node.watch_applied().wait_for(is_member).await.map_err(|_| ProposeError::Stopped)?;
    publish::attributes(node, name, client_urls).await?;
    slog::info!(log, "published local member to cluster through raft";
        "local-member-id" => format!("{:x}", node.options().member), "name" => name);
    Ok(())
}

/// As long as this member leads, keeps the cluster's version at what every member can do, raised to `max` at most
/// (`--max-cluster-version`). Ends with the node.
pub(crate) async fn agree_on_version(
    node: Handle,
    shared: Arc<Shared>,
    max: Option<ClusterVersion>,
    log: slog::Logger,
) {
    let mut leadership = node.watch_leader();
    loop {
        if node.status().is_leader {
            let membership = shared.membership();
            let versions = versions(&membership, node.options().member).await;
            let (current, downgrade) = (membership.cluster_version.as_deref(), membership.downgrade.as_ref());
            match publish::decide_version(current, downgrade, &versions, max) {
                Ok(Some(version)) => propose(&node, version, &log).await,
                Ok(None) => {}
                Err(error) => slog::error!(log, "failed to monitor cluster version"; "error" => %error),
            }
        }
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(publish::VERSION_INTERVAL) => {}
        }
    }
}

async fn propose(node: &Handle, version: String, log: &slog::Logger) {
    match publish::cluster_version(node, version.clone()).await {
        Ok(()) => slog::info!(log, "updated cluster version"; "cluster-version" => version),
        Err(error) => slog::warn!(log, "failed to update cluster version"; "error" => %error),
    }
}

/// As long as this member leads, ends a downgrade once every member runs its target. Ends with the node.
pub(crate) async fn end_downgrade(node: Handle, shared: Arc<Shared>, every: Duration, log: slog::Logger) {
    let mut ended = node.watch_ended();
    loop {
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => return,
            () = tokio::time::sleep(every) => {}
        }
        let membership = shared.membership();
        let Some(job) = membership.downgrade.as_ref().filter(|job| job.enabled) else { continue };
        if !node.status().is_leader {
            continue;
        }
        let versions = versions(&membership, node.options().member).await;
        if !publish::is_downgraded(&job.target_version, &versions) {
            continue;
        }
        slog::info!(log, "the cluster has been downgraded"; "cluster-version" => &job.target_version);
        if let Err(error) = publish::downgrade(&node, None, None).await {
            slog::warn!(log, "failed to cancel downgrade"; "error" => %error);
        }
    }
}

/// How often a leader looks whether a learner has caught up.
const PROMOTION_INTERVAL: Duration = Duration::from_secs(1);

/// As long as this member leads, promotes learners that have caught up (`--auto-promote-learners`). Ends with the node.
pub(crate) async fn promote_learners(node: Handle, log: slog::Logger) {
    let mut ended = node.watch_ended();
    loop {
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => return,
            () = tokio::time::sleep(PROMOTION_INTERVAL) => {}
        }
        for learner in node.learners_in_step() {
            let id = format!("{learner:x}");
            match node.promote_as_leader(learner, None).await {
                Ok(_) => slog::info!(log, "promoted a learner that has caught up"; "member" => id),
                Err(error) => {
                    slog::warn!(log, "cannot promote a learner"; "member" => id, "error" => %error);
                }
            }
        }
    }
}

async fn versions(membership: &Membership, me: u64) -> publish::Versions {
    let asked = membership.members.values().map(|member| async move {
        let version =
            if member.id == me { Some(ETCD_VERSION.to_owned()) } else { ask(&member.peer_urls).await };
        (member.id, version)
    });
    futures::future::join_all(asked).await.into_iter().collect()
}

async fn ask(urls: &[String]) -> Option<String> {
    for url in urls {
        if let Ok(versions) = transport::fetch_version(url, VERSION_ANSWER_MAX).await {
            return Some(versions.etcdserver);
        }
    }
    None
}

/// The JSON of etcd's `/version` page.
pub(crate) fn version_json(membership: &Membership) -> String {
    let cluster = membership.cluster_version.as_deref();
    let cluster_text = cluster.unwrap_or("not_decided");
    let storage = cluster.filter(|version| *version != publish::CLUSTER_VERSION_MIN).unwrap_or("unknown");
    format!(r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{cluster_text}","storage":"{storage}"}}"#)
}
