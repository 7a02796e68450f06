//! Converts HTTP headers to gRPC metadata, by grpc-gateway's rules.

use crate::status::Status;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::time::Duration;

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The prefix of a client's own metadata.
const OWN_PREFIX: &str = "grpc-metadata-";

/// The suffix of binary metadata, whose values are base64.
const BINARY: &str = "-bin";

/// The permanent headers of the IANA registry that are passed on as `grpcgateway-…`.
const PERMANENT: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "authorization",
    "cache-control",
    "content-type",
    "cookie",
    "date",
    "expect",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "warning",
];

/// Names that grpc-go reserves: metadata cannot set them.
const RESERVED: &[&str] = &[
    "content-type",
    "user-agent",
    "grpc-message-type",
    "grpc-encoding",
    "grpc-message",
    "grpc-status",
    "grpc-timeout",
    "te",
];

#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) headers: HeaderMap,
    pub(crate) timeout: Option<Duration>,
}

pub(crate) fn of(headers: &HeaderMap) -> Result<Metadata, Status> {
    let timeout = headers.get(TIMEOUT).filter(|text| !text.is_empty()).map(timeout).transpose()?.flatten();
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        if name == header::AUTHORIZATION {
            metadata.append(header::AUTHORIZATION, value.clone());
        }
        let own = name.as_str().strip_prefix(OWN_PREFIX);
        let key = match own {
            Some(key) if RESERVED.contains(&key) => continue,
            Some(key) => HeaderName::from_bytes(key.as_bytes()),
            None if PERMANENT.contains(&name.as_str()) => {
                HeaderName::from_bytes(format!("grpcgateway-{name}").as_bytes())
            }
            None => continue,
        };
        if let (Some(key), Err(offset)) =
            (own.filter(|key| key.ends_with(BINARY)), check_base64(value.as_bytes()))
        {
            let text = format!("illegal base64 data at input byte {offset}");
            return Err(Status::invalid(format!("invalid binary header {}: {text}", canonical(key))));
        }
        let is_text = value.as_bytes().iter().all(|byte| (0x20..=0x7e).contains(byte));
        if let (Ok(key), true) = (key, is_text) {
            metadata.append(key, value.clone());
        }
    }
    metadata.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(timeout) = timeout {
        metadata.insert(TIMEOUT, as_grpc(timeout));
    }
    Ok(Metadata { headers: metadata, timeout })
}

/// Checks base64 as Go does for binary metadata: with padding if the length is a multiple of four, else without. The
/// error is the offset of the first wrong byte, as Go reports it.
pub fn check_base64(text: &[u8]) -> Result<(), usize> {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let digits = text.iter().position(|byte| !is_digit(byte)).unwrap_or(text.len());
    let rest = &text[digits..];
    let is_padded = text.len().is_multiple_of(4);
    match (digits % 4, rest) {
        (0, []) => Ok(()),
        (2 | 3, []) if !is_padded => Ok(()),
        (1, []) => Err(digits - 1),
        (2, [b'=', b'=']) | (3, [b'=']) if is_padded => Ok(()),
        (2, [b'=', b'=', ..]) if is_padded => Err(digits + 2),
        (3, [b'=', ..]) if is_padded => Err(digits + 1),
        _ => Err(digits),
    }
}

/// The name of a client's own metadata header, as Go writes it.
fn canonical(key: &str) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        first.to_ascii_uppercase() + rest
    };
    let words: Vec<String> = format!("{OWN_PREFIX}{key}").split('-').map(word).collect();
    words.join("-")
}

/// How long the caller waits. As in grpc-gateway, zero is for ever and a negative timeout has passed.
fn timeout(value: &HeaderValue) -> Result<Option<Duration>, Status> {
    let wrong =
        || Status::invalid(format!("invalid grpc-timeout: {}", String::from_utf8_lossy(value.as_bytes())));
    let text = value.to_str().map_err(|_| wrong())?;
    let (digits, unit) =
        text.len().checked_sub(1).and_then(|end| text.split_at_checked(end)).ok_or_else(wrong)?;
    let count: i64 = digits.parse().map_err(|_| wrong())?;
    let is_endless = count == 0;
    let count = u64::try_from(count).unwrap_or(0);
    let timeout = proto::grpc::timeout(count, unit.as_bytes()).ok_or_else(wrong)?;
    Ok((!is_endless).then_some(timeout))
}

/// In the finest unit with at most eight digits, which is what gRPC allows.
fn as_grpc(timeout: Duration) -> HeaderValue {
    const DIGITS: u128 = 99_999_999;
    let units = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (timeout.as_secs().into(), 'S'),
    ];
    let (count, unit) = units.into_iter().find(|(count, _)| *count <= DIGITS).unwrap_or((DIGITS, 'H'));
    HeaderValue::try_from(format!("{count}{unit}")).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&str, &str)], expected: &[(&str, &str)]) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::try_from(*name).expect("a name"),
                HeaderValue::try_from(*value).expect("a value"),
            );
        }
        let metadata = of(&map).expect("good headers").headers;
        let mut found: Vec<(&str, &str)> =
            metadata.iter().map(|(k, v)| (k.as_str(), v.to_str().expect("text"))).collect();
        found.retain(|pair| !matches!(pair, ("te", "trailers") | ("content-type", "application/grpc")));
        found.sort_unstable();
        assert_eq!(found, expected, "{headers:?}");
    }

    #[test]
    fn headers_are_passed_on_by_grpc_gateways_rules() {
        check(&[("X-Any", "1"), ("Content-Length", "2"), ("Connection", "close")], &[]);
        check(&[("Authorization", "tok")], &[("authorization", "tok"), ("grpcgateway-authorization", "tok")]);
        check(
            &[("Grpc-Metadata-Token", "tok"), ("Grpc-Metadata-HasLeader", "true")],
            &[("hasleader", "true"), ("token", "tok")],
        );
        check(
            &[("Content-Type", "text/x"), ("User-Agent", "curl")],
            &[("grpcgateway-content-type", "text/x"), ("grpcgateway-user-agent", "curl")],
        );
        check(&[("Grpc-Metadata-Content-Type", "text/x"), ("Grpc-Metadata-Grpc-Timeout", "1S")], &[]);
        check(&[("Grpc-Metadata-Token", "é")], &[]);
        check(&[("Grpc-Timeout", "3S")], &[("grpc-timeout", "3000000u")]);
        check(&[("Grpc-Timeout", "200000000S")], &[("grpc-timeout", "99999999H")]);
        check(&[("Grpc-Timeout", "-3S")], &[("grpc-timeout", "0n")]);
        check(&[("Grpc-Timeout", "0S")], &[]);
    }

    #[test]
    fn binary_metadata_is_base64_as_go_takes_it() {
        for good in ["", "AA==", "AAA=", "AAAA", "AA", "AAA", "AAAAAA", "+/8="] {
            assert_eq!(check_base64(good.as_bytes()), Ok(()), "{good}");
        }
        let bad = [
            ("A", 0),
            ("A===", 1),
            ("AAA*", 3),
            ("-_8=", 0),
            ("AAAAA", 4),
            ("AA=", 2),
            ("a*==", 1),
            ("====", 0),
            ("AA=A", 2),
            ("AAA=AAAA", 4),
            ("AAAA=", 4),
        ];
        for (text, offset) in bad {
            assert_eq!(check_base64(text.as_bytes()), Err(offset), "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("grpc-metadata-x-bin", HeaderValue::from_static("a*"));
        let text = "invalid binary header Grpc-Metadata-X-Bin: illegal base64 data at input byte 1";
        assert_eq!(of(&headers).expect_err("no base64").message, text);
    }

    #[test]
    fn a_timeout_that_is_none_is_refused() {
        for text in ["x", "5", "S", "5X", "1.5S", "99999999999999999999S"] {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, HeaderValue::from_static(text));
            let status = of(&headers).expect_err(text);
            assert_eq!(status.message, format!("invalid grpc-timeout: {text}"));
        }
    }
}
