//! The cluster under attack: started as a shell would start it, and looked at from outside.

use std::{
    fmt, fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use harness::{Addresses, Client, Cluster, Member, Port, usage::Usage};

/// What a shell gives a program: it may raise the soft limit to the hard one.
const FILES: u32 = 1_024;
/// The default quota is 2 GiB; histories here are smaller, but not always by much.
const QUOTA: &str = "--quota-backend-bytes=8589934592";
/// A member that lives answers within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// Whose processes are attacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Etcd,
    Quorate,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Etcd => "etcd",
            Self::Quorate => "quorate",
        })
    }
}

impl FromStr for Server {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        match name {
            "etcd" => Ok(Self::Etcd),
            "quorate" => Ok(Self::Quorate),
            _ => bail!("no server {name:?}; there are etcd and quorate"),
        }
    }
}

/// Which limit of open files the servers start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Files {
    /// [`FILES`], and more for who asks: as from a shell.
    SoftLimit,
    /// [`FILES`], and never more.
    HardLimit,
}

pub(crate) struct Servers {
    pub(crate) cluster: Cluster,
}

/// One member as it is seen from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Look {
    /// Its process runs, and it says where it is.
    pub(crate) lives: bool,
    pub(crate) term: u64,
    /// Resident memory of the process, in bytes.
    pub(crate) resident: u64,
    /// All that it has logged.
    pub(crate) logged: u64,
}

impl Servers {
    pub(crate) fn start(server: Server, size: usize, files: Files) -> anyhow::Result<Self> {
        let binary = match server {
            Server::Etcd => harness::etcd_binary()?,
            Server::Quorate => harness::server_binary()?,
        };
        let options = harness::Options {
            binary: Some(limited(&binary, files)?),
            token: format!("adversary-{server}"),
            flags: vec![QUOTA.to_owned()],
            ..harness::Options::new(size)
        };
        let cluster = Cluster::start_with(&options).with_context(|| format!("cannot start {server}"))?;
        Ok(Self { cluster })
    }

    /// The processes, those that have ended too.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.cluster.members().iter().filter_map(Member::pid).collect()
    }

    /// One of each member's addresses.
    pub(crate) fn addresses(&self, which: fn(&Addresses) -> &Port) -> Vec<SocketAddr> {
        let port = |member: &Member| ([127, 0, 0, 1], which(&member.addresses).number()).into();
        self.cluster.members().iter().map(port).collect()
    }

    /// Each member now, over connections that are new. Needs a tokio runtime around it.
    pub(crate) async fn look(&mut self) -> Vec<Look> {
        let client = self.cluster.client();
        let mut looks = Vec::new();
        for at in 0..self.cluster.size() {
            let member = self.cluster.member(at);
            let logged = fs::metadata(member.log()).map_or(0, |log| log.len());
            let running = member.process().is_ok_and(|process| matches!(process.ended(), Ok(None)));
            let resident =
                member.pid().and_then(|pid| Usage::of(pid).ok()).map_or(0, |used| used.resident_bytes);
            let term = if running { term(&client, at).await } else { None };
            looks.push(Look { lives: term.is_some(), term: term.unwrap_or(0), resident, logged });
        }
        looks
    }

    /// The end of the log of a member that has ended.
    pub(crate) fn last_words(&mut self) -> Option<String> {
        let mut ended = None;
        for at in 0..self.cluster.size() {
            let Ok(process) = self.cluster.member(at).process() else { continue };
            if let Ok(Some(status)) = process.ended() {
                ended = Some(format!("member {at} ended ({status}): {}", reason(&process.tail(1))));
            }
        }
        ended
    }
}

/// Why, of a log line in JSON; all of a line that is none.
fn reason(line: &str) -> String {
    let (_, after) = line.split_once(r#""error":""#).unwrap_or(("", line));
    after.split('"').next().unwrap_or_default().chars().take(120).collect()
}

/// The term in the words of a member, asked until it answers.
async fn term(client: &Client, at: usize) -> Option<u64> {
    let deadline = Instant::now() + ANSWER_LIMIT;
    loop {
        if let Ok(status) = client.status(at).await {
            return Some(status.raft_term);
        }
        if Instant::now() > deadline {
            return None;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A program that lowers its limit of files and becomes the server.
fn limited(binary: &Path, files: Files) -> anyhow::Result<PathBuf> {
    let which = match files {
        Files::SoftLimit => "-Sn",
        Files::HardLimit => "-n",
    };
    let name = binary.file_name().and_then(|name| name.to_str()).context("the server has no name")?;
    let folder = harness::target_dir().join("adversary");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(format!("{name}{which}"));
    let text = format!("#!/bin/sh\nulimit {which} {FILES} || exit 1\nexec '{}' \"$@\"\n", binary.display());
    // Written aside and renamed: another run may be starting the one that is there.
    let new = folder.join(format!("{name}{which}.{}", std::process::id()));
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_an_end_is_the_error_of_its_line() {
        assert_eq!(
            reason(r#"{"level":"fatal","msg":"the member stops","error":"no file","ts":"1"}"#),
            "no file"
        );
        assert_eq!(reason("Killed"), "Killed");
    }
}
