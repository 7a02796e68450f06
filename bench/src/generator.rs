//! etcd's load generator, `benchmark` (go.etcd.io/etcd/v3/tools/benchmark v3.7.1), and its output.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;

use crate::plan::{Case, Work};

/// Key space and value size of the design's table (section 7).
const KEYS: u64 = 100_000;
const VALUE_BYTES: u64 = 256;

/// The key that gets read; `benchmark put` makes keys of its own, so this is put by the harness.
pub(crate) const GET_KEY: &str = "bench-get";

/// What `benchmark` reported.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// The program.
#[derive(Debug)]
pub(crate) struct Generator {
    binary: PathBuf,
}

/// One of the programs built from etcd's Go modules; built now if it is not there yet.
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

    /// The requests that take about `time` at `rate`; at least a few a client.
    pub(crate) fn requests(case: Case, rate: f64, time: Duration) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive rate times seconds"
        )]
        let requests = (rate * time.as_secs_f64()) as u64;
        requests.max(case.clients * 5).max(200)
    }

    /// Sends `requests` of them and waits until all are answered.
    pub(crate) fn run(&self, endpoints: &str, case: Case, requests: u64) -> anyhow::Result<Load> {
        let mut args = vec![
            format!("--endpoints={endpoints}"),
            format!("--conns={}", case.connections()),
            format!("--clients={}", case.clients),
            "--precise".to_owned(),
        ];
        match case.work {
            Work::Put => args.extend([
                "put".to_owned(),
                format!("--total={requests}"),
                format!("--val-size={VALUE_BYTES}"),
                format!("--key-space-size={KEYS}"),
                "--sequential-keys=false".to_owned(),
            ]),
            Work::LeaseKeepalive => {
                args.extend(["lease-keepalive".to_owned(), format!("--total={requests}")]);
            }
            Work::GetLinearizable | Work::GetSerializable => args.extend([
                "range".to_owned(),
                GET_KEY.to_owned(),
                format!("--total={requests}"),
                format!("--consistency={}", if case.work == Work::GetLinearizable { "l" } else { "s" }),
            ]),
        }
        let output = Command::new(&self.binary)
            .args(&args)
            .output()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("benchmark {} failed: {complaints}", args.join(" "));
        }
        parse(&text, requests).with_context(|| format!("benchmark {}:\n{text}{complaints}", args.join(" ")))
    }

    /// A value of the size that is put.
    pub(crate) fn value() -> Vec<u8> {
        vec![b'v'; usize::try_from(VALUE_BYTES).expect("small")]
    }
}

/// Reads the summary that `pkg/report` prints; errors that it counted make the run worthless.
fn parse(text: &str, requests: u64) -> anyhow::Result<Load> {
    if let Some((_, errors)) = text.split_once("Error distribution:") {
        bail!("requests failed: {}", errors.trim());
    }
    let number_after = |label: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(label))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|word| word.trim_end_matches('.').parse::<f64>().ok())
            .with_context(|| format!("no {label:?} in its output"))
    };
    Ok(Load {
        requests,
        rate: number_after("Requests/sec:")?,
        p50_ms: 1_000.0 * number_after("50% in")?,
        p99_ms: 1_000.0 * number_after("99% in")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = "\nSummary:\n  Total:\t1.0044 secs.\n  Slowest:\t0.0123 secs.\n  Requests/sec:\t19912.2871\n\n\
        Latency distribution:\n  10% in 0.0010 secs.\n  50% in 0.0042 secs.\n  99% in 0.0099 secs.\n  99.9% in 0.0110 secs.\n";

    #[test]
    fn reads_what_benchmark_prints() {
        let load = parse(SUMMARY, 20_000).expect("a summary");
        assert_eq!(load, Load { requests: 20_000, rate: 19_912.287_1, p50_ms: 4.2, p99_ms: 9.9 });
    }

    #[test]
    fn refuses_a_run_with_errors() {
        let text = format!("{SUMMARY}\nError distribution:\n  [3]\tetcdserver: too many requests\n");
        assert!(parse(&text, 1).is_err());
    }
}
