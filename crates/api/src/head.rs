//! Checks the headers of a call in the order of grpc-go's `operateHeaders`, and refuses with its texts: hosts, content
//! type, deadline, binary metadata, authority, method, encoding. One pass, no allocation for a valid call.

use crate::{methods::Method, reply::Reply, zip};
use gateway::check_base64;
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, HOST},
    request::Parts,
};
use proto::{EtcdError, grpc};
use std::time::{Duration, Instant};
use tonic::Status;

const GRPC: &[u8] = b"application/grpc";
/// Suffix of binary metadata names, whose values are base64.
const BINARY: &str = "-bin";
/// Longest `grpc-timeout`, in bytes: eight digits and a unit.
const TIMEOUT_BYTES_MAX: usize = 9;
/// A timeout below this may expire before the call begins, so the clock is read again.
const TIMEOUT_SHORT: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) deadline: Option<Instant>,
    /// The response's content type unless plain: grpc-go repeats the request's. Boxed, as part of every call's task.
    pub(crate) content_type: Option<Box<HeaderValue>>,
    pub(crate) encoding: Encoding,
}

/// Compression of the client's messages, and of the responses to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    /// Not supported; the requested name.
    Unknown(Box<str>),
}

/// A refusal, boxed because it is rare and large.
pub(crate) type Refusal = Box<http::Response<Reply>>;

impl Head {
    /// Checks the headers. `from_wire` is false for our own gateway, which sends no authority.
    pub(crate) fn of(parts: &Parts, from_wire: bool) -> Result<Self, Refusal> {
        let fields = Fields::of(parts);
        let content_type = fields.content_type.map_err(|found| {
            let text = format!("invalid gRPC request content-type {:?}", String::from_utf8_lossy(found));
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, Status::invalid_argument(text))
        });
        let echo = content_type.as_ref().ok().cloned().flatten();
        let refuse = |(code, status)| refusal(code, status, echo.clone());
        if fields.hosts > 1 {
            let authorities = usize::from(!from_wire || has_authority(parts));
            let text = format!(
                "num values of :authority: {authorities}, num values of host: {}, both must only have 1 value as per HTTP/2 spec",
                fields.hosts
            );
            return Err(refuse((StatusCode::BAD_REQUEST, Status::internal(text))));
        }
        let content_type = content_type.map_err(&refuse)?;
        if let Some(text) = fields.malformed {
            return Err(refuse((StatusCode::BAD_REQUEST, Status::internal(text))));
        }
        if from_wire && fields.hosts == 0 && !has_authority(parts) {
            let text = "no host or :authority header present";
            return Err(refuse((StatusCode::BAD_REQUEST, Status::internal(text))));
        }
        if parts.method != http::Method::POST {
            let method = parts.method.as_str();
            let text = format!("Received a HEADERS frame with :method {method:?} which should be POST");
            return Err(refuse((StatusCode::METHOD_NOT_ALLOWED, Status::internal(text))));
        }
        let deadline = deadline(fields.timeout).map_err(|status| refuse((StatusCode::OK, status)))?;
        let encoding = match fields.encoding.map(HeaderValue::as_bytes) {
            None | Some(b"" | b"identity") => Encoding::Identity,
            Some(name) if name == zip::NAME.as_bytes() => Encoding::Gzip,
            Some(name) => Encoding::Unknown(String::from_utf8_lossy(name).into()),
        };
        Ok(Self { deadline, content_type: content_type.map(Box::new), encoding })
    }
}

impl Encoding {
    /// Whether it is gzip; fails if unknown.
    pub(crate) fn is_gzip(&self) -> Result<bool, Status> {
        match self {
            Self::Identity => Ok(false),
            Self::Gzip => Ok(true),
            Self::Unknown(name) => {
                let text = format!("grpc: Decompressor is not installed for grpc-encoding {name:?}");
                Err(Status::unimplemented(text))
            }
        }
    }
}

/// The called method, or the path of an unknown one. As in grpc-go, a query string is part of the name.
pub(crate) fn method(parts: &Parts) -> Result<Method, &str> {
    let path = match parts.uri.path_and_query().map_or("", |path| path.as_str()) {
        // A path that is no valid URI path is stored in the extensions; the URI has "/" in its place.
        "/" => parts.extensions.get::<h2::ext::RawPath>().map_or("/", h2::ext::RawPath::as_str),
        path => path,
    };
    Method::at(path).ok_or(path)
}

/// Whether the client sent an authority, even an invalid one: clients send lists of hosts, and socket paths.
fn has_authority(parts: &Parts) -> bool {
    parts.uri.authority().is_some() || parts.extensions.get::<h2::ext::RawAuthority>().is_some()
}

fn refusal(code: StatusCode, status: Status, content_type: Option<HeaderValue>) -> Refusal {
    let mut response = Reply::refusal(status);
    *response.status_mut() = code;
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    Box::new(response)
}

struct Fields<'a> {
    /// `Ok` is the type to repeat, `None` for the plain one; `Err` is a type that is not gRPC.
    content_type: Result<Option<HeaderValue>, &'a [u8]>,
    hosts: usize,
    timeout: Option<Duration>,
    encoding: Option<&'a HeaderValue>,
    malformed: Option<String>,
}

impl<'a> Fields<'a> {
    fn of(parts: &'a Parts) -> Self {
        let mut fields =
            Self { content_type: Err(b""), hosts: 0, timeout: None, encoding: None, malformed: None };
        for (name, value) in &parts.headers {
            match name.as_str() {
                "content-type" => fields.add_content_type(value.as_bytes()),
                "grpc-timeout" => match timeout(value.as_bytes()) {
                    Ok(timeout) => fields.timeout = Some(timeout),
                    Err(why) => fields.malformed = Some(format!("malformed grpc-timeout: {why}")),
                },
                "grpc-encoding" => fields.encoding = Some(value),
                name if name.ends_with(BINARY) => {
                    if let Err(offset) = check_base64(value.as_bytes()) {
                        let value = String::from_utf8_lossy(value.as_bytes());
                        let text = format!(
                            "malformed binary metadata {value:?} in header {name:?}: illegal base64 data at input byte {offset}"
                        );
                        fields.malformed = Some(text);
                    }
                }
                name if name == HOST.as_str() => fields.hosts += 1,
                _ => {}
            }
        }
        fields
    }

    /// One gRPC type among several is enough.
    fn add_content_type(&mut self, value: &'a [u8]) {
        match subtype(value) {
            Some(subtype) => self.content_type = Ok(echoed(subtype)),
            None if self.content_type.is_err() => self.content_type = Err(value),
            None => {}
        }
    }
}

/// What follows `application/grpc` after `+` or `;`; `None` for other types.
fn subtype(content_type: &[u8]) -> Option<&[u8]> {
    match content_type.strip_prefix(GRPC)? {
        [] => Some(b""),
        [b'+' | b';', subtype @ ..] => Some(subtype),
        _ => None,
    }
}

/// The response's content type. `proto` and `json` are repeated, but messages are always protobuf.
fn echoed(subtype: &[u8]) -> Option<HeaderValue> {
    if subtype.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(&[GRPC, b"+", subtype].concat()).ok()
}

fn deadline(timeout: Option<Duration>) -> Result<Option<Instant>, Status> {
    let Some(timeout) = timeout else { return Ok(None) };
    let now = Instant::now();
    // `None` if it is beyond the clock's range: it never passes.
    let deadline = now.checked_add(timeout);
    if timeout < TIMEOUT_SHORT && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        return Err(EtcdError::DeadlineExceeded.into());
    }
    Ok(deadline)
}

/// grpc-go's `decodeTimeout`: digits and a unit.
fn timeout(text: &[u8]) -> Result<Duration, String> {
    let shown = || String::from_utf8_lossy(text);
    if text.len() < 2 {
        return Err(format!("transport: timeout string is too short: {:?}", shown()));
    }
    if text.len() > TIMEOUT_BYTES_MAX {
        return Err(format!("transport: timeout string is too long: {:?}", shown()));
    }
    let (digits, unit) = text.split_at(text.len() - 1);
    if grpc::timeout(0, unit).is_none() {
        return Err(format!("transport: timeout unit is not recognized: {:?}", shown()));
    }
    let number = str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let number: Option<u64> = number.and_then(|text| text.parse().ok());
    number.and_then(|number| grpc::timeout(number, unit)).ok_or_else(|| {
        let digits = String::from_utf8_lossy(digits);
        format!("strconv.ParseUint: parsing {digits:?}: invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Request};

    const NEEDED: &[(&str, &str)] = &[("content-type", "application/grpc")];

    fn parts(uri: &str, headers: &[&[(&str, &str)]]) -> Parts {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri.parse().expect("a URI");
        for (name, value) in headers.iter().copied().flatten() {
            let name: http::HeaderName = name.parse().expect("a name");
            request.headers_mut().append(name, value.parse().expect("a value"));
        }
        request.into_parts().0
    }

    /// HTTP status, gRPC status, text and content type of a refusal.
    fn refused(parts: &Parts) -> (u16, String, String, String) {
        let response = Head::of(parts, true).expect_err("a refusal");
        let get = |headers: &HeaderMap, name| {
            headers.get(name).map_or_else(String::new, |v| v.to_str().expect("text").to_owned())
        };
        let headers = response.headers();
        let text = get(headers, "grpc-message");
        let text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
        (response.status().as_u16(), get(headers, "grpc-status"), text, get(headers, "content-type"))
    }

    fn check(headers: &[&[(&str, &str)]], code: u16, status: &str, text: &str) {
        let found = refused(&parts("http://a/etcdserverpb.KV/Put", headers));
        assert_eq!((found.0, &*found.1, &*found.2), (code, status, text), "{headers:?}");
    }

    #[test]
    fn refusals_are_grpc_gos_and_in_its_order() {
        let hosts: &[(&str, &str)] = &[("host", "a"), ("host", "b")];
        let text = "num values of :authority: 1, num values of host: 2, both must only have 1 value as per HTTP/2 spec";
        check(&[hosts], 400, "13", text);
        check(&[hosts, NEEDED, &[("grpc-timeout", "x")]], 400, "13", text);
        check(&[], 415, "3", "invalid gRPC request content-type \"\"");
        for other in ["application/grpc-web", "application/grpcx", "application/json", "Application/grpc"] {
            let text = format!("invalid gRPC request content-type {other:?}");
            check(&[&[("content-type", other)]], 415, "3", &text);
        }
        let short = "malformed grpc-timeout: transport: timeout string is too short: \"S\"";
        check(&[NEEDED, &[("grpc-timeout", "S")]], 400, "13", short);
        let long = "malformed grpc-timeout: transport: timeout string is too long: \"123456789S\"";
        check(&[NEEDED, &[("grpc-timeout", "123456789S")]], 400, "13", long);
        let unit = "malformed grpc-timeout: transport: timeout unit is not recognized: \"12\"";
        check(&[NEEDED, &[("grpc-timeout", "12")]], 400, "13", unit);
        let sign = "malformed grpc-timeout: strconv.ParseUint: parsing \"-1\": invalid syntax";
        check(&[NEEDED, &[("grpc-timeout", "-1S")]], 400, "13", sign);
        let binary =
            "malformed binary metadata \"a*==\" in header \"x-bin\": illegal base64 data at input byte 1";
        check(&[NEEDED, &[("x-bin", "a*==")]], 400, "13", binary);
        check(&[NEEDED, &[("grpc-timeout", "0n")]], 200, "4", "context deadline exceeded");
        check(&[NEEDED, &[("grpc-timeout", "1n")]], 200, "4", "context deadline exceeded");
        let mut get = parts("http://a/b/c", &[NEEDED]);
        get.method = http::Method::GET;
        assert_eq!(refused(&get).0, 405);
        let nobody = refused(&parts("/etcdserverpb.KV/Put", &[NEEDED]));
        assert_eq!((nobody.0, &*nobody.2), (400, "no host or :authority header present"));
        assert!(Head::of(&parts("/etcdserverpb.KV/Put", &[NEEDED, &[("host", "a")]]), true).is_ok());
        assert!(Head::of(&parts("/etcdserverpb.KV/Put", &[NEEDED]), false).is_ok(), "the gateway's");
    }

    #[test]
    fn content_types_are_said_back() {
        let check = |content_type: &str, expected: Option<&str>| {
            let head = Head::of(&parts("http://a/b/c", &[&[("content-type", content_type)]]), true);
            let found = head.ok().expect("one of gRPC's").content_type;
            assert_eq!(found.as_ref().map(|v| v.to_str().expect("text")), expected, "{content_type}");
        };
        check("application/grpc", None);
        check("application/grpc+", None);
        check("application/grpc;", None);
        check("application/grpc+proto", Some("application/grpc+proto"));
        check("application/grpc+json", Some("application/grpc+json"));
        check("application/grpc;v=1", Some("application/grpc+v=1"));
        let error = refused(&parts(
            "http://a/b/c",
            &[&[("content-type", "application/grpc+proto"), ("grpc-timeout", "x")]],
        ));
        assert_eq!(error.3, "application/grpc+proto");
    }

    #[test]
    fn encodings_are_known_by_name() {
        let check = |encoding: &str, expected: Result<bool, &str>| {
            let head = Head::of(&parts("http://a/b/c", &[NEEDED, &[("grpc-encoding", encoding)]]), true);
            let found = head.ok().expect("a call").encoding.is_gzip().map_err(|s| s.message().to_owned());
            assert_eq!(found.as_ref().map_err(|text| &**text), expected.as_ref().map_err(|t| *t));
        };
        check("gzip", Ok(true));
        check("identity", Ok(false));
        check("", Ok(false));
        check("br", Err("grpc: Decompressor is not installed for grpc-encoding \"br\""));
        check("GZIP", Err("grpc: Decompressor is not installed for grpc-encoding \"GZIP\""));
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let check = |text: &str, expected| assert_eq!(timeout(text.as_bytes()).ok(), expected, "{text}");
        check("5S", Some(Duration::from_secs(5)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
        check("99999999H", Some(Duration::from_hours(99_999_999)));
        check("100m", Some(Duration::from_millis(100)));
        check("7u", Some(Duration::from_micros(7)));
        check("3M", Some(Duration::from_mins(3)));
        for wrong in ["", "S", "5", "123456789S", "-1S", "+1S", "5é", "1 S", "S5"] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_query_belongs_to_the_methods_name() {
        assert_eq!(method(&parts("http://a/etcdserverpb.KV/Put", &[])), Ok(Method::Put));
        assert_eq!(method(&parts("http://a/etcdserverpb.KV/Put?a=b", &[])), Err("/etcdserverpb.KV/Put?a=b"));
    }
}
