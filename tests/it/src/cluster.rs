//! A cluster of server processes on this machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::{Addresses, Client, Member, etcd_binary, power::Disk, server_binary};

/// How to start a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// The number of members.
    pub size: usize,
    /// Flags beyond those that make the cluster, the same for every member.
    pub flags: Vec<String>,
    /// Tells clusters apart: it is part of what IDs are made from.
    pub token: String,
    /// The server; `None` = [`server_binary`].
    pub binary: Option<PathBuf>,
    /// Where data directories go; `None` = a new temporary folder.
    pub folder: Option<PathBuf>,
    /// Members, by number, that run stock etcd ([`etcd_binary`]) instead.
    pub etcd: Vec<usize>,
    /// Flags of those beyond `flags`.
    pub etcd_flags: Vec<String>,
    /// Each member listens at one peer address and tells the others another one, [`Addresses::via`]: somebody in
    /// between can do to their connections what networks do.
    pub indirect: bool,
    /// Each member's data lies on a disk of its own, [`Cluster::disk`], whose power can be cut.
    pub power: bool,
}

impl Options {
    /// `size` members with default flags.
    pub fn new(size: usize) -> Self {
        let token = "quorate-it".to_owned();
        Self {
            size,
            flags: Vec::new(),
            token,
            binary: None,
            folder: None,
            etcd: Vec::new(),
            etcd_flags: Vec::new(),
            indirect: false,
            power: false,
        }
    }

    /// Three members, those of the given numbers stock etcd.
    pub fn mixed(etcd: &[usize]) -> Self {
        Self { etcd: etcd.to_vec(), ..Self::new(3) }
    }
}

/// The members, and the folder that holds their data and logs.
///
/// Dropped, it kills what runs and removes the folder; dropped by a failing test it keeps the
/// folder, says where it is and shows the end of each log.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    disks: Vec<Disk>,
    folder: Folder,
}

#[derive(Debug)]
enum Folder {
    Temporary(Option<TempDir>),
    Given(PathBuf),
}

impl Cluster {
    /// Starts `size` members and waits until all of them serve.
    pub fn start(size: usize) -> anyhow::Result<Self> {
        Self::start_with(&Options::new(size))
    }

    /// Starts what `options` say and waits until all members serve.
    pub fn start_with(options: &Options) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare(options)?;
        for member in &mut cluster.members {
            member.start()?;
        }
        for member in &mut cluster.members {
            member.wait_ready()?;
        }
        Ok(cluster)
    }

    /// Ports, folders and flags, but no process yet.
    pub fn prepare(options: &Options) -> anyhow::Result<Self> {
        let binary = options.binary.clone().map_or_else(server_binary, Ok)?;
        let folder = match &options.folder {
            Some(folder) => Folder::Given(folder.clone()),
            None => Folder::Temporary(Some(tempfile::Builder::new().prefix("quorate-").tempdir()?)),
        };
        let etcd = if options.etcd.is_empty() { None } else { Some(etcd_binary()?) };
        let addresses = (0..options.size)
            .map(|_| if options.indirect { Addresses::indirect() } else { Addresses::free() })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let peers: Vec<String> =
            addresses.iter().enumerate().map(|(i, a)| format!("m{i}={}", a.peer_url())).collect();
        let mut flags = vec![
            format!("--initial-cluster={}", peers.join(",")),
            format!("--initial-cluster-token={}", options.token),
            "--initial-cluster-state=new".to_owned(),
        ];
        flags.extend_from_slice(&options.flags);
        let mut disks = Vec::new();
        if options.power {
            for index in 0..options.size {
                disks.push(Disk::new(folder.path(), &format!("m{index}"))?);
            }
        }
        let members: Vec<Member> = addresses
            .into_iter()
            .enumerate()
            .map(|(i, a)| match etcd.as_ref().filter(|_| options.etcd.contains(&i)) {
                None => Member::new(&format!("m{i}"), &binary, folder.path(), a, &flags),
                Some(etcd) => {
                    let flags = [&flags[..], &options.etcd_flags].concat();
                    Member::new(&format!("m{i}"), etcd, folder.path(), a, &flags)
                }
            })
            .collect();
        let members = if options.power {
            members.into_iter().zip(&disks).map(|(member, disk)| member.on(disk)).collect::<Result<_, _>>()?
        } else {
            members
        };
        Ok(Self { members, disks, folder })
    }

    /// The members, in the order of their names.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// One member, to be driven by hand.
    pub fn member(&mut self, index: usize) -> &mut Member {
        &mut self.members[index]
    }

    /// What one member's data lies on, where [`Options::power`] asked for it.
    pub fn disk(&self, index: usize) -> &Disk {
        &self.disks[index]
    }

    /// How many members there are, running or not.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// SIGKILL for one member.
    pub fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        self.members[index].kill()
    }

    /// SIGTERM for one member, and its end.
    pub fn stop(&mut self, index: usize) -> anyhow::Result<ExitStatus> {
        self.members[index].stop()
    }

    /// Starts a member that is down again on its data and waits until it serves: how long that took.
    pub fn restart(&mut self, index: usize) -> anyhow::Result<Duration> {
        self.members[index].start()?;
        self.members[index].wait_ready()
    }

    /// Stops each member in turn and starts it again on what it wrote.
    pub fn restart_all(&mut self) -> anyhow::Result<()> {
        for index in 0..self.size() {
            self.stop(index)?;
            self.restart(index)?;
        }
        Ok(())
    }

    /// A client with one connection to each member. Needs a tokio runtime around it.
    pub fn client(&self) -> Client {
        Client::new(self.members.iter().map(|m| m.addresses.client_url()))
    }

    /// Where data and logs are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the folder when this is dropped, for a reader who wants to look.
    pub fn keep(&mut self) -> PathBuf {
        if let Folder::Temporary(temporary) = &mut self.folder
            && let Some(temporary) = temporary.take()
        {
            self.folder = Folder::Given(temporary.keep());
        }
        self.folder.path().to_path_buf()
    }
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(Some(temporary)) => temporary.path(),
            Self::Temporary(None) => unreachable!("taken only while it is replaced by Given"),
            Self::Given(path) => path,
        }
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "tells whoever reads the failed test where to look")]
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        eprintln!("data and logs are kept in {}", self.keep().display());
        for member in &self.members {
            let log = fs::read_to_string(member.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the last lines of {}", member.log().display());
            for line in &lines[lines.len().saturating_sub(8)..] {
                eprintln!("{}", line.chars().take(400).collect::<String>());
            }
        }
    }
}
