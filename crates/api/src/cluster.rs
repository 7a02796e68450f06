//! `etcdserverpb.Cluster`: the members, and changes of them. As in etcd, no header has a revision. What changes may do is
//! checked in `raft_node`.

use crate::{
    deadline::Deadline,
    kv::barrier,
    state::Api,
    status::{self, EtcdError},
};
use proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse,
};
use raft_node::bootstrap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::Status;

/// `MemberAdd`. The new member's ID is made from its URLs and the time here.
pub(crate) async fn member_add(
    api: &Arc<Api>,
    deadline: Deadline,
    request: MemberAddRequest,
) -> Result<MemberAddResponse, Status> {
    let MemberAddRequest { peer_ur_ls: urls, is_learner } = request;
    let mut peer_urls = checked(&urls)?;
    peer_urls.sort();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let id = bootstrap::member_id(&peer_urls, "", Some(now));
    let member = machine::Member { id, peer_urls, is_learner, ..machine::Member::default() };
    let members = api.node.add_member(&member, deadline).await.map_err(|error| status::change(&error))?;
    // It may have become a learner.
    let added = members.iter().find(|added| added.id == id).cloned();
    Ok(MemberAddResponse {
        header: Some(api.header(0)),
        member: Some(on_the_wire(added.unwrap_or(member))),
        members: all(members),
    })
}

/// `MemberRemove`, of this member too.
pub(crate) async fn member_remove(
    api: &Arc<Api>,
    deadline: Deadline,
    request: MemberRemoveRequest,
) -> Result<MemberRemoveResponse, Status> {
    let members = api.node.remove_member(request.id, deadline).await;
    let members = members.map_err(|error| status::change(&error))?;
    Ok(MemberRemoveResponse { header: Some(api.header(0)), members: all(members) })
}

/// `MemberUpdate`: other peer URLs. They are kept as written; etcd looks at them only in its client, and its members panic
/// when they are none.
pub(crate) async fn member_update(
    api: &Arc<Api>,
    deadline: Deadline,
    request: MemberUpdateRequest,
) -> Result<MemberUpdateResponse, Status> {
    checked(&request.peer_ur_ls)?;
    let members = api.node.update_member(request.id, request.peer_ur_ls, deadline).await;
    let members = members.map_err(|error| status::change(&error))?;
    Ok(MemberUpdateResponse { header: Some(api.header(0)), members: all(members) })
}

/// `MemberPromote`, through the leader.
pub(crate) async fn member_promote(
    api: &Arc<Api>,
    deadline: Deadline,
    request: MemberPromoteRequest,
) -> Result<MemberPromoteResponse, Status> {
    let members = api.node.promote_member(request.id, deadline).await;
    let members = members.map_err(|error| status::change(&error))?;
    Ok(MemberPromoteResponse { header: Some(api.header(0)), members: all(members) })
}

/// `MemberList`, in ascending order of ID.
pub(crate) async fn member_list(
    api: &Arc<Api>,
    deadline: Deadline,
    request: MemberListRequest,
) -> Result<MemberListResponse, Status> {
    if request.linearizable {
        barrier(api, deadline).await?;
    }
    let members = all(api.shared.membership().members.values().cloned());
    Ok(MemberListResponse { header: Some(api.header(0)), members })
}

/// The URLs as Go writes them, if there are any and none is refused.
fn checked(urls: &[String]) -> Result<Vec<String>, Status> {
    let urls: Option<Vec<String>> = urls.iter().map(|url| gotext::url::of_member(url)).collect();
    urls.filter(|urls| !urls.is_empty()).ok_or_else(|| EtcdError::MemberBadUrls.into())
}

fn all(members: impl IntoIterator<Item = machine::Member>) -> Vec<Member> {
    members.into_iter().map(on_the_wire).collect()
}

fn on_the_wire(member: machine::Member) -> Member {
    let machine::Member { id, peer_urls, is_learner, name, client_urls } = member;
    Member { id, name, peer_ur_ls: peer_urls, client_ur_ls: client_urls, is_learner }
}
