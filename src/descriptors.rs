//! File descriptors: how many this process may hold, and what they are for.
//!
//! A store that cannot open a file ends the member, so clients get what the store and the peers leave. The soft limit
//! is raised to the hard one first, as Go's runtime does for etcd: `ulimit -n` is 1,024 in most shells.
//!
//! ```text
//! hard limit = own (log, runtime, listeners, outgoing connections)
//!            + tables (open files of two engines)  + peers (connections that they made)
//!            + monitors (--listen-metrics-urls) + clients: the rest, or --max-client-connections
//! ```

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the shares are made of. Each is a number of descriptors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Everything but tables and accepted connections. Default 112: RocksDB's manifest, logs and files being written
    /// (24), segments of the raft log (8), standard streams, timers, signals, listeners, log files (24), connections to
    /// six peers (48), a snapshot's files (8).
    pub(crate) own: u64,
    /// Minimum and maximum of open tables, half of them for each of two engines: the current one, and that of a snapshot
    /// which is to follow it. Default 40 to 1,024: 8 GiB of data without reopening one.
    pub(crate) tables: (u64, u64),
    /// Least and most connections from peers. Default 32 to 4,096: a member holds seven.
    pub(crate) peers: (u64, u64),
    /// Connections to the ports for metrics. Default 16: two scrapers and what they left behind.
    pub(crate) monitors: u64,
    /// Least connections for clients; where they do not fit the member does not start. Default 16.
    pub(crate) clients_min: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { own: 112, tables: (40, 1_024), peers: (32, 4_096), monitors: 16, clients_min: 16 }
    }
}

/// Tables and peers each get one descriptor in so many, within their bounds.
const SHARE: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Open tables of each engine.
    pub(crate) tables: i32,
    pub(crate) peers: usize,
    pub(crate) monitors: usize,
    pub(crate) clients: usize,
}

/// Raises the soft limit to the hard one, if it can; returns the limit that holds from now on.
pub(crate) fn raise() -> u64 {
    let found = getrlimit(Resource::Nofile);
    // No limit at all is `None`.
    let (soft, hard) = (found.current.unwrap_or(u64::MAX), found.maximum.unwrap_or(u64::MAX));
    if soft >= hard {
        return soft;
    }
    let wanted = Rlimit { current: found.maximum, maximum: found.maximum };
    if setrlimit(Resource::Nofile, wanted).is_ok() { hard } else { soft }
}

/// Divides `limit` descriptors; clients get at most `connections_max`, if above zero. Fails if they are too few.
pub(crate) fn divide(limit: u64, connections_max: u64, options: &Options) -> Result<Shares, String> {
    let tables = (limit / SHARE).clamp(options.tables.0, options.tables.1);
    let peers = (limit / SHARE).clamp(options.peers.0, options.peers.1);
    let reserved = options.own + tables + peers + options.monitors;
    let left = limit.saturating_sub(reserved);
    if left < options.clients_min {
        // etcd's words, and how many.
        let wanted =
            options.own + options.tables.0 + options.peers.0 + options.monitors + options.clients_min;
        return Err(format!(
            "file descriptor limit of the process is too low; please set higher (it is {limit}, needed are {wanted})"
        ));
    }
    let clients = if connections_max == 0 { left } else { left.min(connections_max) };
    let number = |descriptors: u64| usize::try_from(descriptors).unwrap_or(usize::MAX);
    Ok(Shares {
        tables: i32::try_from(tables / 2).unwrap_or(i32::MAX),
        peers: number(peers),
        monitors: number(options.monitors),
        clients: number(clients),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_divided_is_there() {
        let options = Options::default();
        for limit in [216, 256, 1_024, 4_096, 20_000, 65_536, 1 << 20, u64::MAX] {
            let shares = divide(limit, 0, &options).unwrap_or_else(|e| panic!("{limit}: {e}"));
            let connections = (shares.peers + shares.monitors) as u64 + shares.clients as u64;
            assert!(
                options.own + 2 * u64::from(shares.tables.unsigned_abs()) + connections <= limit,
                "{limit}"
            );
            assert!(shares.clients as u64 >= limit.min(1 << 40) / 4 || limit < 512, "{limit}: {shares:?}");
            assert!(shares.tables >= 20 && shares.peers >= 32, "{limit}: {shares:?}");
        }
    }

    #[test]
    fn an_operator_may_want_fewer_connections_and_cannot_get_more_than_there_are() {
        let clients = |wanted| divide(1_024, wanted, &Options::default()).map(|shares| shares.clients);
        assert_eq!(clients(0), Ok(640));
        assert_eq!(clients(10), Ok(10));
        assert_eq!(clients(100_000), Ok(640));
    }

    #[test]
    fn too_few_are_refused_by_name() {
        for limit in [0, 1, 112, 215] {
            let text = divide(limit, 0, &Options::default()).expect_err("too few");
            assert!(text.contains("too low") && text.contains("216"), "{text}");
        }
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        assert_eq!(Some(raise()), hard.or(Some(u64::MAX)));
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }
}
