//! HTTP/1.1 pages: `/version`, `/metrics`, `/debug/vars`, and 404. Bodies, status codes and headers are etcd's, down to
//! the newline of Go's `http.Error`.

use crate::{
    metrics::Sources,
    page::{Page, not_allowed, not_found, respond},
    probes::{self, Probe},
    query::Query,
    state::Api,
};
use http::{HeaderValue, Method, StatusCode, request::Parts};
use serde_json::json;
use std::sync::Arc;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The content type of Go's `expvar`.
const JSON_UTF8: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// Prometheus's text format, as etcd's library names it.
const METRICS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");

/// Pages of a metrics listener; client listeners serve them too.
pub(crate) async fn monitoring(api: &Arc<Api>, parts: &Parts, path: &str) -> Option<Page> {
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    Some(match path {
        "/health" => probes::health(api, &parts.method, &query).await,
        "/metrics" => respond(StatusCode::OK, METRICS, metrics(api).await),
        _ => Probe::at(path)?.serve(api, &parts.method, &query).await,
    })
}

pub(crate) async fn serve(api: &Arc<Api>, parts: &Parts, path: &str) -> Page {
    match path {
        "/version" | "/debug/vars" if parts.method != Method::GET => not_allowed(),
        "/version" => respond(StatusCode::OK, JSON, version(api)),
        "/debug/vars" => respond(StatusCode::OK, JSON_UTF8, vars(api)),
        _ => match monitoring(api, parts, path).await {
            Some(page) => page,
            None => not_found(),
        },
    }
}

async fn metrics(api: &Api) -> String {
    api.connections.refresh();
    let sources = Sources {
        node: &api.node,
        shared: &api.shared,
        slow: &api.slow,
        watching: api.watches.counts(),
        in_flight: [("requests", &api.requests), ("answers", &api.answers), ("values", &api.values)],
        log: &api.log,
    };
    api.metrics.render(sources).await
}

fn version(api: &Api) -> String {
    let cluster = api.shared.membership().cluster_version.clone();
    format!(
        r#"{{"etcdserver":{},"etcdcluster":{},"storage":{}}}"#,
        json!(api.identity.version),
        json!(cluster.as_deref().unwrap_or("not_decided")),
        json!(api.storage_version().as_deref().unwrap_or("unknown")),
    )
}

/// Go's `expvar` page without `memstats`, which describes Go's memory.
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
