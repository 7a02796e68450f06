//! How a call went, in gRPC's terms and in HTTP's.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use percent_encoding::percent_decode;

use crate::Answer;

/// gRPC's codes that are made here.
pub(crate) const INVALID_ARGUMENT: u32 = 3;
pub(crate) const DEADLINE_EXCEEDED: u32 = 4;
pub(crate) const NOT_FOUND: u32 = 5;
pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
pub(crate) const UNIMPLEMENTED: u32 = 12;
pub(crate) const INTERNAL: u32 = 13;
const UNAUTHENTICATED: u32 = 16;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// gRPC's code.
    pub(crate) code: u32,
    pub(crate) message: String,
}

impl Status {
    pub(crate) fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(INVALID_ARGUMENT, message)
    }

    /// In the words of grpc-go, which is what refuses an overlong message in etcd.
    pub(crate) fn too_large(max_bytes: usize) -> Self {
        Self::new(
            RESOURCE_EXHAUSTED,
            format!("grpc: received message larger than max (more than {max_bytes} bytes of JSON)"),
        )
    }

    /// The failure that headers or trailers tell of; `None` for the status OK, and where they tell of none.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        if code == 0 {
            return None;
        }
        let message = headers.get("grpc-message").map_or(&b""[..], |m| m.as_bytes());
        Some(Self::new(code, percent_decode(message).decode_utf8_lossy()))
    }

    /// `google.rpc.Status` as protojson shows it.
    pub(crate) fn json(&self) -> String {
        if self.message.is_empty() {
            return format!(r#"{{"code":{}}}"#, self.code);
        }
        format!(r#"{{"code":{},"message":{}}}"#, self.code, serde_json::Value::from(&*self.message))
    }

    /// What grpc-gateway maps the code to.
    pub(crate) fn http(&self) -> StatusCode {
        let code = match self.code {
            0 => 200,
            1 => 499,
            INVALID_ARGUMENT | 9 | 11 => 400,
            DEADLINE_EXCEEDED => 504,
            NOT_FOUND => 404,
            6 | 10 => 409,
            7 => 403,
            RESOURCE_EXHAUSTED => 429,
            UNIMPLEMENTED => 501,
            14 => 503,
            UNAUTHENTICATED => 401,
            _ => 500,
        };
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The whole answer to a call that failed before it said anything.
    pub(crate) fn response<R>(&self) -> Response<Answer<R>> {
        self.with_body(self.json())
    }

    /// The same of a call that streams: its only line.
    pub(crate) fn stream_response<R>(&self) -> Response<Answer<R>> {
        self.with_body(self.line())
    }

    /// The last line of a stream that failed.
    pub(crate) fn line(&self) -> String {
        format!("{{\"error\":{}}}\n", self.json())
    }

    fn with_body<R>(&self, body: String) -> Response<Answer<R>> {
        let mut response = Response::new(Answer::Whole(Some(Bytes::from(body))));
        *response.status_mut() = self.http();
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        if self.code == UNAUTHENTICATED
            && let Ok(message) = HeaderValue::from_str(&self.message)
        {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, message);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_headers_and_shown_as_json() {
        let check = |code: &'static str, message: &'static str, expected: Option<(u16, &str)>| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_static(code));
            headers.insert("grpc-message", HeaderValue::from_static(message));
            let status = Status::of(&headers);
            let shown = status.map(|s| (s.http().as_u16(), s.json()));
            assert_eq!(shown.as_ref().map(|(code, json)| (*code, &**json)), expected, "{code} {message}");
        };
        check("0", "", None);
        check(
            "3",
            "etcdserver: key is not provided",
            Some((400, r#"{"code":3,"message":"etcdserver: key is not provided"}"#)),
        );
        check("2", "a%22b%C3%A9", Some((500, r#"{"code":2,"message":"a\"bé"}"#)));
        check("14", "", Some((503, r#"{"code":14}"#)));
        check("1", "x", Some((499, r#"{"code":1,"message":"x"}"#)));
    }
}
