//! Parses peer URLs, and picks the one of a peer to use (etcd `rafthttp/urlpick.go`).

use std::{io, sync::Mutex};

/// The `host:port` of `http://host:port`, which may have a trailing slash.
pub(crate) fn authority(url: &str) -> io::Result<String> {
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
    Ok(authority.to_owned())
}

/// Uses the first URL of the sorted list until it fails, then the next, cyclically.
#[derive(Debug)]
pub(crate) struct Picker {
    state: Mutex<(Vec<String>, usize)>,
}

impl Picker {
    pub(crate) fn new(urls: &[String]) -> Self {
        Self { state: Mutex::new((sorted(urls), 0)) }
    }

    /// Replaces the list and starts from its beginning. Returns whether the list has changed.
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
