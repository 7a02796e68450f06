//! HTTP/1.1: who may ask, then the JSON gateway or a page.
//!
//! Paths are routed as Go's `ServeMux` routes them for etcd: a path that is not clean is redirected to the clean one.

use crate::{
    Api,
    access::{host, host_name, misdirected},
    grpc::{Reply, Requests},
    pages::{self, PLAIN, Page, respond},
    router::{self, Connection},
};
use bytes::Bytes;
use gateway::Answer;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_TYPE, HOST, LOCATION, ORIGIN},
    request::Parts,
};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use std::{convert::Infallible, sync::Arc};

/// What is served on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// gRPC and HTTP/1.1.
    All,
    /// gRPC alone, as etcd's client URLs once HTTP has URLs of its own.
    Grpc,
    /// HTTP/1.1 alone: `--listen-client-http-urls`.
    Http,
    /// `/metrics` and what tells of health, for everybody: `--listen-metrics-urls`.
    Metrics,
}

impl Traffic {
    /// As etcd's log calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "grpc+http",
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Metrics => "metrics",
        }
    }
}

/// Answers a request on a port for clients.
pub(crate) async fn serve(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Page, Infallible> {
    let api = Arc::clone(connection.api());
    if let Some(refusal) = without_host(request.version(), request.headers().contains_key(HOST)) {
        return Ok(refusal);
    }
    let name = host_name(host(request.uri().authority(), request.headers()));
    if !api.access.admits_host(name) {
        slog::warn!(api.log, "rejecting HTTP request to prevent DNS rebinding attacks"; "host" => name);
        return Ok(pages::error(StatusCode::MISDIRECTED_REQUEST, &misdirected(name)));
    }
    let origin = request.headers().get(ORIGIN).cloned();
    let mut page = if request.method() == Method::OPTIONS {
        Response::new(Answer::Whole(None))
    } else {
        Box::pin(route(&connection, &api, request)).await
    };
    api.access.add_cors(origin.as_ref(), page.headers_mut());
    Ok(page)
}

/// Answers a request on a port for metrics.
pub(crate) async fn monitor<B>(api: Arc<Api>, request: Request<B>) -> Result<Page, Infallible> {
    let (parts, _) = request.into_parts();
    if let Some(refusal) = without_host(parts.version, parts.headers.contains_key(HOST)) {
        return Ok(refusal);
    }
    let path = percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
    if let Some(redirect) = redirected(&parts, &path, false) {
        return Ok(redirect);
    }
    Ok(pages::monitoring(&api, &parts, &path).await.unwrap_or_else(pages::not_found))
}

async fn route(connection: &Arc<Connection>, api: &Arc<Api>, request: Request<Incoming>) -> Page {
    let (mut parts, body) = request.into_parts();
    let mut path = percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
    if let Some(rest) = path.strip_prefix("/v3beta/") {
        path = format!("/v3/{rest}");
        let with_query = match parts.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.clone(),
        };
        if let Ok(uri) = with_query.parse() {
            parts.uri = uri;
        }
    }
    if let Some(redirect) = redirected(&parts, &path, api.gateway.is_some()) {
        return redirect;
    }
    match &api.gateway {
        Some(gateway) if path.starts_with("/v3/") => {
            let call = |request: Request<gateway::Messages>| async {
                let request = request.map(Requests::Gateway);
                router::serve(Arc::clone(connection), request).await.unwrap_or_else(|never| match never {})
            };
            api.steps.watch("gateway", gateway.serve(Request::from_parts(parts, body), call)).await
        }
        _ => pages::serve(api, &parts, &path).await,
    }
}

/// Go's answer to HTTP/1.1 without the header that it demands.
fn without_host(version: Version, has_host: bool) -> Option<Page> {
    if version != Version::HTTP_11 || has_host {
        return None;
    }
    let text = "400 Bad Request: missing required Host header".to_owned();
    let mut response = respond(StatusCode::BAD_REQUEST, PLAIN, text);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Some(response)
}

/// To the clean path, or to the folder `/v3/`.
fn redirected(parts: &Parts, path: &str, has_gateway: bool) -> Option<Page> {
    let mut clean = clean(path);
    if has_gateway && clean == "/v3" {
        clean.push('/');
    }
    if clean == path {
        return None;
    }
    let target = match parts.uri.query() {
        Some(query) => format!("{clean}?{query}"),
        None => clean,
    };
    let mut response = Response::new(Answer::<Reply>::Whole(None));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    // A path that cannot stand in a header has no clean form either.
    let Ok(location) = HeaderValue::from_str(&target) else { return Some(pages::not_found()) };
    response.headers_mut().insert(LOCATION, location);
    if parts.method == Method::GET || parts.method == Method::HEAD {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    if parts.method == Method::GET {
        let escaped =
            target.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
        let body = format!("<a href=\"{escaped}\">Temporary Redirect</a>.\n\n");
        *response.body_mut() = Answer::Whole(Some(Bytes::from(body)));
    }
    Some(response)
}

/// Go's `cleanPath`: no empty parts, no dots, and the last slash kept.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean.len() > 1 {
        clean.push('/');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        let check = |path: &str, expected: &str| assert_eq!(clean(path), expected, "{path}");
        check("", "/");
        check("/", "/");
        check("//", "/");
        check("/health", "/health");
        check("//health", "/health");
        check("/a/./b/../c//", "/a/c/");
        check("/../..", "/");
        check("/v3/", "/v3/");
        check("/a/..", "/");
    }
}
