//! Starts the servers, and measures their use of resources.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use harness::{
    Client, Cluster, Options, Port, Process,
    usage::{self, Usage},
};
use proto::etcdserverpb::PutRequest;
use serde::Serialize;

use crate::{
    echo,
    expiry::{self, Expiry},
    generator::{GET_KEY, Generator, LIST_PREFIX, Load},
    plan::{Case, LISTED_KEYS, Plan},
};

/// How long to wait for work that requests leave behind, such as log writes of followers: it counts too.
const SETTLE: Duration = Duration::from_millis(300);

const PUTS_AHEAD: usize = 64;

/// The size of the value of a listed key, in bytes.
const LISTED_BYTES: usize = 100;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Reading {
    pub(crate) load: Load,
    /// User and system time of all members per request.
    pub(crate) cpu_us: f64,
    /// Peak resident memory of all members during the measurement.
    pub(crate) peak_bytes: u64,
    /// Bytes written to storage by all members per request.
    pub(crate) written_bytes: f64,
}

/// A cluster of one server, or the echo server.
pub(crate) struct Servers {
    name: String,
    endpoints: String,
    running: Running,
}

enum Running {
    Cluster(Cluster),
    Echo { process: Process, _port: Port, _folder: tempfile::TempDir },
}

impl Servers {
    /// Starts `size` members and puts the keys to read.
    pub(crate) fn start(name: &str, binary: &Path, size: usize) -> anyhow::Result<Self> {
        let options = Options {
            binary: Some(binary.to_path_buf()),
            token: format!("bench-{name}"),
            // The default quota is 2 GiB; a fast server fills that in a long run.
            flags: vec!["--quota-backend-bytes=8589934592".to_owned()],
            ..Options::new(size)
        };
        let cluster = Cluster::start_with(&options).with_context(|| format!("cannot start {name}"))?;
        let endpoints: Vec<String> =
            cluster.members().iter().map(|m| format!("127.0.0.1:{}", m.addresses.client)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { put_keys(&cluster.client()).await })?;
        Ok(Self { name: name.to_owned(), endpoints: endpoints.join(","), running: Running::Cluster(cluster) })
    }

    /// Starts this program as the echo server.
    pub(crate) fn echo() -> anyhow::Result<Self> {
        let port = Port::free()?;
        let folder = tempfile::tempdir()?;
        let args = ["echo".to_owned(), port.to_string()];
        let mut process = Process::start(&std::env::current_exe()?, &args, &folder.path().join("log"))?;
        process.wait_for(echo::READY, Duration::from_secs(10))?;
        let endpoints = format!("127.0.0.1:{port}");
        let running = Running::Echo { process, _port: port, _folder: folder };
        Ok(Self { name: "echo".to_owned(), endpoints, running })
    }

    pub(crate) fn run(&mut self, generator: &Generator, plan: &Plan, case: Case) -> anyhow::Result<Reading> {
        self.measure(generator, plan, case).with_context(|| format!("{}: {case}", self.name))
    }

    fn measure(&mut self, generator: &Generator, plan: &Plan, case: Case) -> anyhow::Result<Reading> {
        let pids = self.pids();
        // Two warm-ups: the first to learn the rate, the second at that rate.
        let first = case.requests(case.work.first_guess(), plan.warm_up / 2);
        let rate = generator.run(&self.endpoints, case, first)?.rate;
        let warm = case.requests(rate, plan.warm_up / 2);
        let rate = generator.run(&self.endpoints, case, warm)?.rate;
        let requests = case.requests(rate, plan.measure);
        for pid in &pids {
            usage::forget_peak(*pid)?;
        }
        let before = Usage::of_all(&pids)?;
        let load = generator.run(&self.endpoints, case, requests)?;
        thread::sleep(SETTLE);
        let after = Usage::of_all(&pids).context("a server ended during the measurement")?;
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let each = |total: u64| total as f64 / requests as f64;
        let cpu = after.cpu.saturating_sub(before.cpu);
        Ok(Reading {
            load,
            cpu_us: each(u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX)),
            peak_bytes: after.peak_bytes,
            written_bytes: each(after.written_bytes - before.written_bytes),
        })
    }

    /// Measures the expiry of many leases; for clusters only.
    pub(crate) fn expire(&self) -> anyhow::Result<Expiry> {
        let Running::Cluster(cluster) = &self.running else { bail!("{} has no leases", self.name) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let url = format!("http://127.0.0.1:{}", cluster.members()[0].addresses.client);
        runtime.block_on(expiry::measure(&url)).with_context(|| format!("{}: many leases", self.name))
    }

    fn pids(&self) -> Vec<u32> {
        match &self.running {
            Running::Cluster(cluster) => cluster.members().iter().filter_map(harness::Member::pid).collect(),
            Running::Echo { process, .. } => vec![process.pid()],
        }
    }
}

async fn put_keys(client: &Client) -> anyhow::Result<()> {
    client.wait_leader(Duration::from_secs(20)).await?;
    put(client, GET_KEY.to_owned(), Generator::value()).await?;
    let listed =
        (0..LISTED_KEYS).map(|n| put(client, format!("{LIST_PREFIX}{n:08}"), vec![b'v'; LISTED_BYTES]));
    let mut puts = stream::iter(listed).buffer_unordered(PUTS_AHEAD);
    while let Some(done) = puts.next().await {
        done?;
    }
    Ok(())
}

async fn put(client: &Client, key: String, value: Vec<u8>) -> anyhow::Result<()> {
    let put = PutRequest { key: Bytes::from(key), value: value.into(), ..Default::default() };
    client.put(0, put, Duration::from_secs(10)).await?;
    Ok(())
}
