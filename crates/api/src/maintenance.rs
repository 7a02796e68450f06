//! `etcdserverpb.Maintenance`: status, hashes, alarms, defragmentation, leadership transfer.

use crate::{deadline::Deadline, state::Api, status::EtcdError};
use machine::Stop;
use mvcc::{Cost, Effort};
use proto::etcdserverpb::{
    AlarmMember, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo, HashKvRequest,
    HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse, StatusResponse,
};
use raft_node::TransferError;
use std::{sync::Arc, time::Instant};
use tonic::Status;

/// `Status` of this member, from local state.
pub(crate) fn status(api: &Api) -> StatusResponse {
    let node = api.node.status();
    let view = api.shared.view();
    let sizes = view.sizes();
    let membership = api.shared.membership();
    let mut errors = Vec::new();
    if node.leader == 0 {
        errors.push(EtcdError::NoLeader.text().to_owned());
    }
    if api.is_distrusted() {
        errors.push(EtcdError::Corrupt.text().to_owned());
    }
    errors.extend(api.shared.alarms().list(AlarmType::None as i32).iter().map(alarm_text));
    let downgrade = membership.downgrade.clone().unwrap_or_default();
    StatusResponse {
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
        storage_version: api.storage_version().unwrap_or_default(),
        db_size_quota: api.shared.quota().limit_bytes().unwrap_or(-1),
        downgrade_info: Some(DowngradeInfo {
            enabled: downgrade.enabled,
            target_version: downgrade.target_version,
        }),
    }
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

/// `Hash` of everything this member stores.
pub(crate) async fn hash(api: &Arc<Api>, _: Deadline, _: HashRequest) -> Result<HashResponse, Status> {
    let (start, own) = (Instant::now(), Arc::clone(api));
    let hashed = move |effort: &Effort<'_>| -> Result<HashResponse, Stop> {
        let view = own.shared.view();
        let hash = view.bounded(effort).hash()?;
        Ok(HashResponse { header: Some(own.header(view.revision())), hash })
    };
    let answer = api.slow.read(Cost::MAX, hashed).await;
    api.metrics.durations.hash.observe(start.elapsed().as_secs_f64());
    answer
}

/// `HashKV` of the key space up to a revision, equal on all members.
pub(crate) async fn hash_kv(
    api: &Arc<Api>,
    _: Deadline,
    request: HashKvRequest,
) -> Result<HashKvResponse, Status> {
    let (start, own) = (Instant::now(), Arc::clone(api));
    let hashed = move |effort: &Effort<'_>| -> Result<HashKvResponse, Stop> {
        let view = own.shared.view();
        let found = view.bounded(effort).hash_kv(request.revision)?;
        Ok(HashKvResponse {
            header: Some(own.header(view.revision())),
            hash: found.hash,
            compact_revision: found.compact_revision,
            hash_revision: found.hash_revision,
        })
    };
    let answer = api.slow.read(Cost::MAX, hashed).await;
    api.metrics.durations.hash_kv.observe(start.elapsed().as_secs_f64());
    answer
}

/// `Defragment` of this member, whatever its role. Returns when done; continues if the caller disconnects.
pub(crate) async fn defragment(
    api: &Arc<Api>,
    _: Deadline,
    _: DefragmentRequest,
) -> Result<DefragmentResponse, Status> {
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
    Ok(DefragmentResponse::default())
}

/// `MoveLeader`, on the leader only. As in etcd, the response has no header.
pub(crate) async fn move_leader(
    api: &Arc<Api>,
    _: Deadline,
    request: MoveLeaderRequest,
) -> Result<MoveLeaderResponse, Status> {
    if !api.node.status().is_leader {
        return Err(EtcdError::NotLeader.into());
    }
    if request.target_id == 0 {
        return Err(EtcdError::BadLeaderTransferee.into()); // 0 lets the node choose
    }
    api.node.transfer_leader(request.target_id).await.map_err(|error| match error {
        TransferError::NotLeader => EtcdError::NotLeader,
        TransferError::BadTransferee => EtcdError::BadLeaderTransferee,
        TransferError::Stopped => EtcdError::Stopped,
        TransferError::Timeout => EtcdError::TimeoutLeaderTransfer,
    })?;
    Ok(MoveLeaderResponse::default())
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
