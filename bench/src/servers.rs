//! The servers that are measured.

use std::{path::Path, thread, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use harness::{
    Client, Cluster, Options, Port, Process,
    usage::{self, Usage},
};
use proto::etcdserverpb::PutRequest;
use serde::Serialize;

use crate::{
    echo,
    generator::{GET_KEY, Generator, Load},
    plan::{Case, Plan},
};

/// Work that a request leaves behind (commits in the background, log writes of followers) is counted with it.
const SETTLE: Duration = Duration::from_millis(300);

/// The rate that the warm-up is sized for before anything is known.
const FIRST_GUESS: f64 = 1_000.0;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Reading {
    pub(crate) load: Load,
    /// User and system time of all members, a request.
    pub(crate) cpu_us: f64,
    /// Peak resident memory of all members during the measurement.
    pub(crate) peak_bytes: u64,
    /// Written to storage by all members, a request.
    pub(crate) written_bytes: f64,
}

/// A cluster of one server, or the bare answerer.
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
    /// Starts `size` members and puts the key that gets read.
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
        runtime.block_on(async { put_key(&cluster.client()).await })?;
        Ok(Self { name: name.to_owned(), endpoints: endpoints.join(","), running: Running::Cluster(cluster) })
    }

    /// Starts this very program as the bare answerer.
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

    /// Warms up, then measures.
    pub(crate) fn run(&mut self, generator: &Generator, plan: &Plan, case: Case) -> anyhow::Result<Reading> {
        self.measure(generator, plan, case).with_context(|| format!("{}: {case}", self.name))
    }

    fn measure(&mut self, generator: &Generator, plan: &Plan, case: Case) -> anyhow::Result<Reading> {
        let pids = self.pids();
        // Two warm-ups: the first to learn the rate, the second at that rate.
        let first = Generator::requests(case, FIRST_GUESS, plan.warm_up / 2);
        let rate = generator.run(&self.endpoints, case, first)?.rate;
        let warm = Generator::requests(case, rate, plan.warm_up / 2);
        let rate = generator.run(&self.endpoints, case, warm)?.rate;
        let requests = Generator::requests(case, rate, plan.measure);
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

    fn pids(&self) -> Vec<u32> {
        match &self.running {
            Running::Cluster(cluster) => cluster.members().iter().filter_map(harness::Member::pid).collect(),
            Running::Echo { process, .. } => vec![process.pid()],
        }
    }
}

async fn put_key(client: &Client) -> anyhow::Result<()> {
    client.wait_leader(Duration::from_secs(20)).await?;
    let key = Bytes::from_static(GET_KEY.as_bytes());
    let put = PutRequest { key, value: Generator::value().into(), ..Default::default() };
    client.put(0, put, Duration::from_secs(10)).await?;
    Ok(())
}
