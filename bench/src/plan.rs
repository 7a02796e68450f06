//! What is measured, and for how long.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::Context as _;
use serde::Serialize;

/// 48 measurements, their warm-ups and the limits stay under 16 minutes with this.
const SECONDS: u64 = 10;

/// The same under 4 minutes.
const SECONDS_QUICK: u64 = 2;

/// One kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Work {
    Put,
    GetLinearizable,
    GetSerializable,
    /// A stream a keepalive, as `benchmark` sends them.
    LeaseKeepalive,
}

impl Work {
    const ALL: [Self; 4] = [Self::Put, Self::GetLinearizable, Self::GetSerializable, Self::LeaseKeepalive];

    /// As the table and `BENCH_WORK` name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::GetLinearizable => "get-l",
            Self::GetSerializable => "get-s",
            Self::LeaseKeepalive => "keepalive",
        }
    }
}

impl FromStr for Work {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        Self::ALL
            .into_iter()
            .find(|work| work.name() == name)
            .with_context(|| format!("no work {name:?}; there are put, get-l, get-s, keepalive"))
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

    /// The share of etcd's CPU a request that quorate may use (issue 3); none for a single client,
    /// where the clock's ticks and idle work weigh more than requests.
    pub(crate) fn limit(&self) -> Option<f64> {
        match (self.clients, self.members) {
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
    pub(crate) measure: Duration,
    pub(crate) warm_up: Duration,
}

impl Plan {
    pub(crate) fn from_environment() -> anyhow::Result<Self> {
        let quick = std::env::var("BENCH_QUICK").is_ok_and(|value| value == "1");
        let default = if quick { SECONDS_QUICK } else { SECONDS };
        let seconds = list("BENCH_SECONDS", &[default])?.first().copied().unwrap_or(default).max(1);
        let measure = Duration::from_secs(seconds);
        Ok(Self {
            members: list("BENCH_MEMBERS", &[1, 3])?,
            clients: list("BENCH_CLIENTS", &[1, 100, 1_000])?,
            work: list("BENCH_WORK", &Work::ALL)?,
            measure,
            warm_up: (measure / 5).max(Duration::from_millis(500)),
        })
    }

    /// The lines of the table for one size of cluster; puts first, so that gets find data.
    pub(crate) fn cases(&self, members: usize) -> Vec<Case> {
        self.work
            .iter()
            .flat_map(|work| {
                self.clients.iter().map(move |clients| Case { members, work: *work, clients: *clients })
            })
            .collect()
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
