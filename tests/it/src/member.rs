//! One member of a cluster: a name, two addresses, a data directory, and at most one process.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::Signal;

use crate::{Port, Process, READY, power::Disk};

/// Generous, because CI machines are slow; a healthy start takes about a second.
const READY_LIMIT: Duration = Duration::from_mins(1);

/// A SIGTERM hands over leadership, drains and flushes: seconds at most.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Where a member listens.
#[derive(Debug)]
pub struct Addresses {
    /// The port for clients.
    pub client: Port,
    /// The port for peers.
    pub peer: Port,
    /// What the peers are told instead of the peer port, if anything.
    pub via: Option<Port>,
}

impl Addresses {
    /// Reserves two free ports.
    pub fn free() -> anyhow::Result<Self> {
        Ok(Self { client: Port::free()?, peer: Port::free()?, via: None })
    }

    /// Three free ports: the peers are told another one than the member listens at.
    pub fn indirect() -> anyhow::Result<Self> {
        Ok(Self { via: Some(Port::free()?), ..Self::free()? })
    }

    /// The URL for clients: `http://127.0.0.1:…`.
    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// The URL for peers: `http://127.0.0.1:…`.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.via.as_ref().unwrap_or(&self.peer))
    }

    /// etcd's flags for them.
    pub fn flags(&self) -> Vec<String> {
        let (client, peer) = (self.client_url(), self.peer_url());
        vec![
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{}", self.peer),
            format!("--initial-advertise-peer-urls={peer}"),
        ]
    }
}

/// A member, running or not.
#[derive(Debug)]
pub struct Member {
    /// The name: `m0`, `m1`, …
    pub name: String,
    /// Its two ports, kept over restarts.
    pub addresses: Addresses,
    /// The data directory of the member.
    pub data: PathBuf,
    binary: PathBuf,
    flags: Vec<String>,
    variables: Vec<(String, String)>,
    log: PathBuf,
    process: Option<Process>,
}

impl Member {
    /// A member that is not started yet. `flags` are those beyond name, data directory and addresses.
    pub fn new(name: &str, binary: &Path, folder: &Path, addresses: Addresses, flags: &[String]) -> Self {
        let data = folder.join(format!("{name}.data"));
        let mut all = vec![format!("--name={name}"), format!("--data-dir={}", data.display())];
        all.extend(addresses.flags());
        all.extend_from_slice(flags);
        Self {
            name: name.to_owned(),
            addresses,
            data,
            binary: binary.to_path_buf(),
            flags: all,
            variables: Vec::new(),
            log: folder.join(format!("{name}.log")),
            process: None,
        }
    }

    /// The same member with its data directory, `data`, on a disk whose power can be cut.
    pub fn on(mut self, disk: &Disk) -> anyhow::Result<Self> {
        self.set_data(&disk.root().join("data"));
        self.variables.extend(disk.variables()?);
        Ok(self)
    }

    /// Starts its process; [`Self::wait_ready`] waits for it to serve.
    pub fn start(&mut self) -> anyhow::Result<()> {
        assert!(!self.is_running(), "{} is started once at a time", self.name);
        self.process = Some(Process::start_with(&self.binary, &self.flags, &self.variables, &self.log)?);
        Ok(())
    }

    /// Its next run is of another program, on the same data.
    pub fn set_binary(&mut self, binary: &Path) {
        binary.clone_into(&mut self.binary);
    }

    /// Its next run is on another data directory.
    pub fn set_data(&mut self, data: &Path) {
        data.clone_into(&mut self.data);
        let flag = self.flags.iter_mut().find(|flag| flag.starts_with("--data-dir="));
        *flag.expect("every member has a data directory") = format!("--data-dir={}", data.display());
    }

    /// Adds a flag to its next runs, or takes it away.
    pub fn set_flag(&mut self, flag: &str, is_there: bool) {
        self.flags.retain(|known| known != flag);
        if is_there {
            self.flags.push(flag.to_owned());
        }
    }

    /// Its next run finds this in its environment.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Waits until this run has said that it serves; returns how long that took from now.
    pub fn wait_ready(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let name = self.name.clone();
        self.process()?.wait_for(READY, READY_LIMIT).with_context(|| format!("{name} did not start"))?;
        Ok(begun.elapsed())
    }

    /// SIGKILL: nothing it had not yet written survives in it.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// SIGTERM, and its orderly end.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let process = self.process()?;
        process.signal(Signal::TERM)?;
        let status = process.wait_end(STOP_LIMIT).context("SIGTERM did not end it")?;
        self.process = None;
        Ok(status)
    }

    /// SIGSTOP: it is there and does nothing.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.process()?.signal(Signal::STOP)
    }

    /// Resumes a paused process with SIGCONT.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.process()?.signal(Signal::CONT)
    }

    /// Whether it was started and not stopped by us.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Its process; an error when it is not running.
    pub fn process(&mut self) -> anyhow::Result<&mut Process> {
        self.process.as_mut().with_context(|| format!("{} is not running", self.name))
    }

    /// Its process ID, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// All it has ever logged goes here.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The flags it is started with.
    pub fn flags(&self) -> &[String] {
        &self.flags
    }
}
