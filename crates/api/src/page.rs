//! HTTP/1.1 pages, with Go's status codes and headers.

use crate::reply::Reply;
use bytes::Bytes;
use gateway::Answer;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};

pub(crate) type Page = Response<Answer<Reply>>;

pub(crate) const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(crate) fn not_found() -> Page {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

pub(crate) fn respond(code: StatusCode, content_type: HeaderValue, body: String) -> Page {
    let mut response = Response::new(Answer::Whole(Some(Bytes::from(body))));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Plain text; `nosniff` keeps browsers from guessing another type.
pub(crate) fn text(code: StatusCode, body: String) -> Page {
    let mut response = respond(code, PLAIN, body);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A page as Go's `http.Error` makes it.
pub(crate) fn error(code: StatusCode, what: &str) -> Page {
    text(code, format!("{what}\n"))
}

/// Go's response to any method but GET.
pub(crate) fn not_allowed() -> Page {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    response
}
