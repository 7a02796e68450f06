//! `check perf|datascale`: measures write throughput, and the memory that data takes.

use super::{Session, cluster};
use crate::address::Address;
use crate::client::Client;
use crate::failure::{BAD_FEATURE, ERROR, Failure, INVALID_INPUT};
use crate::flags::Flags;
use crate::line::Invocation;
use crate::print::{progress, say, warn};
use crate::text::words::end_of_prefix;
use futures::future::join_all;
use gotext::quote::quote;
use proto::etcdserverpb as pb;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// How long `check perf` writes.
const PERF_TIME: Duration = Duration::from_mins(1);
/// The timeout of each request that cleans up.
const CLEANUP_TIME: Duration = Duration::from_secs(30);
/// Lengths of keys and values, in bytes.
const PERF_KEY_BYTES: usize = 256;
const PERF_VALUE_BYTES: usize = 1024;
const DATASCALE_KEY_BYTES: usize = 512;
const DATASCALE_VALUE_BYTES: usize = 512;
/// What passes: the share of the load's throughput, the slowest request and the standard deviation, in seconds.
const THROUGHPUT_MIN: f64 = 0.9;
const SLOWEST_MAX: f64 = 0.5;
const STDDEV_MAX: f64 = 0.1;

const MEMORY_METRIC: &str = "process_resident_memory_bytes";

/// The size of a `--load`.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// `perf`: requests per second. `datascale`: requests in total.
    limit: u32,
    clients: usize,
}

fn load(flags: &Flags, loads: [Load; 4]) -> Result<Load, Failure> {
    let name = flags.text("load");
    let index = match &name[..] {
        "s" | "small" => 0,
        "m" | "medium" => 1,
        "l" | "large" => 2,
        "xl" | "xLarge" => 3,
        _ => return Err(Failure::new(BAD_FEATURE, format!("unknown load option {name}"))),
    };
    Ok(loads[index])
}

const PERF: [Load; 4] = [
    Load { limit: 150, clients: 50 },
    Load { limit: 1_000, clients: 200 },
    Load { limit: 8_000, clients: 500 },
    Load { limit: 15_000, clients: 1_000 },
];

const DATASCALE: [Load; 4] = [
    Load { limit: 10_000, clients: 50 },
    Load { limit: 100_000, clients: 200 },
    Load { limit: 1_000_000, clients: 500 },
    Load { limit: 3_000_000, clients: 1_000 },
];

/// The results of all requests.
#[derive(Debug, Default)]
struct Results {
    /// The duration of each successful request, in seconds.
    seconds: Vec<f64>,
    errors: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Figures {
    rate: f64,
    slowest: f64,
    stddev: f64,
}

impl Results {
    #[allow(clippy::cast_precision_loss, reason = "counts of requests")]
    fn figures(&self, total: Duration) -> Figures {
        let count = self.seconds.len() as f64;
        let average = self.seconds.iter().sum::<f64>() / count.max(1.0);
        let squares: f64 = self.seconds.iter().map(|seconds| (seconds - average).powi(2)).sum();
        Figures {
            rate: count / total.as_secs_f64(),
            slowest: self.seconds.iter().copied().fold(0.0, f64::max),
            stddev: (squares / count.max(1.0)).sqrt(),
        }
    }
}

/// The lines to print, and whether the check passes.
#[allow(clippy::cast_possible_truncation, reason = "as etcdctl rounds")]
fn verdict(results: &Results, figures: &Figures, limit: u32) -> (Vec<String>, bool) {
    let mut lines = Vec::new();
    let mut pass = results.errors.is_empty();
    if !pass {
        lines.push("FAIL: too many errors".to_owned());
        lines.extend(results.errors.iter().map(|(error, count)| format!("FAIL: ERROR({error}) -> {count}")));
    }
    let rate = figures.rate as i64 + 1;
    let mut judge = |good: bool, well: String, badly: String| {
        pass &= good;
        lines.push(if good { well } else { badly });
    };
    judge(
        figures.rate / f64::from(limit) > THROUGHPUT_MIN,
        format!("PASS: Throughput is {rate} writes/s"),
        format!("FAIL: Throughput too low: {rate} writes/s"),
    );
    let (slowest, stddev) = (figures.slowest, figures.stddev);
    judge(
        slowest <= SLOWEST_MAX,
        format!("PASS: Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    );
    judge(
        stddev <= STDDEV_MAX,
        format!("PASS: Stddev is {stddev:.6}s"),
        format!("Stddev too high: {stddev:.6}s"),
    );
    lines.push(if pass { "PASS" } else { "FAIL" }.to_owned());
    (lines, pass)
}

/// The clients of a load, each with its own connection. Fails if the prefix has keys.
async fn clients(session: &Session, load: Load, prefix: &[u8], shown: &str) -> Result<Vec<Client>, Failure> {
    let clients: Vec<Client> = (0..load.clients).map(|_| session.client()).collect::<Result<_, _>>()?;
    let any = pb::RangeRequest {
        key: prefix.to_vec().into(),
        range_end: end_of_prefix(prefix).into(),
        limit: 1,
        ..Default::default()
    };
    if !clients[0].range(None, any).await?.kvs.is_empty() {
        let prefix = quote(prefix);
        return Err(Failure::new(
            INVALID_INPUT,
            format!("prefix {prefix} has keys. Delete with {shown} first"),
        ));
    }
    Ok(clients)
}

/// Puts a new random key and records the result.
async fn put(
    client: &Client,
    prefix: &[u8],
    key_bytes: usize,
    value_bytes: usize,
    results: &RefCell<Results>,
) {
    let mut key = prefix.to_vec();
    key.extend(rand::random::<u64>().to_be_bytes());
    key.resize(prefix.len() + key_bytes, 0);
    let request =
        pb::PutRequest { key: key.into(), value: vec![0; value_bytes].into(), ..Default::default() };
    let begun = Instant::now();
    let done = client.put(None, request).await;
    let mut results = results.borrow_mut();
    match done {
        Ok(_) => results.seconds.push(begun.elapsed().as_secs_f64()),
        Err(error) => *results.errors.entry(error.text).or_default() += 1,
    }
}

pub(crate) async fn perf(invocation: Invocation) -> Result<(), Failure> {
    let load = load(&invocation.flags, PERF)?;
    let session = Session::open(invocation)?;
    let prefix = session.invocation.flags.bytes("prefix").to_vec();
    let shown = format!("'etcdctl del --prefix {}'", String::from_utf8_lossy(&prefix));
    let clients = clients(&session, load, &prefix, &shown).await?;

    let begun = Instant::now();
    let results = RefCell::new(Results::default());
    tokio::select! {
        () = write_at_rate(&clients, load, &prefix, &results, begun + PERF_TIME) => {}
        () = show_time(begun) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    let results = results.into_inner();
    let figures = results.figures(begun.elapsed());
    let flags = &session.invocation.flags;
    clean_up(&clients[0], &prefix, flags.is("auto-compact")).await?;
    if flags.is("auto-defrag") {
        defragment_all(&session).await?;
    }
    let (lines, pass) = verdict(&results, &figures, load.limit);
    say(lines.join("\n"))?;
    if pass { Ok(()) } else { Err(Failure::silent(ERROR)) }
}

/// Sends requests at a steady rate. When all clients are busy the rate falls; it does not catch up.
async fn write_at_rate(
    clients: &[Client],
    load: Load,
    prefix: &[u8],
    results: &RefCell<Results>,
    end: Instant,
) {
    let pause = Duration::from_secs(1) / load.limit;
    let next = Cell::new(Instant::now());
    join_all(clients.iter().map(async |client| {
        loop {
            let slot = next.get().max(Instant::now());
            if slot >= end {
                return;
            }
            next.set(slot + pause);
            sleep_until(slot).await;
            put(client, prefix, PERF_KEY_BYTES, PERF_VALUE_BYTES, results).await;
        }
    }))
    .await;
}

/// Shows the time that has passed; never returns.
async fn show_time(begun: Instant) {
    let bar = progress::steps(PERF_TIME.as_secs());
    while begun.elapsed() < PERF_TIME {
        sleep(Duration::from_secs(1)).await;
        bar.set_position(begun.elapsed().as_secs());
    }
    bar.finish_and_clear();
    std::future::pending::<()>().await;
}

async fn clean_up(client: &Client, prefix: &[u8], compacts: bool) -> Result<(), Failure> {
    let request = pb::DeleteRangeRequest {
        key: prefix.to_vec().into(),
        range_end: end_of_prefix(prefix).into(),
        prev_kv: false,
    };
    match client.delete_range(Some(Instant::now() + CLEANUP_TIME), request).await {
        Err(error) => say(format_args!("FAIL: Cleanup failed during key deletion: ERROR({error})")),
        Ok(answer) if compacts => {
            let revision = answer.header.map_or(0, |header| header.revision);
            say(format_args!("Compacting with revision {revision}"))?;
            let request = pb::CompactionRequest { revision, physical: true };
            client.compact(Some(Instant::now() + CLEANUP_TIME), request).await?;
            say(format_args!("Compacted with revision {revision}"))
        }
        Ok(_) => Ok(()),
    }
}

async fn defragment_all(session: &Session) -> Result<(), Failure> {
    for endpoint in &session.settings.endpoints {
        let shown = quote(endpoint.as_bytes());
        say(format_args!("Defragmenting {shown}"))?;
        let client = Client::for_endpoint(&session.settings, endpoint)?;
        cluster::defragment(&client, Some(Instant::now() + CLEANUP_TIME)).await?;
        say(format_args!("Defragmented {shown}"))?;
    }
    Ok(())
}

pub(crate) async fn datascale(invocation: Invocation) -> Result<(), Failure> {
    let load = load(&invocation.flags, DATASCALE)?;
    let session = Session::open(invocation)?;
    let flags = &session.invocation.flags;
    let prefix = flags.bytes("prefix").to_vec();
    let shown = format!("etcdctl del --prefix {}", String::from_utf8_lossy(&prefix));
    let clients = clients(&session, load, &prefix, &shown).await?;
    let before = memory(&session, "before").await?;
    say(format_args!(
        "Start data scale check for work load [{} key-value pairs, {} bytes per key-value, {} concurrent clients].",
        load.limit,
        DATASCALE_KEY_BYTES + DATASCALE_VALUE_BYTES,
        load.clients
    ))?;
    let results = RefCell::new(Results::default());
    let left = Cell::new(load.limit);
    let bar = progress::steps(load.limit.into());
    join_all(clients.iter().map(async |client| {
        while let Some(rest) = left.get().checked_sub(1) {
            left.set(rest);
            put(client, &prefix, DATASCALE_KEY_BYTES, DATASCALE_VALUE_BYTES, &results).await;
            bar.inc(1);
        }
    }))
    .await;
    bar.finish_and_clear();
    let after = memory(&session, "after").await?;
    clean_up(&clients[0], &prefix, flags.is("auto-compact")).await?;
    if flags.is("auto-defrag") {
        defragment_all(&session).await?;
    }
    let results = results.into_inner();
    if !results.errors.is_empty() {
        say("FAIL: too many errors")?;
        for (error, count) in &results.errors {
            say(format_args!("FAIL: ERROR({error}) -> {count}"))?;
        }
        return Err(Failure::silent(ERROR));
    }
    let used = (after - before) / f64::from(1024 * 1024);
    say(format_args!("PASS: Approximate system memory used : {used:.2} MB."))
}

/// The resident memory of the first endpoint, in bytes, from its metrics.
async fn memory(session: &Session, when: &str) -> Result<f64, Failure> {
    let address = Address::read(&session.settings.endpoints[0])?;
    let read = tokio::time::timeout(session.settings.command_timeout, address.http_get("/metrics")).await;
    let text = read.unwrap_or_else(|_| Err("no answer".to_owned()));
    let found = text.as_ref().ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with(MEMORY_METRIC))?;
        line[MEMORY_METRIC.len()..].trim().parse::<f64>().ok().filter(|bytes| *bytes > 0.0)
    });
    if let Err(why) = text {
        warn(format_args!("{address}: {why}"));
    }
    let Some(bytes) = found else {
        say(format_args!("FAIL: Could not read {MEMORY_METRIC} {when} the put operations."))?;
        return Err(Failure::silent(ERROR));
    };
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Figures, Results, verdict};
    use std::time::Duration;

    #[test]
    fn figures_of_a_row() {
        let results = Results { seconds: vec![0.1, 0.3], ..Results::default() };
        let Figures { rate, slowest, stddev } = results.figures(Duration::from_secs(4));
        assert!((rate - 0.5).abs() < 1e-9 && (slowest - 0.3).abs() < 1e-9 && (stddev - 0.1).abs() < 1e-9);
        assert!(Results::default().figures(Duration::from_secs(1)).slowest.abs() < 1e-9);
    }

    #[test]
    fn verdicts_are_etcdctls() {
        let good = Figures { rate: 149.5, slowest: 0.012, stddev: 0.001 };
        let (lines, pass) = verdict(&Results::default(), &good, 150);
        let expected = [
            "PASS: Throughput is 150 writes/s",
            "PASS: Slowest request took 0.012000s",
            "PASS: Stddev is 0.001000s",
            "PASS",
        ];
        assert_eq!((&lines[..], pass), (&expected.map(str::to_owned)[..], true));
        let bad = Figures { rate: 10.0, slowest: 0.6, stddev: 0.2 };
        let results = Results { errors: [("x".to_owned(), 3)].into(), ..Results::default() };
        let (lines, pass) = verdict(&results, &bad, 150);
        let expected = [
            "FAIL: too many errors",
            "FAIL: ERROR(x) -> 3",
            "FAIL: Throughput too low: 11 writes/s",
            "Slowest request took too long: 0.600000s",
            "Stddev too high: 0.200000s",
            "FAIL",
        ];
        assert_eq!((&lines[..], pass), (&expected.map(str::to_owned)[..], false));
    }
}
