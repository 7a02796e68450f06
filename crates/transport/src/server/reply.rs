//! Responses as Go's `http.Error` and `http.NotFound` write them, and the body type of the server.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};

use crate::stream::StreamBody;

pub(crate) enum Reply {
    /// A complete body; `None` after it was sent.
    Whole(Option<Bytes>),
    Stream(Box<StreamBody>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(_) => SizeHint::new(), // chunked
        }
    }
}

pub(crate) fn empty(status: StatusCode) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(None));
    *response.status_mut() = status;
    response
}

/// 200 with a body of this type.
pub(crate) fn ok(content_type: &'static str, body: String) -> Response<Reply> {
    ok_bytes(content_type, body.into())
}

/// 200 with a body of this type.
pub(crate) fn ok_bytes(content_type: &'static str, body: Bytes) -> Response<Reply> {
    let body = (!body.is_empty()).then_some(body);
    let mut response = Response::new(Reply::Whole(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// As Go's `http.Error`: the text and a line feed.
pub(crate) fn error(status: StatusCode, text: &str) -> Response<Reply> {
    let mut response = ok("text/plain; charset=utf-8", format!("{text}\n"));
    *response.status_mut() = status;
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// As Go's `http.NotFound` answers.
pub(crate) fn not_found() -> Response<Reply> {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

/// 405. Most of etcd's handlers send the allowed method.
pub(crate) fn not_allowed(allow: Option<&'static str>) -> Response<Reply> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    response
}

/// Closes the connection after the response: the rest of the body was not read.
pub(crate) fn closing(mut answer: Response<Reply>) -> Response<Reply> {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

pub(crate) fn with(mut response: Response<Reply>, name: HeaderName, value: &str) -> Response<Reply> {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}
