//! Questions to other members: who is in the cluster, which version do you run.
//!
//! etcd `etcdserver/cluster_util.go`. One connection a question; these are asked at bootstrap and every few seconds.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    headers::{CLEARED, CLUSTER_ID, LEASE_CHECKPOINTS, parse_id, text},
    limits::Limits,
    post::{Call, Client, Reply},
};

/// A member as `/members` shows it, and as conf changes carry it. Keys in etcd's order; empty ones are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberJson {
    /// The member's ID, a JSON number up to 2^64 - 1.
    pub id: u64,
    /// Where peers reach it.
    #[serde(rename = "peerURLs", default, deserialize_with = "null_is_empty")]
    pub peer_urls: Vec<String>,
    /// Whether it does not vote yet.
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Its name, once it has started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it, once it has started.
    #[serde(
        rename = "clientURLs",
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub client_urls: Vec<String>,
}

/// Go writes an empty list as null.
fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `/version`'s JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// What the member runs, `3.7.3`.
    pub etcdserver: String,
    /// What the cluster has agreed on, or `not_decided`.
    pub etcdcluster: String,
    /// What the member's data is, or `unknown`. Members before 3.6 do not say.
    #[serde(default)]
    pub storage: String,
}

/// A cluster as one of its members describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCluster {
    /// The cluster's ID.
    pub cluster: u64,
    /// Its members, as listed.
    pub members: Vec<MemberJson>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No connection, or no complete answer in time.
    #[error("{url}: {cause}")]
    Unreachable {
        /// The URL asked.
        url: String,
        /// What went wrong.
        cause: String,
    },
    /// An answer that is not what was asked for.
    #[error("{url}: {cause}")]
    Malformed {
        /// The URL asked.
        url: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A member answered that there are no members.
    #[error("failed to get raft cluster member(s) from the given URLs")]
    NoMembers,
    /// None of the URLs answered. Holds what the last one said.
    #[error("could not retrieve cluster information from the given URLs ({0})")]
    Nobody(String),
}

/// The member list and cluster ID from the first of these peer URLs that answers, each within `limit`.
pub async fn fetch_members(urls: &[String], limit: Duration) -> Result<RemoteCluster, FetchError> {
    let mut last = "no URL was given".to_owned();
    for url in urls {
        match members_of(url, limit).await {
            Ok(found) if found.members.is_empty() => return Err(FetchError::NoMembers),
            Ok(found) => return Ok(found),
            Err(e) => last = e.to_string(),
        }
    }
    Err(FetchError::Nobody(last))
}

async fn members_of(url: &str, limit: Duration) -> Result<RemoteCluster, FetchError> {
    let reply = get(url, "/members", limit).await?;
    let members = parse(url, &reply)?;
    let cluster =
        parse_id(text(&reply.headers, &CLUSTER_ID)).filter(|_| reply.headers.contains_key(CLUSTER_ID));
    let cluster = cluster.ok_or_else(|| malformed(url, "no X-Etcd-Cluster-ID"))?;
    Ok(RemoteCluster { cluster, members })
}

/// What this member runs and what it thinks of the cluster.
pub async fn fetch_version(url: &str, limit: Duration) -> Result<Versions, FetchError> {
    let reply = get(url, "/version", limit).await?;
    parse(url, &reply)
}

/// Whether this member, when it renews a lease, clears what a checkpoint left of it.
pub async fn fetch_clears_checkpoints(url: &str, limit: Duration) -> Result<bool, FetchError> {
    let reply = get(url, "/version", limit).await?;
    Ok(text(&reply.headers, &LEASE_CHECKPOINTS) == CLEARED)
}

/// Whether this member says that a downgrade is in progress.
pub async fn fetch_downgrade_enabled(url: &str, limit: Duration) -> Result<bool, FetchError> {
    let reply = get(url, "/downgrade/enabled", limit).await?;
    match reply.text().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(malformed(url, other)),
    }
}

async fn get(url: &str, path: &str, limit: Duration) -> Result<Reply, FetchError> {
    let call = Call { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new() };
    let reply = Client::new(&Limits::default()).call(url.trim_end_matches('/'), &call, limit).await;
    let reply = reply.map_err(|e| FetchError::Unreachable { url: url.to_owned(), cause: e.to_string() })?;
    match reply.status {
        StatusCode::OK => Ok(reply),
        status => Err(malformed(url, &format!("{status}: {}", reply.text()))),
    }
}

fn parse<T: serde::de::DeserializeOwned>(url: &str, reply: &Reply) -> Result<T, FetchError> {
    serde_json::from_slice(&reply.body).map_err(|e| malformed(url, &e.to_string()))
}

fn malformed(url: &str, cause: &str) -> FetchError {
    FetchError::Malformed { url: url.to_owned(), cause: cause.to_owned() }
}
