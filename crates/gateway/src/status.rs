//! The status of a failed call, for gRPC and for HTTP.

use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode;
use std::fmt;

/// The gRPC codes that the gateway produces.
pub(crate) const INVALID_ARGUMENT: u32 = 3;
pub(crate) const DEADLINE_EXCEEDED: u32 = 4;
pub(crate) const NOT_FOUND: u32 = 5;
pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
pub(crate) const UNIMPLEMENTED: u32 = 12;
pub(crate) const INTERNAL: u32 = 13;
pub(crate) const UNAUTHENTICATED: u32 = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
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

    /// What is asked for does not come in time.
    pub(crate) fn late() -> Self {
        Self::new(DEADLINE_EXCEEDED, "context deadline exceeded")
    }

    /// The gRPC side's body fails.
    pub(crate) fn broke_off() -> Self {
        Self::new(INTERNAL, "the answer broke off")
    }

    /// An answer has no JSON.
    pub(crate) fn unshown(error: impl fmt::Display) -> Self {
        Self::new(INTERNAL, format!("the gateway cannot show this answer: {error}"))
    }

    /// With grpc-go's text, as in etcd.
    pub(crate) fn too_large(max_bytes: usize) -> Self {
        Self::new(
            RESOURCE_EXHAUSTED,
            format!("grpc: received message larger than max (more than {max_bytes} bytes of JSON)"),
        )
    }

    /// The failure in headers or trailers; `None` if they have status OK or no status.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        if code == 0 {
            return None;
        }
        let message = headers.get("grpc-message").map_or(&b""[..], |m| m.as_bytes());
        Some(Self::new(code, percent_decode(message).decode_utf8_lossy()))
    }

    /// As JSON: `google.rpc.Status` as protojson writes it.
    pub(crate) fn json(&self) -> String {
        if self.message.is_empty() {
            return format!(r#"{{"code":{}}}"#, self.code);
        }
        format!(r#"{{"code":{},"message":{}}}"#, self.code, serde_json::Value::from(&*self.message))
    }

    /// The HTTP status, by grpc-gateway's mapping.
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

    pub(crate) fn line(&self) -> String {
        format!("{{\"error\":{}}}\n", self.json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

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
