//! From a configuration to a log, an engine and an identity. The first start of a new cluster makes both IDs out of
//! `--initial-cluster`, as etcd does, and writes the log's first entries; a member that joins asks the others ([`join`]) and
//! begins with an empty log. Later starts read the IDs from the log and ignore the bootstrap flags.

use crate::config::{Cluster, Config};
use crate::directory::{self, Found};
use crate::snapshots::Engines;
use crate::{join, takeover};
use anyhow::{Context as _, bail, ensure};
use machine::{Member, Membership};
use raft_node::bootstrap::{self, Owner};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use types::{Index, Term};
use wal::{FsDisk, Wal};

/// Refuses rows of another log, and the data of another member: two processes that vote as one member lose acknowledged
/// writes. Flags that describe nobody in the cluster are ignored, as in etcd after the first start.
pub(crate) fn check_owner(
    data: &DataDir,
    applied: (Index, Term),
    membership: &Membership,
    config: &Config,
) -> anyhow::Result<()> {
    directory::check_rows(&data.wal, data.member, applied, membership)
        .with_context(|| format!("the data directory {} is refused", config.data_dir.display()))?;
    ensure!(
        membership.learners() <= config.changes.learners_max,
        "membership: too many learner members in cluster"
    );
    match data.described {
        Some(other) if other != data.member && membership.members.contains_key(&other) => bail!(
            "the data directory {} belongs to member {:x}, but --name and --initial-cluster describe member {other:x} of \
             the same cluster",
            config.data_dir.display(),
            data.member,
        ),
        _ => Ok(()),
    }
}

/// How long a member of a new cluster is asked whether it knows this one already: etcd's bootstrap timeout.
const PEER_ANSWER_MAX: Duration = Duration::from_secs(1);

pub(crate) struct DataDir {
    pub(crate) member: u64,
    pub(crate) cluster: u64,
    pub(crate) wal: Wal<FsDisk>,
    /// The engines, of which the current one has all applied entries.
    pub(crate) engines: Arc<Engines>,
    /// Who the flags say this is, where they say it.
    pub(crate) described: Option<u64>,
    /// Held as long as the member lives: one process a data directory.
    pub(crate) lock: File,
}

/// Opens the data directory, or makes it. The store keeps so many tables open.
pub(crate) async fn open(config: &Config, tables: i32, log: &slog::Logger) -> anyhow::Result<DataDir> {
    let member_dir = config.data_dir.join("member");
    let etcds = match directory::examine(&member_dir, &config.wal_dir)? {
        Found::Ours => None,
        // Before the lock, which makes a file.
        Found::Etcds => Some(takeover::check(&member_dir, &config.wal_dir)?),
    };
    make_dir(&member_dir)?;
    directory::warn_if_open(&config.data_dir, log);
    directory::warn_if_open(&member_dir, log);
    let lock = lock(&member_dir)?;
    if let Some(ready) = etcds {
        takeover::take_over(ready, &member_dir, log)?;
    }
    make_dir(&config.wal_dir)?;
    let disk = FsDisk::open(&config.wal_dir)
        .with_context(|| format!("cannot open the log directory {}", config.wal_dir.display()))?;
    let (mut wal, member, cluster) = if Wal::exists(&disk)? {
        reopen(disk, &config.wal_dir, log)?
    } else {
        let (member, cluster) = first_identity(config, log).await?;
        let metadata = if config.cluster.is_new { bootstrap::metadata } else { bootstrap::joined_metadata };
        let wal = Wal::create(disk, &metadata(member, cluster))
            .with_context(|| format!("cannot create the log in {}", config.wal_dir.display()))?;
        (wal, member, cluster)
    };
    let described = Identity::derive(&config.name, &config.cluster);
    // The others have the first entries for one that joined: the log itself says so, since flags may change.
    let has_joined = bootstrap::read_metadata(wal.metadata()).is_some_and(|owner| owner.has_joined);
    if wal.last_index() == 0 && !has_joined {
        // Also after a crash between the log's creation and this.
        let identity = described.as_ref().filter(|own| own.member == member && own.cluster == cluster);
        write_first_entries(&mut wal, identity, &config.wal_dir)?;
    }
    let described = described.map(|identity| identity.member);
    let options = engine_rocks::Options { open_tables_max: tables, ..engine_rocks::Options::default() };
    // After the log: rows without a log are refused, so that a first start may be cut short anywhere.
    let engines = Engines::open(&member_dir, options, wal.first_index(), log.clone())?;
    Ok(DataDir { member, cluster, wal, engines, described, lock })
}

/// The log, and whose it is.
fn reopen(disk: FsDisk, dir: &Path, log: &slog::Logger) -> anyhow::Result<(Wal<FsDisk>, u64, u64)> {
    let (wal, replayed) =
        Wal::open(disk).with_context(|| format!("cannot open the log in {}", dir.display()))?;
    if let Some(repair) = &replayed.repaired {
        slog::warn!(log, "repaired the log's torn end, as a crash leaves it"; "repair" => ?repair);
    }
    let Owner { member, cluster, .. } = bootstrap::read_metadata(&replayed.metadata)
        .with_context(|| format!("the log in {} does not say whose it is", dir.display()))?;
    slog::info!(log, "restarting local member"; "local-member-id" => format!("{member:x}"),
        "cluster-id" => format!("{cluster:x}"), "commit-index" => replayed.hard_state.commit);
    Ok((wal, member, cluster))
}

pub(crate) struct Identity {
    pub(crate) member: u64,
    pub(crate) cluster: u64,
    pub(crate) members: Vec<Member>,
}

impl Identity {
    pub(crate) fn derive(name: &str, wanted: &Cluster) -> Option<Self> {
        let members = wanted.members.iter().map(|(name, urls)| {
            let peer_urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
            let id = bootstrap::member_id(&peer_urls, &wanted.token, None);
            Member { id, peer_urls, name: name.clone(), ..Member::default() }
        });
        let members: Vec<Member> = members.collect();
        let member = members.iter().find(|member| member.name == name)?.id;
        let cluster = bootstrap::cluster_id(members.iter().map(|member| member.id));
        Some(Self { member, cluster, members })
    }
}

fn write_first_entries(wal: &mut Wal<FsDisk>, identity: Option<&Identity>, dir: &Path) -> anyhow::Result<()> {
    let Some(identity) = identity else {
        bail!(
            "the log in {} is empty and belongs to another member: its first start was interrupted; remove it",
            dir.display()
        );
    };
    let (entries, hard_state) = bootstrap::first_log(&identity.members);
    wal.append(&entries, Some(&hard_state))?;
    wal.sync()?;
    Ok(())
}

/// Who this member and its cluster are to be, after everything that can be checked beforehand was.
async fn first_identity(config: &Config, log: &slog::Logger) -> anyhow::Result<(u64, u64)> {
    let wanted = &config.cluster;
    let (member, cluster) = if wanted.is_new {
        check_own_entry(&config.name, wanted)?;
        let identity = Identity::derive(&config.name, wanted).context("the cluster lists this member")?;
        refuse_if_known(&identity).await?;
        (identity.member, identity.cluster)
    } else {
        join::identity(config, log).await?
    };
    slog::info!(log, "starting local member"; "local-member-id" => format!("{member:x}"),
        "cluster-id" => format!("{cluster:x}"));
    Ok((member, cluster))
}

/// etcd's `VerifyBootstrap`: the cluster must list this member, at the URLs it advertises.
pub(crate) fn check_own_entry(name: &str, wanted: &Cluster) -> anyhow::Result<()> {
    let urls = wanted.listed(name)?;
    if *urls != wanted.advertise_peers {
        let show = |urls: &[_]| urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        bail!(
            "--initial-cluster has {name}={} but --initial-advertise-peer-urls has {}",
            show(urls),
            show(&wanted.advertise_peers)
        );
    }
    Ok(())
}

/// A member whose disk was lost must not vote again under its old name: the others may know promises it made.
async fn refuse_if_known(identity: &Identity) -> anyhow::Result<()> {
    let others = identity.members.iter().filter(|member| member.id != identity.member);
    let asked = others.map(|member| transport::fetch_members(&member.peer_urls, PEER_ANSWER_MAX));
    for remote in futures::future::join_all(asked).await.into_iter().flatten() {
        let is_known = remote.members.iter().any(|m| m.id == identity.member && !m.client_urls.is_empty());
        if remote.cluster == identity.cluster && is_known {
            bail!("member {:x} has already been bootstrapped", identity.member);
        }
    }
    Ok(())
}

/// Makes a directory, for its owner only, whose name survives a power cut.
pub(crate) fn make_dir(path: &Path) -> anyhow::Result<()> {
    wal::make_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// Keeps other processes away from a member's directory.
pub(crate) fn lock(member_dir: &Path) -> anyhow::Result<File> {
    let path = member_dir.join("LOCK");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = opened.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another process uses the data directory {} (its LOCK file is held)", member_dir.display())
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
