//! HTTP access control: the host allow-list and CORS, as etcd's access controller does it.

use http::{HeaderMap, HeaderValue, header, uri::Authority};
use std::collections::HashSet;

const ANY: &str = "*";

/// Allowed origins and hosts. An empty list, or one that contains `*`, allows everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    origins: HashSet<String>,
    hosts: HashSet<String>,
}

impl Access {
    pub(crate) fn new(origins: &[String], hosts: &[String]) -> Self {
        Self { origins: origins.iter().cloned().collect(), hosts: hosts.iter().cloned().collect() }
    }

    /// Whether a request for this host is answered. Without TLS only known names, against DNS rebinding
    /// (CVE-2018-5702).
    pub(crate) fn admits_host(&self, host: &str) -> bool {
        holds(&self.hosts, host)
    }

    pub(crate) fn add_cors(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let any = HeaderValue::from_static(ANY);
        let allowed = if holds(&self.origins, ANY) {
            any
        } else {
            // A missing origin is the empty string, which no list contains.
            match origin {
                Some(origin) if origin.to_str().is_ok_and(|o| self.origins.contains(o)) => origin.clone(),
                _ => return,
            }
        };
        let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
        let names = HeaderValue::from_static("accept, content-type, authorization");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
}

fn holds(list: &HashSet<String>, name: &str) -> bool {
    list.is_empty() || list.contains(ANY) || list.contains(name)
}

/// The host without its port, as Go's `net.SplitHostPort` splits it; unchanged if there is no port.
pub(crate) fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((name, port)) if port.starts_with(':') => name,
            _ => host,
        };
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

/// The requested host: the target's authority if present, else the `Host` header.
pub(crate) fn host<'a>(authority: Option<&'a Authority>, headers: &'a HeaderMap) -> &'a str {
    let header = || headers.get(header::HOST).and_then(|host| host.to_str().ok());
    authority.map(Authority::as_str).or_else(header).unwrap_or_default()
}

/// The body of a refusal, in etcd's words.
pub(crate) fn misdirected(host: &str) -> String {
    format!(
        "
etcd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. etcd --host-whitelist {host:?}

This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|&n| n.to_owned()).collect()
    }

    #[test]
    fn hosts_are_cut_as_go_cuts_them() {
        let check = |host: &str, expected: &str| assert_eq!(host_name(host), expected, "{host}");
        check("example.com", "example.com");
        check("example.com:2379", "example.com");
        check("127.0.0.1:", "127.0.0.1");
        check("[::1]:2379", "::1");
        check("[::1]", "[::1]");
        check("localhost:::", "localhost:::");
        check("", "");
    }

    #[test]
    fn an_empty_list_and_a_star_admit_everybody() {
        let check = |hosts: &[&str], host: &str, expected: bool| {
            assert_eq!(Access::new(&[], &list(hosts)).admits_host(host), expected, "{hosts:?} {host}");
        };
        check(&[], "a", true);
        check(&["*"], "a", true);
        check(&["b", "*"], "a", true);
        check(&["a"], "a", true);
        check(&["a"], "", false);
        check(&["b", "c"], "a", false);
    }

    #[test]
    fn an_origin_is_told_what_it_may_do() {
        let check = |origins: &[&str], origin: Option<&'static str>, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            let origin = origin.map(HeaderValue::from_static);
            Access::new(&list(origins), &[]).add_cors(origin.as_ref(), &mut headers);
            let allowed = headers.get("access-control-allow-origin").map(|v| v.to_str().expect("text"));
            assert_eq!(allowed, expected, "{origins:?} {origin:?}");
            assert_eq!(headers.len(), if expected.is_some() { 3 } else { 0 });
        };
        check(&["*"], None, Some("*"));
        check(&[], Some("http://a:1"), Some("*"));
        check(&["http://a:1"], Some("http://a:1"), Some("http://a:1"));
        check(&["http://a:1"], Some("http://b:1"), None);
        check(&["http://a:1"], None, None);
    }
}
