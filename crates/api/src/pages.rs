//! Plain pages over HTTP/1.1: `/version`, `/metrics`, `/debug/vars`, and what is not there.
//!
//! Bodies, codes and headers are those of etcd, down to the newline that Go's `http.Error` adds.

use crate::{
    Api,
    grpc::Reply,
    maintenance,
    probes::{self, Probe},
    query::Query,
};
use bytes::Bytes;
use gateway::Answer;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    request::Parts,
};
use serde_json::json;
use std::sync::Arc;

/// What an HTTP/1.1 request is answered with.
pub(crate) type Page = Response<Answer<Reply>>;

pub(crate) const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Go's `expvar`.
const JSON_UTF8: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// Prometheus's text format, as etcd's library names it.
const METRICS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");

/// The pages that a listener for metrics has, and every other one too.
pub(crate) async fn monitoring(api: &Arc<Api>, parts: &Parts, path: &str) -> Option<Page> {
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    Some(match path {
        "/health" => probes::health(api, &parts.method, &query).await,
        "/metrics" => respond(StatusCode::OK, METRICS, api.metrics.render(api).await),
        _ => Probe::at(path)?.serve(api, &parts.method, &query).await,
    })
}

/// All pages.
pub(crate) async fn serve(api: &Arc<Api>, parts: &Parts, path: &str) -> Page {
    match path {
        "/version" | "/debug/vars" if parts.method != Method::GET => probes::not_allowed(),
        "/version" => respond(StatusCode::OK, JSON, version(api)),
        "/debug/vars" => respond(StatusCode::OK, JSON_UTF8, vars(api)),
        _ => match monitoring(api, parts, path).await {
            Some(page) => page,
            None => not_found(),
        },
    }
}

/// Go's `http.NotFound`.
pub(crate) fn not_found() -> Page {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

pub(crate) fn respond(code: StatusCode, content_type: HeaderValue, body: String) -> Page {
    let mut response = Response::new(Answer::Whole(Some(Bytes::from(body))));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Text that no browser may take for anything else.
pub(crate) fn text(code: StatusCode, body: String) -> Page {
    let mut response = respond(code, PLAIN, body);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Go's `http.Error`.
pub(crate) fn error(code: StatusCode, what: &str) -> Page {
    text(code, format!("{what}\n"))
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

/// Go's `expvar` page without `memstats`, which tells of Go's memory.
fn vars(api: &Api) -> String {
    let status = api.node.status();
    let state = match (status.is_leader, status.leader) {
        (true, _) => "StateLeader",
        (false, 0) => "StateCandidate",
        (false, _) => "StateFollower",
    };
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let raft = json!({
        "id": format!("{:x}", api.identity.member),
        "term": status.term,
        "commit": status.commit,
        "lead": format!("{:x}", status.leader),
        "raftState": state,
        "applied": status.applied,
    });
    format!(
        "{{\n\"cmdline\": {},\n\"file_descriptor_limit\": {},\n\"raft.status\": {raft}\n}}\n",
        json!(arguments),
        api.metrics.files_max(),
    )
}
