//! Ours beyond etcd, without any flag: members compare slices of what they hold, and who is wrong stops serving.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use engine::Family;
use harness::{Client, Cluster, Options};
use proto::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_client::WatchClient, watch_request};

use super::{
    ELECTION, NOTICED, VALUE, WRONG, alarm_for, alarms, damage_rows, grant, id_of, is_corrupt, page,
    ten_keys, until_refused,
};
use crate::support::{get, put, run};

const WRONG_ITSELF: &str = "this member's data differs from the majority's: it is wrong and stops serving";
const WRONG_OTHER: &str = "another member's data differs from the majority's: that member is wrong";
const NOBODY_KNOWS: &str = "members' data differs and no majority shows which of them is right";

#[test]
fn a_member_whose_history_was_changed_stops_serving_and_the_others_go_on() {
    run(stops_serving(&[], Family::Revs, Some(WRONG)));
}

#[test]
fn a_member_that_lost_a_version_stops_serving() {
    run(stops_serving(&[], Family::Revs, None));
}

#[test]
fn a_member_whose_newest_value_was_changed_stops_serving() {
    run(stops_serving(&[], Family::Latest, Some(WRONG)));
}

#[test]
fn a_member_that_lost_a_key_stops_serving() {
    run(stops_serving(&[], Family::Latest, None));
}

/// Two of ours differ, and the etcd member's `HashKV` says who is right.
#[test]
fn an_etcd_member_decides_between_two_of_ours() {
    run(stops_serving(&[2], Family::Revs, Some(WRONG)));
}

async fn stops_serving(etcd: &[usize], family: Family, new: Option<&str>) -> anyhow::Result<()> {
    println!("etcd members {etcd:?}; rows of {family:?} become {new:?}");
    let mut cluster = Cluster::start_with(&Options::mixed(etcd))?;
    let client = cluster.client();
    ten_keys(&client).await?;
    let id = id_of(&client, 0).await?;
    cluster.stop(0)?;
    damage_rows(&cluster.member(0).data, family, VALUE, new)?;
    cluster.restart(0)?;
    client.make_leader(0, ELECTION).await?;
    let watched = watch_until_refused(&client, 0);
    until_refused(&client, 0).await?;
    watched.await.context("the watch goes on")?;
    refuses_all_but_maintenance(&cluster, &client).await?;
    hands_leadership_over(&client).await?;
    says(&mut cluster, 0, WRONG_ITSELF, "").await?;
    says(&mut cluster, 1, WRONG_OTHER, &format!("{id:x}")).await?;
    for at in 1..client.size() {
        put(&client, at, &format!("on/{at}"), "v").await?;
        ensure!(get(&client, at, "foo00005").await?.as_deref() == Some(VALUE), "m{at} lost it");
        ensure!(alarms(&client, at).await?.is_empty(), "an alarm would stop the others too");
    }
    // A restart makes nothing right.
    cluster.stop(0)?;
    cluster.restart(0)?;
    until_refused(&client, 0).await?;
    put(&client, 1, "on/and/on", "v").await?;
    Ok(())
}

/// A wrong state ends no lease and compacts nothing for the others.
async fn hands_leadership_over(client: &Client) -> anyhow::Result<()> {
    let begun = Instant::now();
    while matches!(client.leader().await, None | Some(0)) {
        ensure!(begun.elapsed() < NOTICED, "m0 leads still");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Ends once the member has ended a watch with its refusal.
async fn watch_until_refused(client: &Client, at: usize) -> anyhow::Result<()> {
    let create = WatchCreateRequest { key: "never".into(), ..Default::default() };
    let request = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    sender.send(request).await?;
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut watch = WatchClient::new(client.channel(at));
    let ended = async {
        let mut answers = watch.watch(requests).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    };
    let ended = tokio::time::timeout(NOTICED, ended).await?;
    drop(sender);
    ensure!(ended.as_ref().is_err_and(is_corrupt), "{ended:?}");
    Ok(())
}

async fn refuses_all_but_maintenance(cluster: &Cluster, client: &Client) -> anyhow::Result<()> {
    let read = get(client, 0, "foo00001").await.err().context("it reads")?;
    ensure!(read.downcast_ref().is_some_and(is_corrupt), "{read:?}");
    let lease = grant(client, 0).await.err().context("it grants a lease")?;
    ensure!(is_corrupt(&lease), "{lease:?}");
    let status = client.status(0).await?;
    ensure!(status.errors.iter().any(|error| error == "etcdserver: corrupt cluster"), "{status:?}");
    ensure!(alarms(client, 0).await?.is_empty(), "it answers for the cluster");
    let (health, ready) = (page(&cluster.members()[0], "/health")?, page(&cluster.members()[0], "/readyz")?);
    ensure!(health.contains("503") && ready.contains("data_corruption failed"), "{health} {ready}");
    ensure!(page(&cluster.members()[0], "/metrics")?.contains("\nquorate_diverged 1\n"), "the metric");
    Ok(())
}

/// Waits for a line of a member's log that has these words.
async fn says(cluster: &mut Cluster, at: usize, words: &str, more: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let process = cluster.member(at).process()?;
        let lines = process.lines_with(&[words, more]);
        if let Some(line) = lines.first() {
            println!("m{at}: {line}");
            ensure!(lines.len() == 1, "said {} times", lines.len());
            return Ok(());
        }
        ensure!(begun.elapsed() < NOTICED, "m{at} does not say {words:?} {more:?}:\n{}", process.tail(20));
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// As in etcd, nobody knows who of two is right: both say so, and the alarm stops writes.
#[test]
fn of_two_members_that_differ_neither_is_believed() {
    run(async {
        let mut cluster = Cluster::start(2)?;
        let client = cluster.client();
        ten_keys(&client).await?;
        cluster.stop(0)?;
        damage_rows(&cluster.member(0).data, Family::Revs, VALUE, Some(WRONG))?;
        cluster.restart(0)?;
        alarm_for(&client, 0).await?;
        for at in 0..2 {
            says(&mut cluster, at, NOBODY_KNOWS, "").await?;
            until_refused(&client, at).await?;
            ensure!(get(&client, at, "foo00001").await?.is_some(), "reads pass, as in etcd");
        }
        Ok(())
    });
}
