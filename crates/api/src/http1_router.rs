//! HTTP/1.1: access control, then the JSON gateway or a page, routed as Go's `ServeMux` does for etcd.

use crate::{
    access::{host, host_name, misdirected},
    call::Connection,
    page::{self, PLAIN, Page, respond},
    pages,
    reply::Reply,
    requests::Requests,
    router,
    state::Api,
};
use bytes::Bytes;
use gateway::Answer;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_TYPE, EXPECT, HOST, LOCATION, ORIGIN, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::Body;
use percent_encoding::percent_decode_str;
use std::{convert::Infallible, sync::Arc};

/// Serves a request on a client port.
pub(crate) async fn serve<B: Body<Data = Bytes> + Send + Unpin + 'static>(
    connection: Arc<Connection>,
    request: Request<B>,
) -> Result<Page, Infallible> {
    let api = Arc::clone(&connection.api);
    if let Some(refusal) = refused(request.version(), request.headers()) {
        return Ok(refusal);
    }
    let name = host_name(host(request.uri().authority(), request.headers()));
    if !api.access.admits_host(name) {
        slog::warn!(api.log, "rejecting HTTP request to prevent DNS rebinding attacks"; "host" => name);
        return Ok(page::error(StatusCode::MISDIRECTED_REQUEST, &misdirected(name)));
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

/// Serves a request on a metrics port.
pub(crate) async fn monitor<B>(api: Arc<Api>, request: Request<B>) -> Result<Page, Infallible> {
    let (parts, _) = request.into_parts();
    if let Some(refusal) = refused(parts.version, &parts.headers) {
        return Ok(refusal);
    }
    let path = percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
    if let Some(redirect) = redirected(&parts, &path, false) {
        return Ok(redirect);
    }
    Ok(pages::monitoring(&api, &parts, &path).await.unwrap_or_else(page::not_found))
}

async fn route<B: Body<Data = Bytes> + Send + Unpin + 'static>(
    connection: &Arc<Connection>,
    api: &Arc<Api>,
    request: Request<B>,
) -> Page {
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

/// Requests that Go's server rejects before any handler, in its order and words; each closes the connection. Two `Host`
/// headers could pass the check with one and mean the other.
fn refused(version: Version, headers: &HeaderMap) -> Option<Page> {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, is_one) = (hosts.next(), hosts.next().is_none());
    let is_http11 = version == Version::HTTP_11;
    if !is_one {
        return Some(bad_request("400 Bad Request"));
    }
    if is_http11 && !is_plainly_chunked(headers) {
        let text = "Unsupported transfer encoding".to_owned();
        return Some(closing(respond(StatusCode::NOT_IMPLEMENTED, PLAIN, text)));
    }
    match host {
        None if is_http11 => return Some(bad_request("400 Bad Request: missing required Host header")),
        Some(host) if !is_host(host.as_bytes()) => {
            return Some(bad_request("400 Bad Request: malformed Host header"));
        }
        _ => {}
    }
    let expected = headers.get(EXPECT).map_or(&b""[..], HeaderValue::as_bytes);
    if expected.is_empty() || names_continue(expected) {
        return None;
    }
    let mut response = Response::new(Answer::Whole(None));
    *response.status_mut() = StatusCode::EXPECTATION_FAILED;
    Some(closing(response))
}

/// Whether the body has no transfer coding, or only `chunked`. Several codings invite request smuggling.
fn is_plainly_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Go's `ValidHostHeader`: only bytes that occur in a host name, address or port.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!$%&()*+,-.:;=['_~]".contains(byte))
}

/// Whether `100-continue`, the only expectation that exists, is among the tokens.
fn names_continue(expected: &[u8]) -> bool {
    expected.split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"100-continue"))
}

fn bad_request(text: &str) -> Page {
    closing(respond(StatusCode::BAD_REQUEST, PLAIN, text.to_owned()))
}

fn closing(mut response: Page) -> Page {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A redirect to the clean path, or from `/v3` to `/v3/`.
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
    // A path that cannot stand in a header has no clean form.
    let Ok(location) = HeaderValue::from_str(&target) else { return Some(page::not_found()) };
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

/// Go's `cleanPath`: removes empty and dot segments, and keeps a final slash.
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

    /// The status of a refusal, or 0 if the head is accepted.
    fn code(version: Version, headers: &[(&str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().expect("a name");
            map.append(name, value.parse().expect("a value"));
        }
        refused(version, &map).map_or(0, |page| {
            assert_eq!(page.headers()[CONNECTION], "close");
            page.status().as_u16()
        })
    }

    #[test]
    fn heads_that_go_refuses_are_refused() {
        let check = |headers: &[(&str, &str)], expected: u16| {
            assert_eq!(code(Version::HTTP_11, headers), expected, "{headers:?}");
        };
        check(&[("host", "a")], 0);
        check(&[("host", "")], 0);
        check(&[("host", "[::1]:5")], 0);
        check(&[], 400);
        check(&[("host", "a"), ("host", "a")], 400);
        for host in ["a b", "a/b", "a@b", "a?b", "a#b", "a\"b", "a{", "\u{e9}"] {
            check(&[("host", host)], 400);
        }
        check(&[("host", "a"), ("transfer-encoding", "Chunked")], 0);
        for coding in ["gzip, chunked", "chunked, chunked", "identity", ""] {
            check(&[("host", "a"), ("transfer-encoding", coding)], 501);
        }
        check(&[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], 501);
        check(&[("transfer-encoding", "gzip, chunked")], 501);
        check(&[("host", "a"), ("expect", "foo")], 417);
        for good in ["", "100-continue", "100-Continue", "100-continue, foo"] {
            check(&[("host", "a"), ("expect", good)], 0);
        }
        assert_eq!(code(Version::HTTP_10, &[]), 0);
        assert_eq!(code(Version::HTTP_10, &[("host", "a"), ("host", "b")]), 400);
        assert_eq!(code(Version::HTTP_10, &[("transfer-encoding", "gzip, chunked")]), 0);
        assert_eq!(code(Version::HTTP_10, &[("expect", "foo")]), 417);
    }

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
