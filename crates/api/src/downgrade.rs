//! `Maintenance.Downgrade`: may the cluster go down by a minor version, let it, let it not.
//!
//! The job itself is a row of the replicated state; who acts on it is the leader's monitor (the server's duties), by
//! proposing the lower cluster version. After etcd's `etcdserver/version` and `v3_server.go`.

use crate::{
    Api, grpc,
    kv::{self, Deadline},
    status::{self, Known},
};
use bytes::Bytes;
use machine::ClusterVersion;
use proto::etcdserverpb::{DowngradeRequest, DowngradeResponse, downgrade_request::DowngradeAction};
use raft_node::{ProposeError, publish};
use tonic::Status;

/// Answers with the cluster's version as it is before anything comes of it.
pub(crate) async fn downgrade(
    api: &Api,
    deadline: Deadline,
    request: DowngradeRequest,
) -> Result<Bytes, Status> {
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => validate(api, deadline, &request.version).await.map(drop)?,
        Ok(DowngradeAction::Enable) => {
            let target = validate(api, deadline, &request.version).await?;
            propose(api, deadline, Some(target)).await.map_err(|error| status::propose(&error))?;
        }
        Ok(DowngradeAction::Cancel) => {
            // etcd writes down why it could not cancel, and answers as if it had.
            if let Err(status) = cancel(api, deadline).await {
                slog::warn!(api.log, "failed to cancel downgrade"; "error" => status.message());
            }
        }
        Err(_) => return Err(Known::UnknownMethod.into()),
    }
    let version = cluster_version(api).ok_or(Known::ClusterVersionUnavailable)?.short();
    let header = Some(api.header(api.shared.view().revision()));
    Ok(grpc::encode(&DowngradeResponse { header, version }))
}

/// The target, if the cluster may go there now.
async fn validate(api: &Api, deadline: Deadline, target: &str) -> Result<ClusterVersion, Status> {
    let target = ClusterVersion::parse_target(target).ok_or(Known::WrongDowngradeVersionFormat)?;
    if cluster_version(api).is_none() {
        return Err(Known::ClusterVersionUnavailable.into());
    }
    kv::barrier(api, deadline).await?;
    let allowed = cluster_version(api).and_then(ClusterVersion::one_below);
    if allowed != Some(target) {
        return Err(Known::InvalidDowngradeTargetVersion.into());
    }
    if is_enabled(api) { Err(Known::DowngradeInProcess.into()) } else { Ok(target) }
}

async fn cancel(api: &Api, deadline: Deadline) -> Result<(), Status> {
    kv::barrier(api, deadline).await?;
    if !is_enabled(api) {
        return Err(Status::failed_precondition("etcdserver: no inflight downgrade job"));
    }
    propose(api, deadline, None).await.map_err(|error| status::propose(&error))
}

async fn propose(api: &Api, deadline: Deadline, target: Option<ClusterVersion>) -> Result<(), ProposeError> {
    publish::downgrade(&api.node, target, deadline).await
}

fn cluster_version(api: &Api) -> Option<ClusterVersion> {
    api.shared.membership().cluster_version.as_deref().and_then(ClusterVersion::parse)
}

fn is_enabled(api: &Api) -> bool {
    api.shared.membership().downgrade.as_ref().is_some_and(|job| job.enabled)
}
