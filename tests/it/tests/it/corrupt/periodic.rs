//! `--corrupt-check-time`: the leader compares its history with its followers', and the alarm stops writes everywhere.

use anyhow::{Context as _, ensure};
use harness::{Client, Cluster};
use proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};

use super::{
    ELECTION, TWO_ETCD, alarm_for, damage_and_restart, grant, id_of, is_corrupt, page, refuses, start,
    ten_keys,
};
use crate::support::{get, run};

const EVERY: &str = "--corrupt-check-time=1s";

#[test]
fn a_leader_of_ours_finds_a_follower_of_ours() {
    run(found(&[], 1, 0));
}

#[test]
fn a_leader_of_ours_finds_an_etcd_follower() {
    run(found(&[2], 0, 2));
}

#[test]
fn an_etcd_leader_finds_a_follower_of_ours() {
    run(found(TWO_ETCD, 1, 0));
}

async fn found(etcd: &[usize], leader: usize, damaged: usize) -> anyhow::Result<()> {
    println!("etcd members {etcd:?}, m{leader} leads, m{damaged} is damaged");
    let mut cluster = start(etcd, &[EVERY])?;
    let client = cluster.client();
    ten_keys(&client).await?;
    client.make_leader(leader, ELECTION).await?;
    let id = id_of(&client, damaged).await?;
    damage_and_restart(&mut cluster, damaged)?;
    alarm_for(&client, id).await?;
    writes_are_refused(&cluster, &client, etcd).await?;
    if etcd.is_empty() {
        may_be_disarmed(&mut cluster, &client, id).await?;
    }
    Ok(())
}

/// On every member alike, whoever is wrong; reads pass, as in etcd.
async fn writes_are_refused(cluster: &Cluster, client: &Client, etcd: &[usize]) -> anyhow::Result<()> {
    for (at, member) in cluster.members().iter().enumerate() {
        ensure!(refuses(client, at).await, "m{at} takes a put");
        let refusal = grant(client, at).await.err().context("a lease is granted")?;
        ensure!(is_corrupt(&refusal), "m{at}: {refusal:?}");
        ensure!(get(client, at, "foo00001").await?.as_deref() == Some("value-00001"), "m{at} reads");
        let (health, ready) = (page(member, "/health")?, page(member, "/readyz?verbose")?);
        ensure!(health.contains("503") && health.contains("ALARM CORRUPT"), "m{at}: {health}");
        let words = "[-]data_corruption failed: alarm activated: CORRUPT";
        ensure!(ready.contains("503") && ready.contains(words), "m{at}: {ready}");
        println!("m{at} ({}) refuses writes", if etcd.contains(&at) { "etcd" } else { "ours" });
    }
    Ok(())
}

/// With the wrong member away, the alarm may go, and the others serve.
async fn may_be_disarmed(cluster: &mut Cluster, client: &Client, id: u64) -> anyhow::Result<()> {
    cluster.stop(0)?;
    let disarm = AlarmRequest {
        action: AlarmAction::Deactivate.into(),
        member_id: id,
        alarm: AlarmType::Corrupt.into(),
    };
    client.maintenance(1).alarm(disarm).await?;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    ensure!(!refuses(client, 1).await && !refuses(client, 2).await, "they refuse still");
    Ok(())
}
