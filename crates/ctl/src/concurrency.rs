//! Sessions, mutexes and elections as clientv3's `concurrency` package makes them: the same keys in the same order, so
//! that its users and ours wait for each other.
//!
//! A session is a lease that is kept alive. Who waits owns a key under the name's prefix, with its lease's ID in
//! hexadecimal; the oldest key has the lock or the office.

use crate::client::{Client, Kind, RequestError};
use crate::failure::Failure;
use crate::run::kv;
use crate::text::words::end_of_prefix;
use crate::watches::{Seen, Watches, is_delete};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as Answer;
use proto::mvccpb::KeyValue;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

/// How long the first answer may take beyond the dial timeout.
const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// Between two tries to open a stream.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

/// Grants a lease of `ttl` seconds.
pub(crate) async fn grant(
    client: &Client,
    deadline: Option<Instant>,
    ttl: i64,
) -> Result<pb::LeaseGrantResponse, RequestError> {
    let request = pb::LeaseGrantRequest { ttl, id: 0 };
    client.call(deadline, Kind::Write, request, async |c, q| LeaseClient::new(c).lease_grant(q).await).await
}

struct KeepAlive {
    requests: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: Streaming<pb::LeaseKeepAliveResponse>,
}

/// Opens a stream with the first request in it: a server may say nothing at all before it has read one.
async fn open(client: &Client, id: i64) -> Result<KeepAlive, RequestError> {
    let channel = client.channel(None).await?;
    let (requests, receiver) = mpsc::channel(1);
    requests.try_send(pb::LeaseKeepAliveRequest { id }).expect("there is room for one");
    let mut opening = Request::new(ReceiverStream::new(receiver));
    opening.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
    let opened = LeaseClient::new(channel).lease_keep_alive(opening).await;
    let answers = opened.map_err(|status| RequestError::status(&status))?.into_inner();
    Ok(KeepAlive { requests, answers })
}

/// Renews a lease once.
pub(crate) async fn keep_alive_once(
    client: &Client,
    id: i64,
) -> Result<pb::LeaseKeepAliveResponse, RequestError> {
    loop {
        let renewed = async {
            let mut stream = open(client, id).await?;
            stream.answers.message().await.map_err(|status| RequestError::status(&status))
        };
        match renewed.await {
            Ok(Some(answer)) if answer.ttl <= 0 => {
                let lost = tonic::Status::not_found("etcdserver: requested lease not found");
                return Err(RequestError::status(&lost));
            }
            Ok(Some(answer)) => return Ok(answer),
            Err(error) if error.is_final() => return Err(error),
            Ok(None) | Err(_) => {
                client.leave();
                sleep(REOPEN_PAUSE).await;
            }
        }
    }
}

/// Renews a lease a third of its life after each renewal, until it is gone or was not renewed in its life.
pub(crate) async fn keep_alive(
    client: &Client,
    id: i64,
    mut renewed: impl FnMut(&pb::LeaseKeepAliveResponse) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut deadline = Instant::now() + client.settings().dial_timeout + FIRST_ANSWER;
    while Instant::now() < deadline {
        if let Ok(Ok(mut stream)) = timeout_at(deadline, open(client, id)).await {
            loop {
                let Ok(Ok(Some(answer))) = timeout_at(deadline, stream.answers.message()).await else {
                    break;
                };
                let Ok(life @ 1..) = u64::try_from(answer.ttl) else { return Ok(()) };
                renewed(&answer)?;
                deadline = Instant::now() + Duration::from_secs(life);
                sleep(Duration::from_secs(life) / 3).await;
                if stream.requests.send(pb::LeaseKeepAliveRequest { id }).await.is_err() {
                    break;
                }
            }
        }
        client.leave();
        sleep(REOPEN_PAUSE).await;
    }
    Ok(())
}

/// A key under a prefix that lives as long as its lease: a place in the queue.
#[derive(Debug)]
pub(crate) struct Place {
    /// `name/`.
    prefix: Vec<u8>,
    /// `name/<lease>`.
    pub(crate) key: Vec<u8>,
    /// When it was created.
    pub(crate) revision: i64,
}

impl Place {
    /// Takes a place in the queue of `name`, or finds the one that this lease has. `true` = it is the first one.
    pub(crate) async fn take(
        client: &Client,
        name: &[u8],
        value: &[u8],
        lease: i64,
    ) -> Result<(Self, bool), RequestError> {
        let prefix = [name, b"/"].concat();
        let key = [&prefix[..], format!("{lease:x}").as_bytes()].concat();
        let put = pb::PutRequest {
            key: key.clone().into(),
            value: value.to_vec().into(),
            lease,
            ..Default::default()
        };
        let own = pb::RangeRequest { key: key.clone().into(), ..Default::default() };
        let first = first_created(&prefix);
        let request = pb::TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: ops([Op::RequestPut(put), Op::RequestRange(first.clone())]),
            failure: ops([Op::RequestRange(own), Op::RequestRange(first)]),
        };
        let answer = kv::txn(client, None, request).await?;
        let pairs = |at: usize| match answer.responses.get(at).and_then(|op| op.response.as_ref()) {
            Some(Answer::ResponseRange(range)) => range.kvs.first(),
            _ => None,
        };
        let revision = match pairs(0) {
            Some(own) if !answer.succeeded => own.create_revision,
            _ => answer.header.map_or(0, |header| header.revision),
        };
        let is_first = pairs(1).is_none_or(|owner| owner.create_revision == revision);
        Ok((Self { prefix, key, revision }, is_first))
    }

    /// Waits until every older place is given up.
    pub(crate) async fn wait(&self, client: &Client) -> Result<(), RequestError> {
        loop {
            let mut last = first_created(&self.prefix);
            last.sort_order = SortOrder::Descend.into();
            last.max_create_revision = self.revision - 1;
            let answer = kv::range(client, None, last).await?;
            let Some(before) = answer.kvs.first() else { return Ok(()) };
            let revision = answer.header.map_or(0, |header| header.revision);
            wait_delete(client, before, revision).await?;
        }
    }

    /// What is in this place now; nothing if it was lost.
    pub(crate) async fn read(&self, client: &Client) -> Result<pb::RangeResponse, RequestError> {
        let own = pb::RangeRequest { key: self.key.clone().into(), ..Default::default() };
        kv::range(client, None, own).await
    }

    /// Gives it up, if it is still this one.
    pub(crate) async fn leave(&self, client: &Client) -> Result<(), RequestError> {
        let delete = pb::DeleteRangeRequest { key: self.key.clone().into(), ..Default::default() };
        let compare = vec![created_at(&self.key, self.revision)];
        let request =
            pb::TxnRequest { compare, success: ops([Op::RequestDeleteRange(delete)]), failure: Vec::new() };
        kv::txn(client, None, request).await.map(|_| ())
    }
}

fn ops<const N: usize>(ops: [Op; N]) -> Vec<pb::RequestOp> {
    ops.into_iter().map(|op| pb::RequestOp { request: Some(op) }).collect()
}

fn created_at(key: &[u8], revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.to_vec().into(),
        range_end: bytes::Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

/// The oldest key under a prefix.
pub(crate) fn first_created(prefix: &[u8]) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.to_vec().into(),
        range_end: end_of_prefix(prefix).into(),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

async fn wait_delete(client: &Client, before: &KeyValue, revision: i64) -> Result<(), RequestError> {
    let mut watches = Watches::new(client, false);
    let create =
        pb::WatchCreateRequest { key: before.key.clone(), start_revision: revision, ..Default::default() };
    watches.add(create).await;
    loop {
        for (_, seen) in watches.next().await {
            match seen {
                Seen::Answer(answer) if answer.events.iter().any(is_delete) => return Ok(()),
                Seen::Answer(_) => {}
                Seen::Lost(_, why) => return Err(RequestError::said(why)),
                Seen::Ended => return Err(RequestError::said("lost watcher waiting for delete".to_owned())),
            }
        }
    }
}
