//! `etcdserverpb.Auth` where authentication is off, which it always is here: what etcd answers then, as far as it does
//! not write. Clients that were given a user's name ask first, and go on without a token.
//!
//! Like etcd, a member answers only with the quorum behind it.

use crate::{
    Api, grpc,
    kv::{Deadline, barrier},
    status::Known,
};
use bytes::Bytes;
use proto::etcdserverpb::{AuthRoleListResponse, AuthStatusResponse, AuthUserListResponse, ResponseHeader};
use tonic::Status;

/// The revision of users and roles before the first of them (etcd's `authStore`).
const FIRST_REVISION: u64 = 1;

/// `Authenticate`.
pub(crate) async fn authenticate(api: &Api, deadline: Deadline) -> Result<Bytes, Status> {
    barrier(api, deadline).await?;
    Err(Known::AuthNotEnabled.into())
}

/// `AuthStatus`.
pub(crate) async fn status(api: &Api, deadline: Deadline) -> Result<Bytes, Status> {
    let header = header(api, deadline).await?;
    Ok(grpc::encode(&AuthStatusResponse { header, enabled: false, auth_revision: FIRST_REVISION }))
}

/// `UserList`: nobody.
pub(crate) async fn users(api: &Api, deadline: Deadline) -> Result<Bytes, Status> {
    Ok(grpc::encode(&AuthUserListResponse { header: header(api, deadline).await?, users: Vec::new() }))
}

/// `RoleList`: none.
pub(crate) async fn roles(api: &Api, deadline: Deadline) -> Result<Bytes, Status> {
    Ok(grpc::encode(&AuthRoleListResponse { header: header(api, deadline).await?, roles: Vec::new() }))
}

async fn header(api: &Api, deadline: Deadline) -> Result<Option<ResponseHeader>, Status> {
    barrier(api, deadline).await?;
    Ok(Some(api.header(api.shared.view().revision())))
}
