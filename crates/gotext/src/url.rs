//! URLs of members, as Go's `net/url` reads them, etcd checks them (`types.NewURLs`), and Go writes them again.

use core::net::Ipv6Addr;
use std::fmt::Write as _;

/// A member's URL as etcd keeps and hashes it, or `None` if etcd refuses it: the scheme in small letters, all else as
/// given. An `http` URL needs a host with a port, and has no path. Users, queries, fragments and `%` are refused too, which
/// etcd keeps and then cannot use.
pub fn of_member(text: &str) -> Option<String> {
    let (scheme, rest) = text.trim().split_once(':')?;
    if rest.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "unix" | "unixs" => Some(format!("{scheme}:{rest}")),
        "http" | "https" => Some(format!("{scheme}://{}", authority(rest.strip_prefix("//")?)?)),
        _ => None,
    }
}

/// `host:port`; characters outside of ASCII are escaped. Both may be empty, the colon may not.
fn authority(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(literal) = literal {
        return literal.parse::<Ipv6Addr>().ok().map(|_| text.to_owned());
    }
    let mut escaped = String::new();
    for byte in host.bytes() {
        match byte {
            b'-' | b'_' | b'.' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b','
            | b';' | b'=' | b'<' | b'>' | b'"' => escaped.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => escaped.push(char::from(byte)),
            _ if byte.is_ascii() => return None,
            _ => write!(escaped, "%{byte:02X}").expect("a string takes all"),
        }
    }
    Some(format!("{escaped}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_keeps_is_kept_as_go_writes_it() {
        let kept =
            |text: &str, expected: &str| assert_eq!(of_member(text).as_deref(), Some(expected), "{text}");
        kept("http://127.0.0.1:2380", "http://127.0.0.1:2380");
        kept(" HTTPS://Host.Example:2380\n", "https://Host.Example:2380");
        kept("http://[::1]:2380", "http://[::1]:2380");
        kept("http://:2380", "http://:2380");
        kept("http://host:", "http://host:");
        kept("http://host:99999", "http://host:99999");
        kept("http://bücher:1", "http://b%C3%BCcher:1");
        kept("unix://localhost:m1", "unix://localhost:m1");
        kept("unixs:///run/x.sock", "unixs:///run/x.sock");
    }

    #[test]
    fn what_etcd_refuses_is_refused() {
        for text in [
            "",
            "2380",
            "localhost:2380",
            "mailto://127.0.0.1:2380",
            "http:/127.0.0.1:2380",
            "http:127.0.0.1:2380",
            "http://127.0.0.1",
            "http://127.0.0.1:port",
            "http://127.0.0.1:2380/",
            "http://127.0.0.1:2380/path",
            "http://::1:2380",
            "http://[::1]",
            "http://[127.0.0.1]:2380",
            "http://[host]:2380",
            "http://a b:2380",
            "http://a\tb:2380",
            "unix://a\u{7f}b",
            "://127.0.0.1:2380",
        ] {
            assert_eq!(of_member(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_no_member_can_be_reached_at_is_refused_though_etcd_keeps_it() {
        for text in ["http://me@host:1", "http://host:1?x", "http://host:1#x", "http://%C3%BC:1"] {
            assert_eq!(of_member(text), None, "{text:?}");
        }
    }
}
