//! `grpc.health.v1.Health`: only the server as a whole (service `""`) is known, and it serves. The messages are written
//! here because tonic-health's copy lacks `List`.

use crate::endings::Phase;
use std::collections::HashMap;
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// Values of the enum `HealthCheckResponse.ServingStatus`.
const SERVING: i32 = 1;
const SERVICE_UNKNOWN: i32 = 3;

/// The service to check; empty means the whole server.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(crate) service: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct HealthListRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HealthListResponse {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) statuses: HashMap<String, HealthCheckResponse>,
}

pub(crate) fn check(request: &HealthCheckRequest) -> Result<HealthCheckResponse, Status> {
    if !request.service.is_empty() {
        return Err(Status::not_found("unknown service"));
    }
    Ok(HealthCheckResponse { status: SERVING })
}

pub(crate) fn list() -> HealthListResponse {
    let statuses = HashMap::from([(String::new(), HealthCheckResponse { status: SERVING })]);
    HealthListResponse { statuses }
}

/// `Watch`: sends the status once; it does not change until shutdown ends the stream.
pub(crate) async fn watch(
    request: HealthCheckRequest,
    answers: mpsc::Sender<Result<HealthCheckResponse, Status>>,
    mut phase: watch::Receiver<Phase>,
) {
    let status = if request.service.is_empty() { SERVING } else { SERVICE_UNKNOWN };
    if answers.send(Ok(HealthCheckResponse { status })).await.is_err() {
        return;
    }
    tokio::select! {
        () = answers.closed() => {}
        _ = phase.wait_for(|phase| *phase > Phase::Serving) => {}
    }
}
