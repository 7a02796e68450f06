//! Peer URLs: parsing, and which one of a peer's to use (etcd `rafthttp/urlpick.go`).

use std::{io, sync::Mutex};

/// A peer URL that can be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// `host:port`, for the `Host` header and for connecting.
    pub(crate) authority: String,
}

/// Reads `http://host:port`, a trailing slash allowed.
pub(crate) fn parse(url: &str) -> io::Result<Address> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("peer URL {url:?}: {why}"));
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https" | "unixs", _)) => return Err(refused("TLS between members is not supported yet")),
        Some(("unix", _)) => return Err(refused("unix sockets between members are not supported yet")),
        _ => return Err(refused("not of the form http://host:port")),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let parsed: http::uri::Authority = authority.parse().map_err(|_| refused("malformed host or port"))?;
    if parsed.port_u16().is_none() || parsed.host().is_empty() || authority.contains('@') {
        return Err(refused("host and port are needed"));
    }
    Ok(Address { authority: authority.to_owned() })
}

/// Uses the first URL of the sorted list until it fails, then the next, round and round.
#[derive(Debug)]
pub(crate) struct Picker {
    state: Mutex<(Vec<String>, usize)>,
}

impl Picker {
    pub(crate) fn new(urls: &[String]) -> Self {
        Self { state: Mutex::new((sorted(urls), 0)) }
    }

    /// Replaces the list and starts from its beginning. Returns whether it is another list.
    pub(crate) fn update(&self, urls: &[String]) -> bool {
        let urls = sorted(urls);
        let mut state = self.lock();
        let changed = state.0 != urls;
        if changed {
            *state = (urls, 0);
        }
        changed
    }

    pub(crate) fn pick(&self) -> Option<String> {
        let state = self.lock();
        state.0.get(state.1).cloned()
    }

    /// This URL failed: if it is the one in use, go to the next.
    pub(crate) fn failed(&self, url: &str) {
        let mut state = self.lock();
        if state.0.get(state.1).is_some_and(|current| current == url) {
            state.1 = (state.1 + 1) % state.0.len();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<String>, usize)> {
        self.state.lock().expect("no panic while the list is held")
    }
}

fn sorted(urls: &[String]) -> Vec<String> {
    let mut urls = urls.to_vec();
    urls.sort();
    urls
}
