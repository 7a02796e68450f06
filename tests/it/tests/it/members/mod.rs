//! Members come and go: clusters that grow and shrink under load, members that join, and those that cannot.

pub(crate) mod grow;
mod joins;
mod leave;
mod refused;
mod replace;
mod takeover;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use harness::{Addresses, Client, Member, etcd_binary_of, server_binary};
use proto::etcdserverpb::{
    Member as Listed, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    cluster_client::ClusterClient,
};
use tempfile::TempDir;
use tonic::{Code, Status, transport::Channel};

use crate::support::{PATIENT, put};

/// Until something must have happened, on a slow machine: an election, a join, the end of a process.
pub(crate) const SETTLE: Duration = Duration::from_secs(40);

/// Which program a member runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ours,
    /// The newest patch of a release: `3.5`, `3.6`, `3.7`.
    Etcd(&'static str),
}

impl Kind {
    fn binary(self) -> anyhow::Result<std::path::PathBuf> {
        match self {
            Self::Ours => server_binary(),
            Self::Etcd(release) => etcd_binary_of(release),
        }
    }
}

/// A cluster that begins with one member. Numbers of members are never used again; neither are their names.
struct Growing {
    members: Vec<Option<Grown>>,
    /// Flags of every member beyond those that make the cluster.
    flags: Vec<String>,
    /// Flags of our members beyond those.
    flags_of_ours: Vec<String>,
    folder: TempDir,
}

struct Grown {
    id: u64,
    member: Member,
}

impl Growing {
    /// One member, which serves.
    async fn start(kind: Kind) -> anyhow::Result<Self> {
        Self::start_with(kind, &[]).await
    }

    async fn start_with(kind: Kind, flags: &[&str]) -> anyhow::Result<Self> {
        let more: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let folder = tempfile::Builder::new().prefix("quorate-").tempdir()?;
        let addresses = Addresses::free()?;
        let flags = [
            format!("--initial-cluster=m0={}", addresses.peer_url()),
            "--initial-cluster-token=quorate-it".to_owned(),
        ];
        let flags = [&flags[..], &more].concat();
        let mut member = Member::new("m0", &kind.binary()?, folder.path(), addresses, &flags);
        member.start()?;
        member.wait_ready()?;
        let client = Client::new([member.addresses.client_url()]);
        let id = client.status(0).await?.header.context("no header")?.member_id;
        Ok(Self { members: vec![Some(Grown { id, member })], flags: more, flags_of_ours: Vec::new(), folder })
    }

    /// Adds members until there are so many voters, each one started and ready.
    async fn grow(kind: Kind, size: usize) -> anyhow::Result<Self> {
        let mut growing = Self::start(kind).await?;
        while growing.present().len() < size {
            growing.join(kind).await?;
        }
        Ok(growing)
    }

    /// Numbers of the members that are in the cluster.
    fn present(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|at| self.members[*at].is_some()).collect()
    }

    fn at(&mut self, at: usize) -> &mut Grown {
        self.members[at].as_mut().expect("the test knows who is there")
    }

    /// A client of these members, in this order.
    fn client_of(&self, at: &[usize]) -> Client {
        Client::new(at.iter().map(|at| {
            self.members[*at].as_ref().expect("the test knows who is there").member.addresses.client_url()
        }))
    }

    fn client(&self) -> Client {
        self.client_of(&self.present())
    }

    fn admin(&self, at: usize) -> ClusterClient<Channel> {
        ClusterClient::new(self.client_of(&[at]).channel(0))
    }

    /// Tells the cluster of a member, and makes it, without starting it. Returns its number.
    async fn add(&mut self, kind: Kind, is_learner: bool) -> anyhow::Result<usize> {
        let addresses = Addresses::free()?;
        let asked = *self.present().first().context("nobody is there")?;
        let ask = MemberAddRequest { peer_ur_ls: vec![addresses.peer_url()], is_learner };
        let added = change(&self.admin(asked), async |mut admin| admin.member_add(ask.clone()).await).await?;
        let new = added.member.context("no member in the answer")?;
        ensure!(new.name.is_empty() && (new.is_learner || !is_learner), "{new:?}");
        let at = self.members.len();
        let ours = if kind == Kind::Ours { &self.flags_of_ours[..] } else { &[] };
        let flags = [&joining(&format!("m{at}"), &added.members, new.id)[..], &self.flags, ours].concat();
        let member = Member::new(&format!("m{at}"), &kind.binary()?, self.folder.path(), addresses, &flags);
        self.members.push(Some(Grown { id: new.id, member }));
        Ok(at)
    }

    /// Adds a voter, and waits until it serves.
    async fn join(&mut self, kind: Kind) -> anyhow::Result<usize> {
        let at = self.add(kind, false).await?;
        let member = &mut self.at(at).member;
        member.start()?;
        member.wait_ready()?;
        Ok(at)
    }

    /// Asks one member to remove another, or itself. Returns who was removed, its process perhaps still running.
    async fn remove(&mut self, asked: usize, at: usize) -> anyhow::Result<Grown> {
        let ask = MemberRemoveRequest { id: self.at(at).id };
        let left = change(&self.admin(asked), async |mut admin| admin.member_remove(ask).await).await?;
        ensure!(left.members.iter().all(|member| member.id != ask.id), "it is listed: {:?}", left.members);
        let gone = self.members[at].take().expect("it was there");
        ensure!(left.members.len() == self.present().len(), "{:?}", left.members);
        Ok(gone)
    }

    /// All present members hold the same.
    async fn agree(&self) -> anyhow::Result<()> {
        let client = self.client();
        let revision = client.revision(SETTLE).await?;
        client.same_hash(revision, SETTLE).await?;
        let mut lists = Vec::new();
        for at in self.present() {
            lists.push(listed(self.admin(at)).await?);
        }
        ensure!(lists.iter().all(|list| *list == lists[0]), "{lists:#?}");
        Ok(())
    }
}

pub(crate) async fn listed(mut admin: ClusterClient<Channel>) -> anyhow::Result<Vec<Listed>> {
    let list = admin.member_list(MemberListRequest { linearizable: true });
    Ok(tokio::time::timeout(PATIENT, list).await??.into_inner().members)
}

/// The flags of a member that is listed without a name yet, as `etcdctl member add` prints them.
pub(crate) fn joining(name: &str, listed: &[Listed], id: u64) -> Vec<String> {
    let of = |member: &Listed| {
        let name = if member.id == id { name } else { &member.name };
        member.peer_ur_ls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>()
    };
    let list: Vec<String> = listed.iter().flat_map(of).collect();
    vec![format!("--initial-cluster={}", list.join(",")), "--initial-cluster-state=existing".to_owned()]
}

/// One change, tried again while the cluster is too young for it (five healthy seconds are wanted), or lost it.
pub(crate) async fn change<T>(
    admin: &ClusterClient<Channel>,
    ask: impl AsyncFn(ClusterClient<Channel>) -> Result<tonic::Response<T>, Status>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match ask(admin.clone()).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if begun.elapsed() < SETTLE && is_young(&status) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(status) => bail!("{:?}: {}", status.code(), status.message()),
        }
    }
}

fn is_young(status: &Status) -> bool {
    ["unhealthy cluster", "in sync with leader", "not enough started members", "leader changed", "timed out"]
        .iter()
        .any(|words| status.message().contains(words))
}

async fn promote(growing: &Growing, asked: usize, id: u64) -> anyhow::Result<Vec<Listed>> {
    let ask = MemberPromoteRequest { id };
    let answer = change(&growing.admin(asked), async |mut admin| admin.member_promote(ask).await).await?;
    Ok(answer.members)
}

/// A write may meet an election.
pub(crate) async fn put_patiently(client: &Client, at: usize, key: &str) -> anyhow::Result<i64> {
    let begun = Instant::now();
    loop {
        match put(client, at, key, "v").await {
            Ok(revision) => return Ok(revision),
            Err(error) if begun.elapsed() > SETTLE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// An answer that must be a refusal, with this code and these words.
fn refused<T: std::fmt::Debug>(
    answer: Result<tonic::Response<T>, Status>,
    code: Code,
    words: &str,
) -> anyhow::Result<()> {
    let Err(status) = answer else { bail!("accepted, instead of {words:?}: {answer:?}") };
    ensure!(status.code() == code && status.message() == words, "{words:?}: {status:?}");
    Ok(())
}
