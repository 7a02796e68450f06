//! Where the members run: as processes of this machine, or as the containers of `deploy/compose.yaml`.

use std::time::{Duration, Instant};

use anyhow::ensure;
use harness::{Client, Cluster, Compose, SERVICES};

/// Members: the smallest cluster that survives the loss of one.
const MEMBERS: usize = 3;

/// How long a container may take to answer after its start.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Processes,
    Containers,
}

impl Kind {
    /// The members, in words.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Processes => "three members on this machine",
            Self::Containers => "the three containers of deploy/compose.yaml",
        }
    }

    /// The command for what [`Stage::kill`] does.
    pub(crate) fn killing(self) -> &'static str {
        match self {
            Self::Processes => "kill -9",
            Self::Containers => "docker kill",
        }
    }

    pub(crate) async fn start(self) -> anyhow::Result<Stage> {
        match self {
            Self::Processes => Ok(Stage::Processes(Cluster::start(MEMBERS)?)),
            Self::Containers => {
                let compose = Compose::prepare()?;
                compose.up()?;
                let client = compose.client();
                for member in 0..MEMBERS {
                    answers(&client, member).await?;
                }
                Ok(Stage::Containers(compose))
            }
        }
    }
}

pub(crate) enum Stage {
    Processes(Cluster),
    Containers(Compose),
}

impl Stage {
    pub(crate) fn names(&self) -> Vec<String> {
        match self {
            Self::Processes(cluster) => cluster.members().iter().map(|member| member.name.clone()).collect(),
            Self::Containers(_) => SERVICES.map(str::to_owned).to_vec(),
        }
    }

    /// The process or container of a member, in words.
    pub(crate) fn identity(&self, member: usize) -> anyhow::Result<String> {
        Ok(match self {
            Self::Processes(cluster) => format!("process {}", cluster.members()[member].pid().unwrap_or(0)),
            Self::Containers(compose) => {
                let id = compose.container(member)?;
                format!("container {} at port {}", &id[..id.len().min(12)], compose.port(member))
            }
        })
    }

    pub(crate) fn client(&self) -> Client {
        match self {
            Self::Processes(cluster) => cluster.client(),
            Self::Containers(compose) => compose.client(),
        }
    }

    pub(crate) fn kill(&mut self, member: usize) -> anyhow::Result<()> {
        match self {
            Self::Processes(cluster) => cluster.kill(member),
            Self::Containers(compose) => compose.kill(member),
        }
    }

    /// Restarts a killed member on its data and waits until it serves.
    pub(crate) async fn restart(&mut self, member: usize) -> anyhow::Result<()> {
        match self {
            Self::Processes(cluster) => cluster.restart(member).map(drop),
            Self::Containers(compose) => {
                compose.start(member)?;
                answers(&compose.client(), member).await
            }
        }
    }

    /// The result of Docker's health checks, if there are any.
    ///
    /// # Errors
    /// If a member is not healthy.
    pub(crate) fn health(&self) -> anyhow::Result<Option<&'static str>> {
        match self {
            Self::Processes(_) => Ok(None),
            Self::Containers(compose) => {
                compose.wait_healthy()?;
                Ok(Some("Docker's health checks call all three healthy"))
            }
        }
    }

    /// Keeps data and logs; says where they are.
    pub(crate) fn keep(&mut self) -> anyhow::Result<String> {
        match self {
            Self::Processes(cluster) => Ok(format!("data and logs are kept in {}", cluster.keep().display())),
            Self::Containers(compose) => {
                let folder = std::env::temp_dir().join(format!("quorate-demo-{}", std::process::id()));
                std::fs::create_dir_all(&folder)?;
                compose.save_logs(&folder)?;
                Ok(format!("logs are kept in {}", folder.display()))
            }
        }
    }
}

async fn answers(client: &Client, member: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + ANSWER_LIMIT;
    while let Err(status) = client.status(member).await {
        ensure!(
            Instant::now() < deadline,
            "{} does not answer after {ANSWER_LIMIT:?}: {}",
            SERVICES[member],
            status.message()
        );
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
