//! A cluster of containers, as `deploy/compose.yaml` has it.
//!
//! Needs a Docker engine that answers and docker compose, as a plug-in or as a program
//! (`scripts/with-docker.sh` and `scripts/deps.sh docker`), and the image (`make image`).

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tempfile::NamedTempFile;

use crate::{Client, Port, repository};

/// The members' names in the compose file.
pub const SERVICES: [&str; 3] = ["quorate1", "quorate2", "quorate3"];

/// What the compose file's health checks may need: the first comes after one interval, on a slow machine.
const HEALTHY_LIMIT: Duration = Duration::from_mins(1);

/// Between two questions to the engine.
const POLL: Duration = Duration::from_millis(100);

/// Tells projects of one process apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A project of three containers with volumes, a network and ports of its own; gone when dropped.
#[derive(Debug)]
pub struct Compose {
    project: String,
    ports: Vec<Port>,
    /// A compose file that is laid over the first.
    edit: Option<NamedTempFile>,
    /// Whether the engine was asked for containers: else there is nothing to remove, and need not be an engine.
    asked: AtomicBool,
}

impl Compose {
    /// Ports and a name, but no container yet.
    pub fn prepare() -> anyhow::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            project: format!("quorate-{}-{number}", process::id()),
            ports: SERVICES.iter().map(|_| Port::free()).collect::<anyhow::Result<_>>()?,
            edit: None,
            asked: AtomicBool::new(false),
        })
    }

    /// The same, with the text of a second compose file laid over the first.
    pub fn edited(text: &str) -> anyhow::Result<Self> {
        let mut edit = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        edit.write_all(text.as_bytes())?;
        let mut compose = Self::prepare()?;
        compose.edit = Some(edit);
        Ok(compose)
    }

    /// The compose file that users get.
    pub fn file() -> PathBuf {
        repository().join("deploy/compose.yaml")
    }

    /// Whether an engine answers; the error is what it says.
    pub fn engine() -> anyhow::Result<String> {
        let mut docker = Command::new("docker");
        run(docker.args(["version", "--format", "{{.Server.Version}}"])).context("no Docker engine answers")
    }

    /// Starts what is not running. What serves is another question: [`Self::client`].
    pub fn up(&self) -> anyhow::Result<()> {
        self.asked.store(true, Ordering::Relaxed);
        self.compose(&["up", "--detach"]).map(drop)
    }

    /// The file with everything filled in, as docker compose sees it. Needs no engine.
    pub fn config(&self) -> anyhow::Result<String> {
        self.compose(&["config"])
    }

    /// `docker kill`: SIGKILL, and no restart until [`Self::start`], for the engine takes it for a stop by hand.
    pub fn kill(&self, member: usize) -> anyhow::Result<()> {
        docker(&["kill", &self.container(member)?]).map(drop)
    }

    /// Starts a stopped container with `docker start`.
    pub fn start(&self, member: usize) -> anyhow::Result<()> {
        docker(&["start", &self.container(member)?]).map(drop)
    }

    /// `docker stop`: SIGTERM, then after the grace period SIGKILL.
    pub fn stop(&self, member: usize) -> anyhow::Result<()> {
        docker(&["stop", &self.container(member)?]).map(drop)
    }

    /// A field of `docker inspect`, in Go's template language.
    pub fn inspect(&self, member: usize, template: &str) -> anyhow::Result<String> {
        docker(&["inspect", "--format", template, &self.container(member)?])
    }

    /// Waits until the engine calls every member healthy.
    pub fn wait_healthy(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + HEALTHY_LIMIT;
        for (member, name) in SERVICES.iter().enumerate() {
            loop {
                let health = self.inspect(member, "{{.State.Health.Status}}")?;
                if health == "healthy" {
                    break;
                }
                ensure!(
                    Instant::now() < deadline,
                    "{name} is {health} after {HEALTHY_LIMIT:?}; its last check: {}",
                    self.inspect(member, "{{json .State.Health.Log}}")?
                );
                thread::sleep(POLL);
            }
        }
        Ok(())
    }

    /// All that a member has written, its standard output and error.
    pub fn log(&self, member: usize) -> anyhow::Result<String> {
        let mut command = Command::new("docker");
        command.args(["logs", &self.container(member)?]).stdin(Stdio::null());
        let output = command.output().context("cannot run docker")?;
        ensure!(output.status.success(), "docker logs: {}", text(&output.stderr));
        Ok(text(&output.stdout) + &text(&output.stderr))
    }

    /// Writes every member's log into `folder`.
    pub fn save_logs(&self, folder: &Path) -> anyhow::Result<()> {
        for (member, name) in SERVICES.iter().enumerate() {
            fs::write(folder.join(format!("{name}.log")), self.log(member)?)?;
        }
        Ok(())
    }

    /// A client with one connection to each member. Needs a tokio runtime around it.
    pub fn client(&self) -> Client {
        Client::new(self.ports.iter().map(|port| format!("http://127.0.0.1:{port}")))
    }

    /// Where a member answers clients, on this machine.
    pub fn port(&self, member: usize) -> u16 {
        self.ports[member].number()
    }

    /// The ID of a member's container, running or not.
    pub fn container(&self, member: usize) -> anyhow::Result<String> {
        let (project, service) = (&self.project, SERVICES[member]);
        let ids = docker(&[
            "ps",
            "--all",
            "--quiet",
            &format!("--filter=label=com.docker.compose.project={project}"),
            &format!("--filter=label=com.docker.compose.service={service}"),
        ])?;
        match ids.lines().collect::<Vec<_>>()[..] {
            [id] => Ok(id.to_owned()),
            [] => bail!("{service} has no container"),
            _ => bail!("{service} has more than one container: {ids}"),
        }
    }

    fn compose(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = compose_command()?;
        command.arg("--project-name").arg(&self.project);
        command.arg("--file").arg(Self::file());
        if let Some(edit) = &self.edit {
            command.arg("--file").arg(edit.path());
        }
        for (index, port) in self.ports.iter().enumerate() {
            command.env(format!("QUORATE_PORT{}", index + 1), format!("127.0.0.1:{port}"));
        }
        run(command.args(args))
    }
}

impl Drop for Compose {
    #[expect(clippy::print_stderr, reason = "what is left behind must be told")]
    fn drop(&mut self) {
        if !*self.asked.get_mut() {
            return;
        }
        if thread::panicking() {
            for (member, name) in SERVICES.iter().enumerate() {
                let log = self.log(member).unwrap_or_else(|error| format!("{error:#}"));
                let lines: Vec<&str> = log.lines().collect();
                eprintln!(
                    "--- the last lines of {name}\n{}",
                    lines[lines.len().saturating_sub(8)..].join("\n")
                );
            }
        }
        if let Err(error) = self.compose(&["down", "--volumes", "--timeout", "1"]) {
            eprintln!("the containers of {} are left behind: {error:#}", self.project);
        }
    }
}

/// `docker compose` where the plug-in is there, else `docker-compose`.
fn compose_command() -> anyhow::Result<Command> {
    let mut plugin = Command::new("docker");
    plugin.arg("compose");
    let mut asked = Command::new("docker");
    if run(asked.args(["compose", "version"])).is_ok() {
        return Ok(plugin);
    }
    run(Command::new("docker-compose").arg("version"))
        .context("there is no docker compose: run scripts/deps.sh docker")?;
    Ok(Command::new("docker-compose"))
}

fn docker(args: &[&str]) -> anyhow::Result<String> {
    run(Command::new("docker").args(args))
}

/// Runs a command to its end: its standard output, without the newline at the end.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} ended with {}: {}",
        output.status,
        text(&output.stderr).trim()
    );
    Ok(text(&output.stdout).trim_end().to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
