//! `member list`.

use super::{Session, ops};
use crate::client::{Client, Kind, RequestError};
use crate::failure::Failure;
use crate::line::Invocation;
use crate::print::Answer;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::cluster_client::ClusterClient;

/// The members of the cluster.
pub(crate) async fn members(
    client: &Client,
    linearizable: bool,
) -> Result<pb::MemberListResponse, RequestError> {
    let request = pb::MemberListRequest { linearizable };
    let deadline = Some(client.deadline());
    client.call(deadline, Kind::Read, request, async |c, q| ClusterClient::new(c).member_list(q).await).await
}

/// `member list`.
pub(crate) async fn list(invocation: Invocation) -> Result<(), Failure> {
    let serializable = ops::is_serializable(&invocation.flags)?;
    let session = Session::open(invocation)?;
    let list = members(&session.client()?, !serializable).await?;
    session.printer.print(&Answer::MemberList(&list))
}
