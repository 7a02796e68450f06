//! Clusters of stock etcd and of ours: what holds for a cluster of ours holds for these, and all members hold the same.
//!
//! * `IT_MIXED_REQUESTS`: requests in each test of [`requests`], 2,000 unless said otherwise.
//! * `IT_MIXED_KILLS`: kills in each test of [`kills`], 3 unless said otherwise.

mod alarms;
mod basics;
mod clock;
mod faults;
mod generator;
mod hashes;
mod kills;
mod lag;
mod leases;
mod members;
mod requests;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use harness::{Client, Cluster, Options};
use proto::etcdserverpb::{AlarmRequest, Member, MemberListRequest, cluster_client::ClusterClient};

use crate::support::{PATIENT, no_panic, put};

/// Two etcd, one of ours: ours is m0.
const TWO_ETCD: &[usize] = &[1, 2];

/// Two of ours, one etcd: that is m2.
const ONE_ETCD: &[usize] = &[2];

/// A member of ours, in both.
const OURS: usize = 0;

/// An etcd member, in both.
const ETCD: usize = 2;

/// An election or a hand-over, on a slow machine.
const ELECTION: Duration = Duration::from_secs(30);

/// Until members that fell behind hold the same.
const SETTLE: Duration = Duration::from_secs(30);

fn start(etcd: &[usize]) -> anyhow::Result<Cluster> {
    Cluster::start_with(&Options::mixed(etcd))
}

/// etcd compares hashes of compactions with its followers, us among them, and would raise the alarm.
fn checking(etcd: &[usize]) -> Options {
    let mut options = Options::mixed(etcd);
    options.etcd_flags.extend([
        "--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true".to_owned(),
        "--compact-hash-check-time=1s".to_owned(),
    ]);
    options
}

/// Who is in the cluster, in the words of one member.
async fn member_list(client: &Client, at: usize) -> anyhow::Result<Vec<Member>> {
    let mut cluster = ClusterClient::new(client.channel(at));
    let list = cluster.member_list(MemberListRequest { linearizable: true });
    let mut members = tokio::time::timeout(PATIENT, list).await??.into_inner().members;
    members.sort_unstable_by_key(|member| member.id);
    Ok(members)
}

/// All these members say the same of the members.
async fn same_members(client: &Client, at: &[usize]) -> anyhow::Result<Vec<Member>> {
    let first = member_list(client, at[0]).await?;
    for other in &at[1..] {
        let list = member_list(client, *other).await?;
        ensure!(list == first, "members {} and {other} differ: {first:#?} {list:#?}", at[0]);
    }
    Ok(first)
}

/// After trouble: every member takes a write and reads it, all hold the same, and none has ended or panicked.
async fn unharmed(cluster: &mut Cluster, client: &Client) -> anyhow::Result<()> {
    for at in 0..client.size() {
        put_patiently(client, at, &format!("unharmed/{at}")).await?;
    }
    let revision = client.revision(ELECTION).await?;
    let hash = client.same_hash(revision, SETTLE).await?;
    println!("revision {revision}, HashKV {hash:08x} on {} members", client.size());
    all_run(cluster)
}

/// At the revision of a compaction: members that answer of the same history agree ([`Client::hashes`]). In words, each
/// hash and what was compacted before it.
async fn same_hashes_of_compaction(client: &Client, revision: i64) -> anyhow::Result<String> {
    let answers = client.hashes(revision, SETTLE).await?;
    let hashes: BTreeSet<_> = answers.iter().map(|answer| (answer.compact_revision, answer.hash)).collect();
    let histories: BTreeSet<_> = answers.iter().map(|answer| answer.compact_revision).collect();
    ensure!(hashes.len() == histories.len(), "members differ at the compaction at {revision}: {answers:#?}");
    let words: Vec<_> = hashes.iter().map(|(before, hash)| format!("{hash:08x} since {before}")).collect();
    Ok(words.join(" or "))
}

/// A write may meet an election.
async fn put_patiently(client: &Client, at: usize, key: &str) -> anyhow::Result<i64> {
    let mut last = None;
    for _ in 0..10 {
        match put(client, at, key, "v").await {
            Ok(revision) => return Ok(revision),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(last.expect("it was tried")).with_context(|| format!("member {at} takes no write"))
}

async fn no_alarm(client: &Client) -> anyhow::Result<()> {
    for at in 0..client.size() {
        let alarms = client.maintenance(at).alarm(AlarmRequest::default()).await?.into_inner().alarms;
        ensure!(alarms.is_empty(), "m{at}: {alarms:?}");
    }
    Ok(())
}

/// No member has ended, and no log shows a panic, of whichever language.
fn all_run(cluster: &mut Cluster) -> anyhow::Result<()> {
    for at in 0..cluster.size() {
        let process = cluster.member(at).process()?;
        let ended = process.ended()?;
        ensure!(ended.is_none(), "member {at} ended: {ended:?}\n{}", process.tail(5));
        let output = process.output();
        no_panic(&output);
        ensure!(
            !output.contains("goroutine ") && !output.contains("\"level\":\"panic\""),
            "etcd {at} panicked"
        );
    }
    Ok(())
}
