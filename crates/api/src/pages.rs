//! HTTP/1.1 on the client port: `/health`, `/version`, `/metrics`. Everything else is not there.
//!
//! Bodies, codes and headers are those of etcd's `etcdhttp`, down to the newline that Go's `http.Error` adds.

use crate::{Api, grpc::Reply, kv, maintenance};
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use proto::etcdserverpb::{AlarmType, RangeRequest};
use serde_json::json;
use std::{collections::HashSet, convert::Infallible, sync::Arc};

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Prometheus's text format.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Answers one request.
pub(crate) async fn serve<B>(api: Arc<Api>, request: Request<B>) -> Result<Response<Reply>, Infallible> {
    let get = request.method() == Method::GET;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    Ok(match request.uri().path() {
        "/health" if get => health(&api, &query).await,
        "/version" if get => respond(StatusCode::OK, JSON, version(&api)),
        "/health" | "/version" => {
            let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            response
        }
        "/metrics" => respond(StatusCode::OK, METRICS, api.metrics.render(&api)),
        _ => error(StatusCode::NOT_FOUND, "404 page not found"),
    })
}

fn respond(code: StatusCode, content_type: HeaderValue, body: String) -> Response<Reply> {
    let mut response = Response::new(Reply::Plain(Some(Bytes::from(body))));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Go's `http.Error`.
fn error(code: StatusCode, text: &str) -> Response<Reply> {
    let mut response = respond(code, PLAIN, format!("{text}\n"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn version(api: &Api) -> String {
    let cluster = api.shared.membership().cluster_version.clone();
    format!(
        r#"{{"etcdserver":{},"etcdcluster":{},"storage":{}}}"#,
        json!(api.identity.version),
        json!(cluster.as_deref().unwrap_or("not_decided")),
        json!(maintenance::storage_version(api).as_deref().unwrap_or("unknown")),
    )
}

/// The parts of a query that `/health` looks at.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    exclude: HashSet<String>,
    serializable: bool,
}

impl Query {
    fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        let mut serializable = None;
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "exclude" if !value.is_empty() => {
                    parsed.exclude.insert(value.to_owned());
                }
                // Go's `Query().Get` takes the first.
                "serializable" => serializable = serializable.or(Some(value == "true")),
                _ => {}
            }
        }
        parsed.serializable = serializable.unwrap_or(false);
        parsed
    }
}

async fn health(api: &Arc<Api>, query: &Query) -> Response<Reply> {
    match unhealthy(api, query).await {
        None => {
            api.metrics.health_success.inc();
            respond(StatusCode::OK, PLAIN, r#"{"health":"true","reason":""}"#.to_owned())
        }
        Some(reason) => {
            api.metrics.health_failures.inc();
            let body = format!(r#"{{"health":"false","reason":{}}}"#, json!(reason));
            slog::warn!(api.log, "/health error"; "output" => &body, "status-code" => 503);
            error(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

/// Why this member is not healthy: alarms, then the leader, then a read.
async fn unhealthy(api: &Arc<Api>, query: &Query) -> Option<String> {
    for alarm in api.shared.alarms().list(AlarmType::None as i32) {
        let name = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
        if !query.exclude.contains(name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if !query.serializable {
        if api.node.status().leader == 0 {
            return Some("RAFT NO LEADER".to_owned());
        }
        if let Err(status) = kv::barrier(api, None).await {
            return Some(format!("RANGE ERROR:{}", status.message()));
        }
    }
    // etcd reads the empty key here, which no client may.
    let request = RangeRequest { keys_only: true, limit: 1, ..Default::default() };
    api.shared.range(&request).err().map(|e| format!("RANGE ERROR:{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_go_reads_them() {
        let check = |query: &str, exclude: &[&str], serializable: bool| {
            let exclude = exclude.iter().map(|&s| s.to_owned()).collect();
            assert_eq!(Query::parse(query), Query { exclude, serializable }, "{query}");
        };
        check("", &[], false);
        check("exclude=NOSPACE&exclude=CORRUPT&exclude=", &["NOSPACE", "CORRUPT"], false);
        check("serializable=true", &[], true);
        check("serializable=false&serializable=true", &[], false);
        check("x&serializable=1", &[], false);
    }
}
