//! What is measured, and for how long.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::Context as _;
use serde::Serialize;

/// 58 measurements, their warm-ups and the limits stay under 20 minutes with this.
const SECONDS: u64 = 10;

/// The same under 6 minutes.
const SECONDS_QUICK: u64 = 2;

/// Keys that a list returns.
pub(crate) const LISTED_KEYS: usize = 10_000;

/// Streams, and watchers on each of them, where one key has many watchers.
const FAN_STREAMS: u64 = 100;
const FAN_WATCHERS: u64 = 10;

/// The same where the time from a put to its events is measured, and puts a second: far from what either server can do.
const LATENCY_STREAMS: u64 = 10;
const LATENCY_WATCHERS: u64 = 10;
pub(crate) const LATENCY_PUTS: u64 = 500;

/// Watchers that begin in the past, and events that each of them is behind.
const LATE_WATCHERS: u64 = 10_000;
const LATE_EVENTS: u64 = 8;

/// What `BENCH_WORK` calls the end of many leases.
const EXPIRY: &str = "expiry";

/// One kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Work {
    Put,
    GetLinearizable,
    GetSerializable,
    /// Half transactions that read ten keys, half that put one.
    TxnMixed,
    /// All of [`LISTED_KEYS`] in one answer.
    List,
    /// The same in pages.
    ListPages,
    /// The same by `RangeStream`.
    ListStream,
    /// A keepalive on a stream of its own.
    Keepalive,
    /// An event delivered, of a key that many watch.
    WatchFan,
    /// An event delivered, with the time since its put began.
    WatchLatency,
    /// An event delivered to a watcher that begins in the past; the latency is that of gets meanwhile.
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

    /// As the table and `BENCH_WORK` name it.
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

    /// How many clients it has, where that is not the plan's to say.
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

    /// Whether the bare answerer, which knows puts and gets of one key, can be asked the same.
    fn has_limit(self) -> bool {
        self.clients().is_none()
    }

    /// Streams and watchers on each, for the works that watch.
    pub(crate) fn watchers(self) -> (u64, u64) {
        match self {
            Self::WatchFan => (FAN_STREAMS, FAN_WATCHERS),
            Self::WatchLatency => (LATENCY_STREAMS, LATENCY_WATCHERS),
            Self::WatchCatchUp => (1, LATE_WATCHERS),
            _ => (0, 0),
        }
    }

    /// What counts as a request is an event for works that watch: how many of them one put makes.
    pub(crate) fn events_a_put(self) -> u64 {
        let (streams, watchers) = self.watchers();
        (streams * watchers).max(1)
    }

    /// The rate that the first warm-up is sized for, a second: below what either server does.
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
    /// gRPC connections, as etcd's documentation has them: 1,000 clients on 100.
    pub(crate) fn connections(&self) -> u64 {
        self.clients.div_ceil(10)
    }

    /// How many requests take about `time` at `rate`: at least a few a client, and whole puts where events count.
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

    /// The share of etcd's CPU a request that quorate may use; none for a single client, where the clock's ticks and
    /// idle work weigh more than requests, and none yet where the load itself is most of what is measured.
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

/// The whole run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    pub(crate) members: Vec<usize>,
    pub(crate) clients: Vec<u64>,
    pub(crate) work: Vec<Work>,
    /// Whether many leases end at once, too.
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
        // Not a kind of request, but asked for by the same variable.
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

    /// The lines of the table for one size of cluster; puts first, so that gets find data.
    pub(crate) fn cases(&self, members: usize) -> Vec<Case> {
        let case = |work, clients| Case { members, work, clients };
        let cases_of = |work: &Work| match work.clients() {
            Some(clients) => vec![case(*work, clients)],
            None => self.clients.iter().map(|clients| case(*work, *clients)).collect(),
        };
        self.work.iter().flat_map(cases_of).collect()
    }

    /// Those of them that the bare answerer can be asked.
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
