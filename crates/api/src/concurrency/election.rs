//! `v3electionpb.Election`, with the steps of clientv3's `Election`.

use super::{
    Caller, Candidate, Withdrawal, by_creation, created, created_at, key_of, prefix, put, ranged,
    resignation, revision_of, within,
};
use crate::{deadline::Deadline, state::Api, watch::Local};
use bytes::Bytes;
use proto::{
    etcdserverpb::{ResponseHeader, TxnRequest},
    mvccpb::{KeyValue, event::EventType},
    v3electionpb::{
        CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
        ProclaimResponse, ResignRequest, ResignResponse,
    },
};
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;
use types::KeyRange;

/// `Campaign`: responds when the caller leads.
pub(crate) async fn campaign(
    api: &Arc<Api>,
    deadline: Deadline,
    request: CampaignRequest,
) -> Result<CampaignResponse, Status> {
    within(deadline, run(Caller { api, deadline }, request)).await
}

async fn run(caller: Caller<'_>, request: CampaignRequest) -> Result<CampaignResponse, Status> {
    let lease = caller.session(request.lease).await?;
    let prefix = prefix(&request.name);
    let key = key_of(&prefix, lease);
    let (header, rev) = nominate(&caller, &key, request.value, lease).await?;
    // A copy, so that a waiting call does not keep the request's buffer alive.
    let name = Bytes::copy_from_slice(&request.name);
    drop(request.name);
    let candidate = Candidate::new(caller.api, Withdrawal::Resign(key.clone(), rev));
    let waited = caller.wait_deletes(&prefix, rev - 1).await;
    // Only a dropped call withdraws its candidate.
    candidate.stays();
    waited?;
    let leader = Some(LeaderKey { name, key, rev, lease });
    Ok(CampaignResponse { header, leader })
}

/// Creates the key, or replaces a different value; returns the key's create revision.
async fn nominate(
    caller: &Caller<'_>,
    key: &Bytes,
    value: Bytes,
    lease: i64,
) -> Result<(Option<ResponseHeader>, i64), Status> {
    let answer = caller.txn(created(key, value.clone(), lease)).await?;
    let known = ranged(&answer);
    let rev = known.map_or_else(|| revision_of(answer.header.as_ref()), |kv| kv.create_revision);
    if known.is_some_and(|kv| kv.value != value) {
        let candidate = Candidate::new(caller.api, Withdrawal::Resign(key.clone(), rev));
        replace(caller, key, rev, value, lease).await?;
        candidate.stays();
    }
    Ok((answer.header, rev))
}

pub(crate) async fn proclaim(
    api: &Arc<Api>,
    deadline: Deadline,
    request: ProclaimRequest,
) -> Result<ProclaimResponse, Status> {
    let leader = request.leader.ok_or_else(no_leader_field)?;
    let caller = Caller { api, deadline };
    within(deadline, async {
        let lease = caller.session(leader.lease).await?;
        let header = replace(&caller, &leader.key, leader.rev, request.value, lease).await?;
        Ok(ProclaimResponse { header })
    })
    .await
}

/// Replaces the value if the key's create revision is still `rev`.
async fn replace(
    caller: &Caller<'_>,
    key: &Bytes,
    rev: i64,
    value: Bytes,
    lease: i64,
) -> Result<Option<ResponseHeader>, Status> {
    let compare = vec![created_at(key, rev)];
    let txn = TxnRequest { compare, success: vec![put(key, value, lease)], failure: Vec::new() };
    let answer = caller.txn(txn).await?;
    if answer.succeeded { Ok(answer.header) } else { Err(Status::unknown("election: not leader")) }
}

/// `Resign`. Succeeds even if the caller no longer leads.
pub(crate) async fn resign(
    api: &Arc<Api>,
    deadline: Deadline,
    request: ResignRequest,
) -> Result<ResignResponse, Status> {
    let leader = request.leader.ok_or_else(no_leader_field)?;
    let caller = Caller { api, deadline };
    within(deadline, async {
        caller.session(leader.lease).await?;
        let answer = caller.txn(resignation(&leader.key, leader.rev)).await?;
        Ok(ResignResponse { header: answer.header })
    })
    .await
}

fn no_leader_field() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

pub(crate) async fn leader(
    api: &Arc<Api>,
    deadline: Deadline,
    request: LeaderRequest,
) -> Result<LeaderResponse, Status> {
    let caller = Caller { api, deadline };
    let (header, kv) = within(deadline, caller.first(by_creation(&prefix(&request.name)))).await?;
    match kv {
        Some(kv) => Ok(LeaderResponse { header: Some(header), kv: Some(kv) }),
        None => Err(Status::unknown("election: no leader")),
    }
}

/// `Observe`: every leader and every value it proclaims. As in etcd, an error of the store ends it without an error.
pub(crate) async fn observe(
    api: Arc<Api>,
    deadline: Deadline,
    request: LeaderRequest,
    sender: mpsc::Sender<Result<LeaderResponse, Status>>,
) {
    let prefix = prefix(&request.name);
    let listens = sender.clone();
    let following = within(deadline, async {
        let caller = Caller { api: &api, deadline: None };
        while let Ok(()) = follow(&caller, &prefix, &sender).await {}
        Ok(())
    });
    let following = api.steps.watch("Observe", following);
    tokio::select! {
        ended = following => if let Err(status) = ended {
            // The client may be gone.
            let _ = listens.send(Err(status)).await;
        },
        () = listens.closed() => {}
    }
}

/// Reports one leader until its key is deleted.
async fn follow(
    caller: &Caller<'_>,
    prefix: &Bytes,
    sender: &mpsc::Sender<Result<LeaderResponse, Status>>,
) -> Result<(), Status> {
    let (header, kv) = match caller.first(by_creation(prefix)).await? {
        (header, Some(kv)) => (header, kv),
        (header, None) => first_put(caller, prefix, header.revision).await?,
    };
    let (key, from) = (Bytes::copy_from_slice(&kv.key), header.revision + 1);
    tell(sender, header, kv).await?;
    let mut watcher = Local::open(caller.api, KeyRange::point(key), from);
    loop {
        let (revision, events) = watcher.next().await?;
        for event in events {
            if event.r#type() == EventType::Delete {
                return Ok(());
            }
            tell(sender, caller.api.header(revision), event.kv.unwrap_or_default()).await?;
        }
    }
}

async fn first_put(
    caller: &Caller<'_>,
    prefix: &Bytes,
    revision: i64,
) -> Result<(ResponseHeader, KeyValue), Status> {
    let range = by_creation(prefix);
    let mut watcher = Local::open(caller.api, KeyRange::from_wire(range.key, range.range_end), revision);
    loop {
        let (_, events) = watcher.next().await?;
        if let Some(put) = events.into_iter().find(|event| event.r#type() == EventType::Put) {
            let kv = put.kv.unwrap_or_default();
            return Ok((caller.api.header(kv.mod_revision), kv));
        }
    }
}

async fn tell(
    sender: &mpsc::Sender<Result<LeaderResponse, Status>>,
    header: ResponseHeader,
    kv: KeyValue,
) -> Result<(), Status> {
    let answer = LeaderResponse { header: Some(header), kv: Some(kv) };
    sender.send(Ok(answer)).await.map_err(|_| Status::cancelled("context canceled"))
}
