//! A small client: one connection a member, one deadline a request, no retries.
//!
//! It hides nothing: a caller chooses the member and sees every error, because whether a write
//! may have happened is the caller's question.

use std::{
    collections::BTreeMap,
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use proto::etcdserverpb::{
    HashKvRequest, HashKvResponse, MoveLeaderRequest, PutRequest, PutResponse, RangeRequest, RangeResponse,
    RequestOp, StatusRequest, StatusResponse, TxnRequest, TxnResponse, kv_client::KvClient,
    lease_client::LeaseClient, maintenance_client::MaintenanceClient, request_op,
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

/// A refused connection is known at once on one machine; a paused process is not.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// For questions that are not part of a measurement.
const PATIENT: Duration = Duration::from_secs(5);

/// Pause between two looks at a cluster that is not there yet.
const POLL: Duration = Duration::from_millis(20);

/// A 64 MiB answer is more than anything here asks for.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Connections to the members of one cluster, cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    members: Vec<Connection>,
}

#[derive(Debug, Clone)]
struct Connection {
    channel: Channel,
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
}

impl Client {
    /// Connects when first used, and again after each loss. Needs a tokio runtime around it.
    pub fn new(urls: impl IntoIterator<Item = String>) -> Self {
        let members = urls.into_iter().map(|url| {
            let channel = Endpoint::from_shared(url)
                .expect("the harness makes its own URLs")
                .connect_timeout(CONNECT_LIMIT)
                .tcp_nodelay(true)
                .connect_lazy();
            Connection {
                kv: KvClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX),
                lease: LeaseClient::new(channel.clone()),
                maintenance: MaintenanceClient::new(channel.clone()),
                channel,
            }
        });
        Self { members: members.collect() }
    }

    /// How many members it knows.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The KV service of one member, for requests of any shape.
    pub fn kv(&self, member: usize) -> KvClient<Channel> {
        self.members[member].kv.clone()
    }

    /// The lease service of one member.
    pub fn lease(&self, member: usize) -> LeaseClient<Channel> {
        self.members[member].lease.clone()
    }

    /// The maintenance service of one member.
    pub fn maintenance(&self, member: usize) -> MaintenanceClient<Channel> {
        self.members[member].maintenance.clone()
    }

    /// The connection to one member, for the services that have no method of their own here.
    pub fn channel(&self, member: usize) -> Channel {
        self.members[member].channel.clone()
    }

    /// Put at one member.
    pub async fn put(&self, at: usize, put: PutRequest, limit: Duration) -> Result<PutResponse, Status> {
        let mut kv = self.kv(at);
        within(limit, kv.put(put)).await
    }

    /// Txn at one member.
    pub async fn txn(&self, at: usize, txn: TxnRequest, limit: Duration) -> Result<TxnResponse, Status> {
        let mut kv = self.kv(at);
        within(limit, kv.txn(txn)).await
    }

    /// Range at one member.
    pub async fn range(
        &self,
        at: usize,
        range: RangeRequest,
        limit: Duration,
    ) -> Result<RangeResponse, Status> {
        let mut kv = self.kv(at);
        within(limit, kv.range(range)).await
    }

    /// What one member says of itself.
    pub async fn status(&self, at: usize) -> Result<StatusResponse, Status> {
        let mut maintenance = self.maintenance(at);
        within(PATIENT, maintenance.status(StatusRequest {})).await
    }

    /// The hash over one member's keys up to `revision` (0 = now), and the revision it is of.
    pub async fn hash_kv(&self, at: usize, revision: i64) -> Result<(u32, i64), Status> {
        let answer = self.hash_answer(at, revision).await?;
        Ok((answer.hash, answer.hash_revision))
    }

    async fn hash_answer(&self, at: usize, revision: i64) -> Result<HashKvResponse, Status> {
        let mut maintenance = self.maintenance(at);
        within(PATIENT, maintenance.hash_kv(HashKvRequest { revision })).await
    }

    /// The member that leads, in the words of the member with the highest term; `None` when
    /// there is none, or none that answers.
    pub async fn leader(&self) -> Option<usize> {
        let mut ids = BTreeMap::new();
        let mut newest = (0, 0);
        let all = (0..self.size()).map(|at| {
            let client = self.clone();
            tokio::spawn(async move { (at, tokio::time::timeout(CONNECT_LIMIT, client.status(at)).await) })
        });
        for asked in all.collect::<Vec<_>>() {
            let Ok((at, Ok(Ok(status)))) = asked.await else { continue };
            ids.insert(status.header.map_or(0, |header| header.member_id), at);
            newest = newest.max((status.raft_term, status.leader));
        }
        ids.get(&newest.1).copied()
    }

    /// Hands leadership to one member, from whoever has it, and waits until it leads.
    pub async fn make_leader(&self, to: usize, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        let id = self.status(to).await?.header.map_or(0, |header| header.member_id);
        let mut last = String::new();
        while Instant::now() < deadline {
            match self.leader().await {
                Some(leader) if leader == to => return Ok(()),
                Some(leader) => {
                    let mut maintenance = self.maintenance(leader);
                    let ask = MoveLeaderRequest { target_id: id };
                    if let Err(error) = within(PATIENT, maintenance.move_leader(ask)).await {
                        error.message().clone_into(&mut last);
                    }
                }
                None => {}
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("member {to} does not lead after {limit:?}: {last:?}")
    }

    /// Waits until some member leads.
    pub async fn wait_leader(&self, limit: Duration) -> anyhow::Result<usize> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(leader) = self.leader().await {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                bail!("no member leads after {limit:?}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The newest revision, asked for with a linearizable read of the first member that answers.
    pub async fn revision(&self, limit: Duration) -> anyhow::Result<i64> {
        let deadline = Instant::now() + limit;
        for at in (0..self.size()).cycle() {
            let nothing = RangeRequest { key: Bytes::from_static(b"\0"), ..Default::default() };
            let error = match self.range(at, nothing, PATIENT).await {
                Ok(answer) => return Ok(answer.header.map_or(0, |header| header.revision)),
                Err(error) => error,
            };
            if Instant::now() > deadline {
                bail!("no member answers a linearizable read after {limit:?}: {}", error.message());
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("this client knows no member")
    }

    /// Waits until every member has applied `revision`, then compares their hashes at it, which can be compared only where
    /// the same is compacted: a compaction may reach the members one after the other. Returns the hash they share.
    ///
    /// Not for the revision of a compaction in a cluster with etcd in it: see [`Client::hashes`].
    pub async fn same_hash(&self, revision: i64, limit: Duration) -> anyhow::Result<u32> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answers = self.hashes(revision, left).await?;
            let first = answers.first().context("this client knows no member")?;
            if answers.iter().all(|answer| answer.hash == first.hash) {
                return Ok(first.hash);
            }
            let comparable = answers.iter().all(|answer| answer.compact_revision == first.compact_revision);
            if comparable || Instant::now() > deadline {
                bail!("members differ at revision {revision}: {answers:#?}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Every member's hash at `revision`, once all have come that far, in order of members.
    ///
    /// At the revision of a compaction a member answers the hash that the compaction left, of the history since the one
    /// before (its `compact_revision`), or, if it kept none, one of what remains (`compact_revision` = `revision`). etcd
    /// keeps none of a compaction that is asked for while the one before still runs (`store.compact`), so its members,
    /// too, compare only hashes with the same `compact_revision` (`corruptionChecker.checkPeerHashes`).
    pub async fn hashes(&self, revision: i64, limit: Duration) -> anyhow::Result<Vec<HashKvResponse>> {
        let deadline = Instant::now() + limit;
        let mut answers = Vec::new();
        for at in 0..self.size() {
            answers.push(self.hash_when_there(at, revision, deadline).await?);
        }
        Ok(answers)
    }

    /// One member's hash at `revision`, once it has come that far.
    async fn hash_when_there(
        &self,
        at: usize,
        revision: i64,
        deadline: Instant,
    ) -> anyhow::Result<HashKvResponse> {
        loop {
            let error = match self.hash_answer(at, revision).await {
                // etcd 3.5 does not say of which revision it is: of the one that was asked for, or it is an error.
                Ok(answer) if [0, revision].contains(&answer.hash_revision) => return Ok(answer),
                Ok(answer) => format!("it hashed revision {}", answer.hash_revision),
                Err(error) => error.message().to_owned(),
            };
            if Instant::now() > deadline {
                bail!("member {at} did not come to revision {revision} in time: {error}");
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A transaction of these puts, whatever is there.
pub fn txn_of_puts(puts: impl IntoIterator<Item = PutRequest>) -> TxnRequest {
    let request = |put| RequestOp { request: Some(request_op::Request::RequestPut(put)) };
    TxnRequest { success: puts.into_iter().map(request).collect(), ..Default::default() }
}

/// The end of the range of all keys that begin with `prefix`.
pub fn end_of_prefix(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::new(Code::DeadlineExceeded, format!("no answer within {limit:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_string_that_does_not_have_it() {
        for (prefix, end) in [(&b"a"[..], &b"b"[..]), (b"a\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0")] {
            assert_eq!(end_of_prefix(prefix), end);
        }
    }
}
