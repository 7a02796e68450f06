//! Requests to other members for member list and version (etcd `etcdserver/cluster_util.go`), each on its own
//! connection.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};
use types::Member;

use crate::{
    headers::{CLEARED, CLUSTER_ID, LEASE_CHECKPOINTS, parse_id, text},
    limits::Limits,
    post::{Call, Client, Reply},
};

/// The JSON of `/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The version of the member, such as `3.7.3`.
    pub etcdserver: String,
    /// The cluster version, or `not_decided`.
    pub etcdcluster: String,
    /// The storage version, or `unknown`; empty from members before 3.6.
    #[serde(default)]
    pub storage: String,
}

/// A cluster as reported by one of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCluster {
    /// The ID of the cluster.
    pub cluster: u64,
    /// Its members, as listed.
    pub members: Vec<Member>,
}

/// Why a request to other members failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No connection, no complete response in time, or a response that is not as expected.
    #[error("{url}: {cause}")]
    NoAnswer {
        /// The URL of the request.
        url: String,
        /// The error of the connection, or what is wrong with the response.
        cause: String,
    },
    /// The member list is empty.
    #[error("failed to get raft cluster member(s) from the given URLs")]
    NoMembers,
    /// None of the URLs answered. Holds the error of the last one.
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
    let cluster = cluster.ok_or_else(|| no_answer(url, "no X-Etcd-Cluster-ID"))?;
    Ok(RemoteCluster { cluster, members })
}

/// The versions that this member reports.
pub async fn fetch_version(url: &str, limit: Duration) -> Result<Versions, FetchError> {
    let reply = get(url, "/version", limit).await?;
    parse(url, &reply)
}

/// Whether this member clears the checkpointed remaining TTL of a lease when it renews it.
pub async fn fetch_clears_checkpoints(url: &str, limit: Duration) -> Result<bool, FetchError> {
    let reply = get(url, "/version", limit).await?;
    Ok(text(&reply.headers, &LEASE_CHECKPOINTS) == CLEARED)
}

/// Whether a downgrade is in progress, in the words of this member.
pub async fn fetch_downgrade_enabled(url: &str, limit: Duration) -> Result<bool, FetchError> {
    let reply = get(url, "/downgrade/enabled", limit).await?;
    match reply.text().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(no_answer(url, &format!("neither true nor false: {other:?}"))),
    }
}

pub(crate) async fn get(url: &str, path: &str, limit: Duration) -> Result<Reply, FetchError> {
    let call = Call { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new() };
    let reply = Client::new(&Limits::default()).call(url.trim_end_matches('/'), &call, limit).await;
    let reply = reply.map_err(|e| no_answer(url, &e.to_string()))?;
    match reply.status {
        StatusCode::OK => Ok(reply),
        status => Err(no_answer(url, &format!("{status}: {}", reply.text()))),
    }
}

fn parse<T: serde::de::DeserializeOwned>(url: &str, reply: &Reply) -> Result<T, FetchError> {
    serde_json::from_slice(&reply.body).map_err(|e| no_answer(url, &e.to_string()))
}

fn no_answer(url: &str, cause: &str) -> FetchError {
    FetchError::NoAnswer { url: url.to_owned(), cause: cause.to_owned() }
}
