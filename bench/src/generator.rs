//! etcd's load generator, `benchmark` (go.etcd.io/etcd/v3/tools/benchmark v3.7.1), and its output.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;

use crate::plan::{Case, LATENCY_PUTS, Work};

/// The number of keys and the size of values, in bytes.
const KEYS: u64 = 100_000;
const VALUE_BYTES: u64 = 256;

/// The key that is read. `benchmark put` has its own keys, so the harness puts this one.
pub(crate) const GET_KEY: &str = "bench-get";

pub(crate) const LIST_PREFIX: &str = "bench-list/";

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// The `benchmark` program of etcd.
#[derive(Debug)]
pub(crate) struct Generator {
    binary: PathBuf,
}

/// The path of a program of etcd's Go modules; builds it if it does not exist.
pub(crate) fn go_tool(name: &str) -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os("QUORATE_GO_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").context("neither QUORATE_GO_DIR nor HOME is set")?)
            .join(".cache/quorate/go"),
    };
    let path = folder.join(name);
    if !path.is_file() {
        eprintln!("building {name} from its Go module");
        let build = harness::repository().join("tests/etcd-suite/build.sh");
        let status = Command::new(&build)
            .args(["--only", name])
            .arg(&folder)
            .status()
            .with_context(|| format!("cannot run {}", build.display()))?;
        ensure!(status.success(), "cannot build {name}: {} --only {name} failed", build.display());
    }
    ensure!(path.is_file(), "{} was not built", path.display());
    Ok(path)
}

impl Generator {
    pub(crate) fn find() -> anyhow::Result<Self> {
        Ok(Self { binary: go_tool("benchmark")? })
    }

    /// Sends this many requests and waits for all answers.
    pub(crate) fn run(&self, endpoints: &str, case: Case, requests: u64) -> anyhow::Result<Load> {
        let mut args = vec![
            format!("--endpoints={endpoints}"),
            format!("--conns={}", case.connections()),
            format!("--clients={}", case.clients),
            "--precise".to_owned(),
        ];
        args.extend(command(case.work, requests));
        let output = Command::new(&self.binary)
            .args(&args)
            .output()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("benchmark {} failed: {complaints}", args.join(" "));
        }
        parse(&text, case.work, requests)
            .with_context(|| format!("benchmark {}:\n{text}{complaints}", args.join(" ")))
    }

    pub(crate) fn value() -> Vec<u8> {
        vec![b'v'; usize::try_from(VALUE_BYTES).expect("small")]
    }
}

fn command(work: Work, requests: u64) -> Vec<String> {
    let (streams, watchers) = work.watchers();
    let total = format!("--total={requests}");
    let puts = format!("--put-total={}", requests / work.events_a_put());
    let value = format!("--val-size={VALUE_BYTES}");
    let list = |how: &str| vec!["range".to_owned(), LIST_PREFIX.to_owned(), total.clone(), how.to_owned()];
    let get = |consistency: &str| {
        vec!["range".to_owned(), GET_KEY.to_owned(), total.clone(), format!("--consistency={consistency}")]
    };
    match work {
        Work::Put => {
            let keys = format!("--key-space-size={KEYS}");
            vec!["put".to_owned(), total, value, keys, "--sequential-keys=false".to_owned()]
        }
        Work::GetLinearizable => get("l"),
        Work::GetSerializable => get("s"),
        Work::TxnMixed => {
            let keys = format!("--key-space-size={KEYS}");
            vec!["txn-mixed".to_owned(), total, value, keys, "--limit=10".to_owned()]
        }
        Work::List => list("--prefix"),
        Work::ListPages => [list("--prefix"), vec!["--paginate".to_owned()]].concat(),
        Work::ListStream => [list("--prefix"), vec!["--stream".to_owned()]].concat(),
        Work::Keepalive => vec!["lease-keepalive".to_owned(), total],
        Work::WatchFan => {
            let each = format!("--watch-per-stream={watchers}");
            vec!["watch".to_owned(), puts, format!("--streams={streams}"), each]
        }
        Work::WatchLatency => {
            let each = format!("--watchers-per-stream={watchers}");
            let rate = format!("--put-rate={LATENCY_PUTS}");
            vec!["watch-latency".to_owned(), puts, value, rate, format!("--streams={streams}"), each]
        }
        Work::WatchCatchUp => {
            let events = format!("--events={}", requests / watchers);
            vec![
                "watch-get".to_owned(),
                format!("--streams={streams}"),
                format!("--watchers={watchers}"),
                events,
            ]
        }
    }
}

/// Parses the summaries that `pkg/report` prints. Mixed reads and writes have two, which are added up; else the last one
/// counts.
///
/// # Errors
/// If any request failed.
fn parse(text: &str, work: Work, requests: u64) -> anyhow::Result<Load> {
    if let Some((_, errors)) = text.split_once("Error distribution:") {
        bail!("requests failed: {}", errors.trim());
    }
    let summaries: Vec<&str> = text.split("Summary:\n").skip(1).collect();
    let last = *summaries.last().context("no summary in its output")?;
    let load = summary(last, requests)?;
    match (work, &summaries[..]) {
        (Work::TxnMixed, [reads, _]) => {
            let reads = summary(reads, requests)?;
            let (p50_ms, p99_ms) = (load.p50_ms.max(reads.p50_ms), load.p99_ms.max(reads.p99_ms));
            Ok(Load { rate: load.rate + reads.rate, p50_ms, p99_ms, ..load })
        }
        (Work::TxnMixed, _) => bail!("not two summaries in its output"),
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        (Work::WatchCatchUp, _) => Ok(Load { rate: requests as f64 / number_after(last, "Total:")?, ..load }),
        _ => Ok(load),
    }
}

fn summary(text: &str, requests: u64) -> anyhow::Result<Load> {
    Ok(Load {
        requests,
        rate: number_after(text, "Requests/sec:")?,
        p50_ms: 1_000.0 * number_after(text, "50% in")?,
        // With fewer than 100 requests there is no p99: take the slowest.
        p99_ms: 1_000.0 * number_after(text, "99% in").or_else(|_| number_after(text, "Slowest:"))?,
    })
}

fn number_after(text: &str, label: &str) -> anyhow::Result<f64> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix(label))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.trim_end_matches('.').parse::<f64>().ok())
        .with_context(|| format!("no {label:?} in its output"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = "\nSummary:\n  Total:\t1.0044 secs.\n  Slowest:\t0.0123 secs.\n  Requests/sec:\t19912.2871\n\n\
        Latency distribution:\n  10% in 0.0010 secs.\n  50% in 0.0042 secs.\n  99% in 0.0099 secs.\n  99.9% in 0.0110 secs.\n";

    #[test]
    fn reads_what_benchmark_prints() {
        let load = parse(SUMMARY, Work::Put, 20_000).expect("a summary");
        assert_eq!(load, Load { requests: 20_000, rate: 19_912.287_1, p50_ms: 4.2, p99_ms: 9.9 });
    }

    #[test]
    fn the_slowest_of_a_few_is_their_99th_percentile() {
        let few = SUMMARY.replace("  99% in 0.0099 secs.\n", "");
        let load = parse(&few, Work::List, 20).expect("a summary");
        assert_eq!(load, Load { requests: 20, rate: 19_912.287_1, p50_ms: 4.2, p99_ms: 12.3 });
    }

    #[test]
    fn adds_up_what_reads_and_writes_and_takes_the_last_of_others() {
        let slower = SUMMARY.replace("0.0099", "0.0300").replace("19912.2871", "87.7129");
        let both = format!("Total Read Ops: 1\nDetails:{slower}\nTotal Write Ops: 2\nDetails:{SUMMARY}");
        let load = parse(&both, Work::TxnMixed, 20_000).expect("two summaries");
        assert_eq!(load, Load { requests: 20_000, rate: 20_000.0, p50_ms: 4.2, p99_ms: 30.0 });
        assert!(parse(SUMMARY, Work::TxnMixed, 1).is_err());
        let load = parse(&both, Work::WatchFan, 20_000).expect("the last summary");
        assert_eq!(load, Load { requests: 20_000, rate: 19_912.287_1, p50_ms: 4.2, p99_ms: 9.9 });
        let load = parse(SUMMARY, Work::WatchCatchUp, 10_044).expect("events by the time they took");
        assert!((load.rate - 10_000.0).abs() < 1e-6, "{load:?}");
    }

    #[test]
    fn refuses_a_run_with_errors() {
        let text = format!("{SUMMARY}\nError distribution:\n  [3]\tetcdserver: too many requests\n");
        assert!(parse(&text, Work::Put, 1).is_err());
    }
}
