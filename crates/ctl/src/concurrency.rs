//! Sessions, mutexes and elections with the keys of clientv3's `concurrency` package, so that its users and ours wait
//! for each other.
//!
//! A session is a lease that is kept alive. Each waiter has a key `<name>/<lease ID in hexadecimal>`; the oldest key
//! holds the lock or the leadership.

use crate::client::{Client, Kind, RequestError};
use crate::failure::Failure;
use crate::text::words::end_of_prefix;
use crate::watches::{Update, Watches};
use proto::EtcdError;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as Answer;
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

/// How long the first answer may take after the dial timeout.
const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// The pause between two tries to open a stream.
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

/// Opens a stream and sends the first request at once: a server may wait for one before it sends response headers.
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
                let lost = tonic::Status::from(EtcdError::LeaseNotFound);
                return Err(RequestError::status(&lost));
            }
            Ok(Some(answer)) => return Ok(answer),
            Err(error) if error.is_final() => return Err(error),
            Ok(None) | Err(_) => {
                client.fail_over();
                sleep(REOPEN_PAUSE).await;
            }
        }
    }
}

/// Renews a lease each third of its TTL, until it is gone or could not be renewed within its TTL.
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
        client.fail_over();
        sleep(REOPEN_PAUSE).await;
    }
    Ok(())
}

/// A place in the queue of a lock or an election: a key that lives as long as its lease.
#[derive(Debug)]
pub(crate) struct Place {
    /// The queue's prefix: `name/`.
    prefix: Vec<u8>,
    /// `name/<lease>`, the lease in hexadecimal.
    pub(crate) key: Vec<u8>,
    /// The key's create revision.
    pub(crate) revision: i64,
}

impl Place {
    /// Takes a place in the queue of `name`, or finds the one of this lease. Also returns whether it is the first.
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
        let answer = client.txn(None, request).await?;
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

    /// Waits until every older key is deleted.
    pub(crate) async fn wait(&self, client: &Client) -> Result<(), RequestError> {
        loop {
            let mut last = first_created(&self.prefix);
            last.sort_order = SortOrder::Descend.into();
            last.max_create_revision = self.revision - 1;
            let answer = client.range(None, last).await?;
            let Some(before) = answer.kvs.first() else { return Ok(()) };
            let revision = answer.header.map_or(0, |header| header.revision);
            wait_delete(client, before, revision).await?;
        }
    }

    /// Reads the key; there is none if the lease has expired.
    pub(crate) async fn read(&self, client: &Client) -> Result<pb::RangeResponse, RequestError> {
        let own = pb::RangeRequest { key: self.key.clone().into(), ..Default::default() };
        client.range(None, own).await
    }

    /// Deletes the key, if it is still the one that was created.
    pub(crate) async fn leave(&self, client: &Client) -> Result<(), RequestError> {
        let delete = pb::DeleteRangeRequest { key: self.key.clone().into(), ..Default::default() };
        let compare = vec![created_at(&self.key, self.revision)];
        let request =
            pb::TxnRequest { compare, success: ops([Op::RequestDeleteRange(delete)]), failure: Vec::new() };
        client.txn(None, request).await.map(|_| ())
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

/// Reads the oldest key under a prefix.
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
        for (_, update) in watches.next().await {
            match update {
                Update::Answer(answer)
                    if answer.events.iter().any(|event| event.r#type() == EventType::Delete) =>
                {
                    return Ok(());
                }
                Update::Answer(_) => {}
                Update::Lost(_, why) => return Err(RequestError::local(why)),
                Update::Ended => {
                    return Err(RequestError::local("lost watcher waiting for delete".to_owned()));
                }
            }
        }
    }
}
