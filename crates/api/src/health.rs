//! `grpc.health.v1.Health`: this member as a whole (the service named `""`) serves.
//!
//! The messages are written down here: they are three, and tonic-health's copy of them lacks `List`.

use crate::{grpc, server::Phase};
use bytes::Bytes;
use std::collections::HashMap;
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;
/// `HealthCheckResponse.ServingStatus.SERVICE_UNKNOWN`.
const SERVICE_UNKNOWN: i32 = 3;

/// Which service is asked for; empty = the server as a whole.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(crate) service: String,
}

/// How it is.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
}

/// How everything is.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct HealthListRequest {}

/// By service.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HealthListResponse {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) statuses: HashMap<String, HealthCheckResponse>,
}

/// `Check`.
pub(crate) fn check(request: &HealthCheckRequest) -> Result<Bytes, Status> {
    if !request.service.is_empty() {
        return Err(Status::not_found("unknown service"));
    }
    Ok(grpc::encode(&HealthCheckResponse { status: SERVING }))
}

/// `List`.
pub(crate) fn list() -> Bytes {
    let statuses = HashMap::from([(String::new(), HealthCheckResponse { status: SERVING })]);
    grpc::encode(&HealthListResponse { statuses })
}

/// `Watch`: the state, which does not change until the member goes down and the stream ends.
pub(crate) async fn watch(
    request: HealthCheckRequest,
    answers: mpsc::Sender<Result<Bytes, Status>>,
    mut phase: watch::Receiver<Phase>,
) {
    let status = if request.service.is_empty() { SERVING } else { SERVICE_UNKNOWN };
    if answers.send(Ok(grpc::encode(&HealthCheckResponse { status }))).await.is_err() {
        return;
    }
    tokio::select! {
        () = answers.closed() => {}
        _ = phase.wait_for(|phase| *phase > Phase::Serving) => {}
    }
}
