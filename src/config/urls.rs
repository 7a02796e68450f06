//! URLs of members: `http://host:port`, nothing after it. An identity is a hash of these texts
//! (`raft_node::bootstrap`), so they are kept as written, as in etcd: no case folding, no name lookup.

use super::Refusal;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PeerUrl(String);

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PeerUrl {
    /// `host:port` of the URL, without the scheme.
    pub(crate) fn host_port(&self) -> &str {
        self.0.split_once("://").expect("checked when it was parsed").1
    }

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = |why: &str| format!("{why}: {text}");
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong("URL scheme must be http, https, unix, or unixs"));
        };
        // Go's parser writes schemes small, and hashes what it wrote.
        let scheme = scheme.to_ascii_lowercase();
        match scheme.as_str() {
            "http" => {}
            "https" => return Err(wrong("https is not supported yet: this version does not have TLS")),
            "unix" | "unixs" => return Err(wrong("unix sockets are not supported yet")),
            _ => return Err(wrong("URL scheme must be http, https, unix, or unixs")),
        }
        if rest.contains(['/', '?', '#']) {
            return Err(wrong("URL must not contain a path"));
        }
        match rest.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self(format!("{scheme}://{rest}")))
            }
            _ => Err(wrong("URL address does not have the form \"host:port\"")),
        }
    }
}

/// Comma-separated URLs, sorted as etcd sorts them. etcd reads these while it reads the flags: exit code 2.
pub(crate) fn parse_list(flag: &str, text: &str) -> Result<Vec<PeerUrl>, Refusal> {
    let urls: Result<Vec<_>, _> = text.split(',').map(PeerUrl::parse).collect();
    let mut urls =
        urls.map_err(|why| Refusal::Usage(format!("invalid value {text:?} for flag -{flag}: {why}")))?;
    urls.sort();
    Ok(urls)
}

/// `name=url,name=url`; a name said twice collects its URLs.
pub(crate) fn parse_cluster(text: &str) -> Result<Vec<(String, Vec<PeerUrl>)>, String> {
    let mut members: Vec<(String, Vec<PeerUrl>)> = Vec::new();
    let mut seen: Vec<PeerUrl> = Vec::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (name, url) = match part.trim().split_once('=') {
            Some((name, url)) if !name.is_empty() && !url.is_empty() => (name, url),
            _ => return Err(format!("--initial-cluster: expected name=url, got {part:?}")),
        };
        let url = PeerUrl::parse(url).map_err(|why| format!("--initial-cluster: {why}"))?;
        if seen.contains(&url) {
            return Err(format!("--initial-cluster: duplicate URL {url} in cluster config"));
        }
        seen.push(url.clone());
        match members.iter_mut().find(|(known, _)| known == name) {
            Some((_, urls)) => urls.push(url),
            None => members.push((name.to_owned(), vec![url])),
        }
    }
    for (_, urls) in &mut members {
        urls.sort();
    }
    Ok(members)
}

/// Addresses to bind: IP addresses, or `localhost`. Other names are refused, as in etcd.
pub(crate) fn listen_addresses(flag: &str, text: &str) -> Result<Vec<SocketAddr>, Refusal> {
    let mut addresses = Vec::new();
    for url in parse_list(flag, text)? {
        let host_port = url.host_port();
        let (host, port) = host_port.rsplit_once(':').expect("checked when it was parsed");
        let address = if host == "localhost" {
            // As Go does: IPv4 first.
            let found =
                host_port.to_socket_addrs().map_err(|e| Refusal::Invalid(format!("--{flag}: {url}: {e}")))?;
            let port = port.parse().expect("checked when it was parsed");
            let ipv4 = found.into_iter().find(SocketAddr::is_ipv4);
            ipv4.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)))
        } else {
            let address = host_port.parse();
            address
                .map_err(|_| Refusal::Invalid(format!("--{flag}: expected IP in URL for binding ({url})")))?
        };
        // Said twice it is listened on once, as in etcd.
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}
