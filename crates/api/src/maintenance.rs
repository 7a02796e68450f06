//! `etcdserverpb.Maintenance`: how this member is, hashes of its state, alarms, space given back, leadership handed over.
//! Downgrades and snapshots have files of their own.

use crate::{
    Api, grpc,
    kv::{self, Deadline},
    snapshot::{Measures, Snapshots},
    status::Known,
};
use bytes::Bytes;
use machine::{Response, Stop};
use mvcc::{Cost, Effort};
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DefragmentResponse, DowngradeInfo, HashKvRequest, HashKvResponse,
    HashResponse, InternalRaftRequest, MoveLeaderRequest, MoveLeaderResponse, StatusResponse,
};
use raft_node::{TransferError, publish};
use std::{sync::Arc, time::Instant};
use tokio::sync::{Mutex, Semaphore};
use tonic::Status;

/// The rights to long work, of which only so much goes on at one time.
pub(crate) struct Turns {
    /// One defragmentation, as in etcd.
    defragment: Arc<Mutex<()>>,
    pub(crate) snapshots: Semaphore,
    pub(crate) measures: Measures,
}

impl Turns {
    pub(crate) fn new(snapshots: &Snapshots) -> Self {
        Self {
            defragment: Arc::default(),
            snapshots: Semaphore::new(snapshots.sent_max),
            measures: Measures::default(),
        }
    }
}

/// `Status`: of this member, from this member.
pub(crate) fn status(api: &Api) -> Bytes {
    let node = api.node.status();
    let view = api.shared.view();
    let sizes = view.sizes();
    let membership = api.shared.membership();
    let mut errors = Vec::new();
    if node.leader == 0 {
        errors.push(Known::NoLeader.text().to_owned());
    }
    errors.extend(api.shared.alarms().list(AlarmType::None as i32).iter().map(alarm_text));
    let downgrade = membership.downgrade.clone().unwrap_or_default();
    grpc::encode(&StatusResponse {
        header: Some(api.header(view.revision())),
        version: api.identity.version.clone(),
        db_size: sizes.total_bytes,
        leader: node.leader,
        raft_index: node.commit,
        raft_term: node.term,
        raft_applied_index: node.applied,
        errors,
        db_size_in_use: sizes.in_use_bytes,
        is_learner: node.is_learner,
        storage_version: storage_version(api).unwrap_or_default(),
        db_size_quota: api.shared.quota().limit_bytes().unwrap_or(-1),
        downgrade_info: Some(DowngradeInfo {
            enabled: downgrade.enabled,
            target_version: downgrade.target_version,
        }),
    })
}

/// etcd marks its database with the cluster's version once that is decided, and not with the one that stands for "not
/// yet"; ours follows it without a mark.
pub(crate) fn storage_version(api: &Api) -> Option<String> {
    let version = api.shared.membership().cluster_version.clone();
    version.filter(|version| version != publish::CLUSTER_VERSION_MIN)
}

/// An alarm as Go's protobuf prints it: clients see these lines in `Status.errors`.
fn alarm_text(alarm: &AlarmMember) -> String {
    let mut fields = Vec::new();
    if alarm.member_id != 0 {
        fields.push(format!("memberID:{}", alarm.member_id));
    }
    if alarm.alarm != 0 {
        let kind = AlarmType::try_from(alarm.alarm);
        fields.push(
            kind.map_or_else(|_| format!("alarm:{}", alarm.alarm), |k| format!("alarm:{}", k.as_str_name())),
        );
    }
    fields.join(" ")
}

/// `Hash`: of everything this member stores.
pub(crate) async fn hash(api: &Arc<Api>) -> Result<Bytes, Status> {
    let (start, own) = (Instant::now(), Arc::clone(api));
    let hashed = move |effort: &Effort<'_>| -> Result<Bytes, Stop> {
        let view = own.shared.view();
        let hash = view.bounded(effort).hash()?;
        Ok(grpc::encode(&HashResponse { header: Some(own.header(view.revision())), hash }))
    };
    let answer = api.slow.read(Cost::MAX, hashed).await;
    api.metrics.durations.hash.observe(start.elapsed().as_secs_f64());
    answer
}

/// `HashKV`: of the key space up to a revision, equal on all members.
pub(crate) async fn hash_kv(api: &Arc<Api>, request: HashKvRequest) -> Result<Bytes, Status> {
    let (start, own) = (Instant::now(), Arc::clone(api));
    let hashed = move |effort: &Effort<'_>| -> Result<Bytes, Stop> {
        let view = own.shared.view();
        let found = view.bounded(effort).hash_kv(request.revision)?;
        Ok(grpc::encode(&HashKvResponse {
            header: Some(own.header(view.revision())),
            hash: found.hash,
            compact_revision: found.compact_revision,
            hash_revision: found.hash_revision,
        }))
    };
    let answer = api.slow.read(Cost::MAX, hashed).await;
    api.metrics.durations.hash_kv.observe(start.elapsed().as_secs_f64());
    answer
}

/// `Alarm`: through the log, reading included.
pub(crate) async fn alarm(api: &Api, deadline: Deadline, request: AlarmRequest) -> Result<Bytes, Status> {
    let request = InternalRaftRequest { alarm: Some(request), ..Default::default() };
    match kv::propose(api, deadline, request).await? {
        Response::Alarm(mut answer) => {
            api.complete(&mut answer.header);
            Ok(grpc::encode(&answer))
        }
        other => Err(kv::mismatch(&other)),
    }
}

/// `Defragment`: of this member, whatever its role. Returns when it is done; goes on when its caller goes away.
pub(crate) async fn defragment(api: &Arc<Api>) -> Result<Bytes, Status> {
    let turn = Arc::clone(&api.turns.defragment).lock_owned().await;
    let own = Arc::clone(api);
    slog::info!(api.log, "starting defragment");
    let work = tokio::task::spawn_blocking(move || {
        let (durations, start) = (&own.metrics.durations, Instant::now());
        durations.defrag_inflight.set(1);
        let done = own.shared.defragment();
        durations.defrag_inflight.set(0);
        durations.defrag.observe(start.elapsed().as_secs_f64());
        drop(turn);
        done
    });
    let done = work.await.map_err(|error| Status::unknown(error.to_string()))?;
    if let Err(fault) = done {
        slog::warn!(api.log, "failed to defragment"; "error" => %fault);
        return Err(Status::unknown(fault.to_string()));
    }
    slog::info!(api.log, "finished defragment");
    Ok(grpc::encode(&DefragmentResponse::default()))
}

/// `MoveLeader`: only the leader can. Its answer has no header, as in etcd.
pub(crate) async fn move_leader(api: &Api, request: MoveLeaderRequest) -> Result<Bytes, Status> {
    if !api.node.status().is_leader {
        return Err(Known::NotLeader.into());
    }
    if request.target_id == 0 {
        return Err(Known::BadLeaderTransferee.into()); // the node would choose one
    }
    api.node.transfer_leader(request.target_id).await.map_err(|error| match error {
        TransferError::NotLeader => Known::NotLeader.into(),
        TransferError::BadTransferee => Known::BadLeaderTransferee.into(),
        TransferError::Stopped => Known::Stopped.into(),
        TransferError::Timeout => Status::unknown(error.to_string()),
    })?;
    Ok(grpc::encode(&MoveLeaderResponse::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_read_as_go_prints_them() {
        let check = |member_id, alarm, expected: &str| {
            assert_eq!(alarm_text(&AlarmMember { member_id, alarm }), expected);
        };
        check(10, AlarmType::Nospace as i32, "memberID:10 alarm:NOSPACE");
        check(0, AlarmType::Corrupt as i32, "alarm:CORRUPT");
        check(7, 9, "memberID:7 alarm:9");
    }
}
