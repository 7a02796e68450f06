//! The cases to measure, and for how long.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::Context as _;
use serde::Serialize;

/// The length of a measurement: 58 with their warm-ups take less than 20 minutes.
const SECONDS: u64 = 10;

/// The same for a run of less than 6 minutes.
const SECONDS_QUICK: u64 = 2;

pub(crate) const LISTED_KEYS: usize = 10_000;

/// Streams, and watchers on each, for one key with many watchers.
const FAN_STREAMS: u64 = 100;
const FAN_WATCHERS: u64 = 10;

/// The same for the latency from a put to its events, and puts per second: far below what either server can do.
const LATENCY_STREAMS: u64 = 10;
const LATENCY_WATCHERS: u64 = 10;
pub(crate) const LATENCY_PUTS: u64 = 500;

/// Watchers that start in the past, and the number of events that each catches up.
const LATE_WATCHERS: u64 = 10_000;
const LATE_EVENTS: u64 = 8;

/// The name of the lease expiry case in `BENCH_WORK`.
const EXPIRY: &str = "expiry";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Work {
    Put,
    GetLinearizable,
    GetSerializable,
    /// Transactions: half read ten keys, half put one.
    TxnMixed,
    /// All [`LISTED_KEYS`] in one response.
    List,
    /// The same in pages.
    ListPages,
    /// The same by `RangeStream`.
    ListStream,
    /// A keepalive on its own stream.
    Keepalive,
    /// An event of a key that many watch.
    WatchFan,
    /// An event, with the time since its put was sent.
    WatchLatency,
    /// An event to a watcher that starts in the past; the latency is that of gets meanwhile.
    WatchCatchUp,
}

impl Work {
    const ALL: [Self; 11] = [
        Self::Put,
        Self::GetLinearizable,
        Self::GetSerializable,
        Self::TxnMixed,
        Self::List,
        Self::ListPages,
        Self::ListStream,
        Self::Keepalive,
        Self::WatchFan,
        Self::WatchLatency,
        Self::WatchCatchUp,
    ];

    /// The name in the table and in `BENCH_WORK`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::GetLinearizable => "get-l",
            Self::GetSerializable => "get-s",
            Self::TxnMixed => "txn-mixed",
            Self::List => "list",
            Self::ListPages => "list-pages",
            Self::ListStream => "list-stream",
            Self::Keepalive => "keepalive",
            Self::WatchFan => "watch-fan",
            Self::WatchLatency => "watch-latency",
            Self::WatchCatchUp => "watch-catch-up",
        }
    }

    /// The number of clients, if it is fixed.
    fn clients(self) -> Option<u64> {
        match self {
            Self::Put | Self::GetLinearizable | Self::GetSerializable => None,
            Self::TxnMixed | Self::Keepalive => Some(100),
            Self::List | Self::ListPages | Self::ListStream | Self::WatchLatency | Self::WatchCatchUp => {
                Some(10)
            }
            Self::WatchFan => Some(20),
        }
    }

    /// Whether the echo server, which knows puts and gets of one key, can serve it.
    fn has_limit(self) -> bool {
        self.clients().is_none()
    }

    /// Streams, and watchers on each, for the cases with watches.
    pub(crate) fn watchers(self) -> (u64, u64) {
        match self {
            Self::WatchFan => (FAN_STREAMS, FAN_WATCHERS),
            Self::WatchLatency => (LATENCY_STREAMS, LATENCY_WATCHERS),
            Self::WatchCatchUp => (1, LATE_WATCHERS),
            _ => (0, 0),
        }
    }

    /// Events of one put: with watches, each event counts as a request.
    pub(crate) fn events_a_put(self) -> u64 {
        let (streams, watchers) = self.watchers();
        (streams * watchers).max(1)
    }

    /// The rate per second that the first warm-up assumes: below that of either server.
    pub(crate) fn first_guess(self) -> f64 {
        match self {
            Self::List | Self::ListPages | Self::ListStream => 20.0,
            Self::WatchFan => 20_000.0,
            _ => 1_000.0,
        }
    }
}

impl FromStr for Work {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        Self::ALL
            .into_iter()
            .find(|work| work.name() == name)
            .with_context(|| format!("no work {name:?}; there are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    pub(crate) members: usize,
    pub(crate) work: Work,
    pub(crate) clients: u64,
}

impl Case {
    /// gRPC connections, as in etcd's documentation: 100 for 1,000 clients.
    pub(crate) fn connections(&self) -> u64 {
        self.clients.div_ceil(10)
    }

    /// The number of requests that take about `time` at `rate`: at least a few per client, and all events of each put.
    pub(crate) fn requests(&self, rate: f64, time: Duration) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive rate times seconds"
        )]
        let requests = (rate * time.as_secs_f64()) as u64;
        match self.work {
            Work::WatchLatency => time.as_secs().max(1) * LATENCY_PUTS * self.work.events_a_put(),
            Work::WatchCatchUp => LATE_WATCHERS * LATE_EVENTS,
            Work::WatchFan => {
                requests.next_multiple_of(self.work.events_a_put()).max(20 * self.work.events_a_put())
            }
            Work::List | Work::ListPages | Work::ListStream => requests.max(self.clients * 2),
            _ => requests.max(self.clients * 5).max(200),
        }
    }

    /// The share of etcd's CPU time per request that quorate may use. None for a single client, where timer ticks and idle
    /// work cost more than requests, and none yet where most of the time is the load's own.
    pub(crate) fn limit(&self) -> Option<f64> {
        match (self.clients, self.members) {
            _ if !self.work.has_limit() => None,
            (..100, _) => None,
            (_, 1) => Some(0.45),
            (..) => Some(0.5),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} member(s), {}, {} client(s)", self.members, self.work.name(), self.clients)
    }
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    pub(crate) members: Vec<usize>,
    pub(crate) clients: Vec<u64>,
    pub(crate) work: Vec<Work>,
    /// Whether the expiry of many leases is measured.
    pub(crate) expiry: bool,
    pub(crate) measure: Duration,
    pub(crate) warm_up: Duration,
}

impl Plan {
    pub(crate) fn from_environment() -> anyhow::Result<Self> {
        let quick = std::env::var("BENCH_QUICK").is_ok_and(|value| value == "1");
        let default = if quick { SECONDS_QUICK } else { SECONDS };
        let seconds = list("BENCH_SECONDS", &[default])?.first().copied().unwrap_or(default).max(1);
        let measure = Duration::from_secs(seconds);
        // Not a kind of request, but selected by the same variable.
        let mut work: Vec<String> = list("BENCH_WORK", &[])?;
        let everything = work.is_empty();
        let named = work.len();
        work.retain(|name| name != EXPIRY);
        let expiry = everything || work.len() < named;
        Ok(Self {
            members: list("BENCH_MEMBERS", &[1, 3])?,
            clients: list("BENCH_CLIENTS", &[1, 100, 1_000])?,
            work: if everything {
                Work::ALL.to_vec()
            } else {
                work.iter().map(|name| name.parse()).collect::<Result<_, _>>()?
            },
            expiry,
            measure,
            warm_up: (measure / 5).max(Duration::from_millis(500)),
        })
    }

    /// The cases for one size of cluster; puts first, so that gets find data.
    pub(crate) fn cases(&self, members: usize) -> Vec<Case> {
        let case = |work, clients| Case { members, work, clients };
        let cases_of = |work: &Work| match work.clients() {
            Some(clients) => vec![case(*work, clients)],
            None => self.clients.iter().map(|clients| case(*work, *clients)).collect(),
        };
        self.work.iter().flat_map(cases_of).collect()
    }

    pub(crate) fn limit_cases(&self) -> Vec<Case> {
        self.cases(1).into_iter().filter(|case| case.work.has_limit()).collect()
    }
}

fn list<T>(name: &str, default: &[T]) -> anyhow::Result<Vec<T>>
where
    T: FromStr<Err: fmt::Display> + Clone,
{
    let Ok(text) = std::env::var(name) else { return Ok(default.to_vec()) };
    text.split(',')
        .map(|word| word.trim().parse().map_err(|error| anyhow::anyhow!("{name}={text}: {error}")))
        .collect()
}
