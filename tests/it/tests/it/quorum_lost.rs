//! Two of three members are lost for good: `--force-new-cluster` makes a cluster of the third, and it grows again.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use harness::{Addresses, Client, Cluster, Member, Options, etcd_binary, server_binary};
use proto::etcdserverpb::{
    MemberAddRequest, WatchCreateRequest, WatchRequest, cluster_client::ClusterClient,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use tokio_stream::StreamExt as _;

use crate::members::{SETTLE, change, joining, listed, put_patiently};
use crate::support::{PATIENT, get, is_etcd, no_panic, put, run};

const FORCE: &str = "--force-new-cluster";
/// How far the revision is raised.
const RAISED: i64 = 1_000_000_000;

/// Whether a watch from this revision is told that it was compacted.
async fn is_compacted(client: &Client, at: usize, revision: i64) -> anyhow::Result<bool> {
    let create = WatchCreateRequest { key: "k".into(), start_revision: revision, ..Default::default() };
    let ask = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let asked = tokio_stream::iter([ask]).chain(tokio_stream::pending());
    let mut answers = WatchClient::new(client.channel(at)).watch(asked).await?.into_inner();
    while let Some(answer) = tokio::time::timeout(PATIENT, answers.next()).await? {
        let answer = answer?;
        if !answer.created {
            return Ok(answer.canceled && answer.compact_revision > revision);
        }
    }
    Ok(false)
}

/// Another member, of this program, in a cluster that answers at `client`.
async fn join(
    client: &Client,
    at: usize,
    name: &str,
    binary: &std::path::Path,
    folder: &std::path::Path,
) -> anyhow::Result<Member> {
    let addresses = Addresses::free()?;
    let ask = MemberAddRequest { peer_ur_ls: vec![addresses.peer_url()], is_learner: false };
    let admin = ClusterClient::new(client.channel(at));
    let added = change(&admin, async |mut admin| admin.member_add(ask.clone()).await).await?;
    let new = added.member.context("no member in the answer")?.id;
    let flags = joining(name, &added.members, new);
    let mut member = Member::new(name, binary, folder, addresses, &flags);
    member.start()?;
    member.wait_ready()?;
    Ok(member)
}

async fn members(client: &Client, at: usize) -> anyhow::Result<usize> {
    Ok(listed(ClusterClient::new(client.channel(at))).await?.len())
}

#[test]
fn one_member_of_three_becomes_a_cluster_and_grows_again() {
    if is_etcd() {
        return;
    }
    run(async {
        let mut cluster = Cluster::start(3)?;
        let client = cluster.client();
        for n in 0..200 {
            put_patiently(&client, n % 3, &format!("k{n}")).await?;
        }
        let before = client.revision(SETTLE).await?;
        client.same_hash(before, SETTLE).await?;
        // The two others acknowledge writes that this member never hears of: clients have seen later revisions.
        cluster.kill(2)?;
        client.wait_leader(SETTLE).await?;
        for n in 0..50 {
            put_patiently(&client, n % 2, &format!("lost{n}")).await?;
        }
        let shown = client.revision(SETTLE).await?;
        cluster.kill(0)?;
        cluster.kill(1)?;
        // Without the flag it waits for the others, and serves nothing.
        cluster.member(2).start()?;
        ensure!(put(&client, 2, "k", "v").await.is_err(), "a write without a quorum");
        cluster.kill(2)?;
        cluster.member(2).set_flag(FORCE, true);
        cluster.restart(2)?;
        let first = put_patiently(&client, 2, "after").await?;
        ensure!(first > before + RAISED && first > shown, "{first} after {before}, and {shown} was shown");
        for n in 0..200 {
            ensure!(
                get(&client, 2, &format!("k{n}")).await?.is_some(),
                "k{n} was on this member and is lost"
            );
        }
        ensure!(is_compacted(&client, 2, before).await? && is_compacted(&client, 2, shown).await?);
        ensure!(members(&client, 2).await? == 1);
        // The flag is left where it is: nothing happens again. It is taken away: nothing either.
        for is_there in [true, false] {
            cluster.member(2).set_flag(FORCE, is_there);
            cluster.stop(2)?;
            cluster.restart(2)?;
            let next = put_patiently(&client, 2, "again").await?;
            ensure!(next < first + 10, "{next} after {first}: it was forced once more");
        }
        let survivor = cluster.members()[2].addresses.client_url();
        let alone = Client::new([survivor.clone()]);
        let mut joined = Vec::new();
        for (name, binary) in [("m3", server_binary()?), ("m4", etcd_binary()?)] {
            joined.push(join(&alone, 0, name, &binary, cluster.folder()).await?);
        }
        let urls = joined.iter().map(|member| member.addresses.client_url());
        let all = Client::new([survivor].into_iter().chain(urls));
        for n in 0..50 {
            put_patiently(&all, n % 3, &format!("grown{n}")).await?;
        }
        let revision = all.revision(SETTLE).await?;
        let hash = all.same_hash(revision, SETTLE).await?;
        // One that was lost comes back: the new cluster has removed it, and goes on.
        cluster.member(0).start()?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        put_patiently(&all, 0, "undisturbed").await?;
        ensure!(members(&all, 0).await? == 3);
        ensure!(put(&client, 0, "to the old cluster", "v").await.is_err(), "the old cluster took a write");
        for member in cluster.members() {
            no_panic(&fs::read_to_string(member.log())?);
        }
        println!(
            "revision {before}, then {first}; three members again: revision {revision}, HashKV {hash:08x}"
        );
        Ok(())
    });
}

#[test]
fn a_member_that_is_alone_has_nothing_to_force() {
    if is_etcd() {
        return;
    }
    run(async {
        let mut cluster = Cluster::prepare(&Options::new(1))?;
        cluster.member(0).set_flag(FORCE, true);
        cluster.restart(0)?;
        let client = cluster.client();
        let first = put(&client, 0, "k", "v").await?;
        cluster.stop(0)?;
        cluster.restart(0)?;
        let second = put(&client, 0, "k", "v").await?;
        ensure!((first, second) == (2, 3), "{first}, {second}");
        Ok(())
    });
}
