//! `etcdserverpb.Cluster`: who is a member. Changes of members come with a later version and are refused by name.

use crate::{
    Api, grpc,
    kv::{Deadline, barrier},
};
use bytes::Bytes;
use proto::etcdserverpb::{Member, MemberListRequest, MemberListResponse};
use tonic::Status;

/// `MemberList`, in ascending order of ID. Its header has no revision, as in etcd.
pub(crate) async fn member_list(
    api: &Api,
    deadline: Deadline,
    request: MemberListRequest,
) -> Result<Bytes, Status> {
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
    Ok(grpc::encode(&MemberListResponse { header: Some(api.header(0)), members }))
}
