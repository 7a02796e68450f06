//! `etcdserverpb.Cluster`: the member list. Membership changes are refused by name until a later version.

use crate::{deadline::Deadline, kv::barrier, state::Api};
use proto::etcdserverpb::{Member, MemberListRequest, MemberListResponse};
use std::sync::Arc;
use tonic::Status;

/// `MemberList`, in ascending order of ID. As in etcd, its header has no revision.
pub(crate) async fn member_list(
    api: &Arc<Api>,
    deadline: Deadline,
    request: MemberListRequest,
) -> Result<MemberListResponse, Status> {
    if request.linearizable {
        barrier(api, deadline).await?;
    }
    let membership = api.shared.membership();
    let member = |member: &machine::Member| Member {
        id: member.id,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    };
    let members = membership.members.values().map(member).collect();
    Ok(MemberListResponse { header: Some(api.header(0)), members })
}
