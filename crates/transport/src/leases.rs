//! Questions to the leader about leases: keepalives and times to live that clients asked of another member.
//!
//! etcd `server/lease/leasehttp`: one POST a question, protobuf both ways, on connections that are kept. Whether the
//! other end is etcd's or ours makes no difference.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use prost::Message;
use proto::{etcdserverpb as pb, leasepb};

use crate::{
    limits::{LEASE_ANSWER_BYTES_MAX, LEASE_CLIENTS_KEPT},
    post::{Call, Client},
};

/// Where keepalives are posted to.
pub(crate) const KEEP_ALIVE: &str = "/leases";
/// Where questions about the time to live are posted to.
pub(crate) const TIME_TO_LIVE: &str = "/leases/internal";

/// Why a member has no answer to a question about a lease. The texts are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefusal {
    /// There is no such lease.
    #[error("lease not found")]
    NotFound,
    /// The member has not applied yet what is committed.
    #[error("waiting for node to catch up its applied index has timed out")]
    Behind,
    /// It is not the leader, or anything else.
    #[error("{0}")]
    Other(String),
}

/// The connections to one URL that nobody uses now.
#[derive(Default)]
pub(crate) struct Leases {
    idle: Mutex<HashMap<String, Vec<Client>>>,
}

impl Leases {
    /// Asks the member at this peer URL to renew a lease; its TTL in seconds.
    pub(crate) async fn renew(&self, url: &str, id: i64, limit: Duration) -> Result<i64, LeaseRefusal> {
        let question = pb::LeaseKeepAliveRequest { id };
        let answer: pb::LeaseKeepAliveResponse = self.ask(url, KEEP_ALIVE, &question, limit).await?;
        if answer.id != id {
            return Err(LeaseRefusal::Other("lease: renew id mismatch".to_owned()));
        }
        Ok(answer.ttl)
    }

    /// Asks the member at this peer URL for a lease's time to live, and for its keys.
    pub(crate) async fn time_to_live(
        &self,
        url: &str,
        id: i64,
        keys: bool,
        limit: Duration,
    ) -> Result<pb::LeaseTimeToLiveResponse, LeaseRefusal> {
        let question = leasepb::LeaseInternalRequest {
            lease_time_to_live_request: Some(pb::LeaseTimeToLiveRequest { id, keys }),
        };
        let answer: leasepb::LeaseInternalResponse = self.ask(url, TIME_TO_LIVE, &question, limit).await?;
        let answer = answer.lease_time_to_live_response.filter(|answer| answer.id == id);
        answer.ok_or_else(|| LeaseRefusal::Other("lease: TTL id mismatch".to_owned()))
    }

    async fn ask<A: Message + Default>(
        &self,
        url: &str,
        path: &str,
        question: &impl Message,
        limit: Duration,
    ) -> Result<A, LeaseRefusal> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
        let body = Bytes::from(question.encode_to_vec());
        let call = Call { method: Method::POST, path, headers, body };
        let url = url.trim_end_matches('/');
        let mut client = self.take(url);
        let reply = client.call(url, &call, limit).await.map_err(|error| other(&error))?;
        self.keep(url, client);
        match reply.status {
            StatusCode::OK => A::decode(reply.body).map_err(|error| other(&error)),
            StatusCode::NOT_FOUND => Err(LeaseRefusal::NotFound),
            StatusCode::REQUEST_TIMEOUT => Err(LeaseRefusal::Behind),
            _ => Err(LeaseRefusal::Other(format!("lease: unknown error({})", reply.text()))),
        }
    }

    fn take(&self, url: &str) -> Client {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(url).and_then(Vec::pop);
        kept.unwrap_or_else(|| Client::reading(LEASE_ANSWER_BYTES_MAX))
    }

    fn keep(&self, url: &str, client: Client) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        match idle.get_mut(url) {
            Some(clients) if clients.len() < LEASE_CLIENTS_KEPT => clients.push(client),
            Some(_) => {}
            None => {
                idle.insert(url.to_owned(), vec![client]);
            }
        }
    }
}

fn other(error: &impl std::fmt::Display) -> LeaseRefusal {
    LeaseRefusal::Other(error.to_string())
}
