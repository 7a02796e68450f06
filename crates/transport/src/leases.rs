//! Forwards keepalives and time-to-live requests for leases to the leader (etcd `server/lease/leasehttp`): POSTs with
//! protobuf in both directions, on a connection that is kept.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use prost::Message;
use proto::{etcdserverpb as pb, leasepb, peer_text};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::{
    limits::Limits,
    post::{Call, Client, Reply},
};

pub(crate) const KEEP_ALIVE: &str = "/leases";
pub(crate) const TIME_TO_LIVE: &str = "/leases/internal";

/// Why a member refuses a request about a lease. The texts are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefusal {
    /// No lease has this ID.
    #[error("{}", peer_text::LEASE_NOT_FOUND)]
    NotFound,
    /// The member has not applied all committed entries yet.
    #[error("{}", peer_text::BEHIND)]
    Behind,
    /// It is not the leader, or any other error.
    #[error("{0}")]
    Other(String),
}

/// Connections to current and former leaders, by peer URL.
pub(crate) struct Leases {
    pools: Mutex<HashMap<String, Arc<Pool>>>,
    limits: Limits,
}

struct Pool {
    /// Limits the connections: clients that keep thousands of leases alive must not use up those that the leader
    /// accepts.
    turns: Semaphore,
    idle: Mutex<Vec<Client>>,
}

impl Leases {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { pools: Mutex::default(), limits: limits.clone() }
    }

    pub(crate) async fn renew(&self, url: &str, id: i64, limit: Duration) -> Result<i64, LeaseRefusal> {
        let question = pb::LeaseKeepAliveRequest { id };
        let answer: pb::LeaseKeepAliveResponse = self.ask(url, KEEP_ALIVE, &question, limit).await?;
        if answer.id != id {
            return Err(LeaseRefusal::Other("lease: renew id mismatch".to_owned()));
        }
        Ok(answer.ttl)
    }

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
        let reply =
            self.pool(url).call(url, &call, limit, &self.limits).await.map_err(|error| other(&error))?;
        match reply.status {
            StatusCode::OK => A::decode(reply.body).map_err(|error| other(&error)),
            StatusCode::NOT_FOUND => Err(LeaseRefusal::NotFound),
            StatusCode::REQUEST_TIMEOUT => Err(LeaseRefusal::Behind),
            _ => Err(LeaseRefusal::Other(format!("lease: unknown error({})", reply.text()))),
        }
    }

    fn pool(&self, url: &str) -> Arc<Pool> {
        let mut pools = types::lock(&self.pools);
        if !pools.contains_key(url) && pools.len() >= self.limits.lease_urls.max(1) {
            // Drop those that are not in use: former leaders, or their former URLs.
            pools.retain(|_, pool| Arc::strong_count(pool) > 1);
        }
        let turns = self.limits.lease_questions.max(1);
        let fresh = || Arc::new(Pool { turns: Semaphore::new(turns), idle: Mutex::default() });
        Arc::clone(pools.entry(url.to_owned()).or_insert_with(fresh))
    }
}

impl Pool {
    /// Waits for a turn and sends the request, both within `limit`.
    async fn call(&self, url: &str, call: &Call<'_>, limit: Duration, limits: &Limits) -> io::Result<Reply> {
        let deadline = Instant::now() + limit;
        let turn = timeout_at(deadline, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no turn to ask"));
        };
        let mut client =
            self.idle().pop().unwrap_or_else(|| Client::new(limits).reading(limits.lease_answer_bytes));
        let reply = client.call(url, call, deadline.saturating_duration_since(Instant::now())).await?;
        self.idle().push(client);
        Ok(reply)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Client>> {
        types::lock(&self.idle)
    }
}

fn other(error: &impl std::fmt::Display) -> LeaseRefusal {
    LeaseRefusal::Other(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    /// Answers every question of one connection with the TTL 7 of lease 1, after a moment.
    async fn answer(mut stream: tokio::net::TcpStream) {
        let body = pb::LeaseKeepAliveResponse { header: None, id: 1, ttl: 7 }.encode_to_vec();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut question = [0; 1024];
        while stream.read(&mut question).await.is_ok_and(|length| length > 0) {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if stream.write_all(&[head.as_bytes(), &body].concat()).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn questions_take_turns_so_that_they_leave_connections_to_raft() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(answer(stream));
            }
        });
        let leases = Arc::new(Leases::new(&Limits::default()));
        let questions: Vec<_> = (0..5 * Limits::default().lease_questions)
            .map(|_| {
                let (leases, url) = (Arc::clone(&leases), url.clone());
                tokio::spawn(async move { leases.renew(&url, 1, Duration::from_secs(10)).await })
            })
            .collect();
        for question in questions {
            assert_eq!(question.await.expect("it ends"), Ok(7));
        }
        let accepted = accepted.load(Ordering::Relaxed);
        assert!(accepted <= Limits::default().lease_questions, "{accepted} connections");
        assert_eq!(leases.pool(url.trim_end_matches('/')).idle().len(), accepted, "all are kept");
    }

    #[tokio::test]
    async fn who_gets_no_turn_is_told_within_its_limit() {
        let leases = Leases::new(&Limits { lease_questions: 1, ..Limits::default() });
        let pool = leases.pool("http://127.0.0.1:1");
        let _all = pool.turns.acquire().await.expect("open");
        let answer = leases.renew("http://127.0.0.1:1/", 1, Duration::from_millis(20)).await;
        assert_eq!(answer, Err(LeaseRefusal::Other("no turn to ask".to_owned())));
    }

    #[test]
    fn ways_to_former_leaders_give_way() {
        let leases = Leases::new(&Limits { lease_urls: 3, ..Limits::default() });
        let used = leases.pool("http://a:1");
        for number in 0..100 {
            leases.pool(&format!("http://b:{number}"));
            assert!(leases.pools.lock().unwrap().len() <= 3);
        }
        assert!(Arc::ptr_eq(&used, &leases.pool("http://a:1")));
    }
}
