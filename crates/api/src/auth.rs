//! `etcdserverpb.Auth` with authentication off, which it always is here: the read-only methods respond as etcd's do,
//! after a read barrier. A client with a user name calls `Authenticate` first, and continues without a token.

use crate::{deadline::Deadline, kv::barrier, state::Api, status::EtcdError};
use proto::etcdserverpb::{
    AuthRoleListRequest, AuthRoleListResponse, AuthStatusRequest, AuthStatusResponse, AuthUserListRequest,
    AuthUserListResponse, AuthenticateRequest, AuthenticateResponse, ResponseHeader,
};
use std::sync::Arc;
use tonic::Status;

/// The auth store's revision before any user or role exists (etcd's `authStore`).
const FIRST_REVISION: u64 = 1;

pub(crate) async fn authenticate(
    api: &Arc<Api>,
    deadline: Deadline,
    _: AuthenticateRequest,
) -> Result<AuthenticateResponse, Status> {
    barrier(api, deadline).await?;
    Err(EtcdError::AuthNotEnabled.into())
}

pub(crate) async fn status(
    api: &Arc<Api>,
    deadline: Deadline,
    _: AuthStatusRequest,
) -> Result<AuthStatusResponse, Status> {
    let header = header(api, deadline).await?;
    Ok(AuthStatusResponse { header, enabled: false, auth_revision: FIRST_REVISION })
}

pub(crate) async fn users(
    api: &Arc<Api>,
    deadline: Deadline,
    _: AuthUserListRequest,
) -> Result<AuthUserListResponse, Status> {
    Ok(AuthUserListResponse { header: header(api, deadline).await?, users: Vec::new() })
}

pub(crate) async fn roles(
    api: &Arc<Api>,
    deadline: Deadline,
    _: AuthRoleListRequest,
) -> Result<AuthRoleListResponse, Status> {
    Ok(AuthRoleListResponse { header: header(api, deadline).await?, roles: Vec::new() })
}

async fn header(api: &Api, deadline: Deadline) -> Result<Option<ResponseHeader>, Status> {
    barrier(api, deadline).await?;
    Ok(Some(api.header(api.shared.view().revision())))
}
