//! Asks the leader to promote a learner (etcd `promoteMemberHTTP`).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use proto::{EtcdError, peer_text};
use types::Member;

use crate::{
    context::PromoteError,
    limits::Limits,
    post::{Call, Client, Reply},
};

/// Asks the member at this peer URL, on a connection of its own, to promote a learner within `limit`. Returns all members.
/// Whatever is none of etcd's refusals is [`PromoteError::Other`].
pub async fn ask_to_promote(url: &str, member: u64, limit: Duration) -> Result<Vec<Member>, PromoteError> {
    let path = format!("/members/promote/{member}");
    let call = Call { method: Method::POST, path: &path, headers: HeaderMap::new(), body: Bytes::new() };
    let reply = Client::new(&Limits::default()).call(url.trim_end_matches('/'), &call, limit).await;
    read(&reply.map_err(|error| PromoteError::Other(error.to_string()))?)
}

fn read(reply: &Reply) -> Result<Vec<Member>, PromoteError> {
    let text = reply.text();
    match reply.status {
        StatusCode::OK => {
            serde_json::from_slice(&reply.body).map_err(|error| PromoteError::Other(error.to_string()))
        }
        StatusCode::NOT_FOUND => Err(PromoteError::NotFound),
        // One status for two refusals.
        StatusCode::PRECONDITION_FAILED if text.contains(EtcdError::LearnerNotReady.text()) => {
            Err(PromoteError::NotReady)
        }
        StatusCode::PRECONDITION_FAILED if text.contains(peer_text::NOT_LEARNER) => {
            Err(PromoteError::NotLearner)
        }
        _ => Err(PromoteError::Other(text)),
    }
}
