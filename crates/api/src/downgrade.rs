//! `Maintenance.Downgrade`: validate, enable or cancel a downgrade by one minor version, a row of the replicated state
//! on which the leader's monitor acts. After etcd's `etcdserver/version` and `v3_server.go`.

use crate::{
    deadline::Deadline,
    kv,
    state::Api,
    status::{self, EtcdError},
};
use machine::ClusterVersion;
use proto::etcdserverpb::{DowngradeRequest, DowngradeResponse, downgrade_request::DowngradeAction};
use raft_node::publish;
use std::sync::Arc;
use tonic::Status;

/// Responds with the cluster version from before the downgrade.
pub(crate) async fn downgrade(
    api: &Arc<Api>,
    deadline: Deadline,
    request: DowngradeRequest,
) -> Result<DowngradeResponse, Status> {
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => validate(api, deadline, &request.version).await.map(drop)?,
        Ok(DowngradeAction::Enable) => {
            let target = validate(api, deadline, &request.version).await?;
            propose(api, deadline, Some(target)).await?;
        }
        Ok(DowngradeAction::Cancel) => {
            // etcd logs why a cancel failed and responds as if it had worked.
            if let Err(status) = cancel(api, deadline).await {
                slog::warn!(api.log, "failed to cancel downgrade"; "error" => status.message());
            }
        }
        Err(_) => return Err(EtcdError::UnknownMethod.into()),
    }
    let version = cluster_version(api).ok_or(EtcdError::ClusterVersionUnavailable)?.short();
    let header = Some(api.header(api.shared.view().revision()));
    Ok(DowngradeResponse { header, version })
}

/// Parses the target, and checks that the cluster may go there now.
async fn validate(api: &Api, deadline: Deadline, target: &str) -> Result<ClusterVersion, Status> {
    let target = ClusterVersion::parse_target(target).ok_or(EtcdError::WrongDowngradeVersionFormat)?;
    if cluster_version(api).is_none() {
        return Err(EtcdError::ClusterVersionUnavailable.into());
    }
    kv::barrier(api, deadline).await?;
    let allowed = cluster_version(api).and_then(ClusterVersion::one_below);
    if allowed != Some(target) {
        return Err(EtcdError::InvalidDowngradeTargetVersion.into());
    }
    if is_enabled(api) { Err(EtcdError::DowngradeInProcess.into()) } else { Ok(target) }
}

async fn cancel(api: &Api, deadline: Deadline) -> Result<(), Status> {
    kv::barrier(api, deadline).await?;
    if !is_enabled(api) {
        return Err(EtcdError::NoInflightDowngrade.into());
    }
    propose(api, deadline, None).await
}

async fn propose(api: &Api, deadline: Deadline, target: Option<ClusterVersion>) -> Result<(), Status> {
    publish::downgrade(&api.node, target, deadline).await.map_err(|error| status::propose(&error))
}

fn cluster_version(api: &Api) -> Option<ClusterVersion> {
    api.shared.membership().cluster_version.as_deref().and_then(ClusterVersion::parse)
}

fn is_enabled(api: &Api) -> bool {
    api.shared.membership().downgrade.as_ref().is_some_and(|job| job.enabled)
}
