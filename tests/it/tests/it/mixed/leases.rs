//! Leases in clusters of both kinds: whoever leads keeps the time, and whoever is asked passes the question on.

use std::time::{Duration, Instant};

use anyhow::ensure;
use harness::{Client, Cluster};
use proto::etcdserverpb::{LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest};
use tokio::time::sleep;

use super::{ELECTION, ETCD, ONE_ETCD, OURS, SETTLE, TWO_ETCD, all_run, start};
use crate::{
    leases::{SLACK, count, gone, grant, hang, keep_alive},
    support::run,
};

#[test]
fn every_member_answers_for_leases_whoever_leads() {
    run(whoever_leads(async |client, leader| {
        for granter in 0..client.size() {
            answers(client, leader, granter).await?;
        }
        Ok(())
    }));
}

/// In both kinds of mixed clusters, with each kind of leader; afterwards all members hold the same.
async fn whoever_leads(test: impl AsyncFn(&Client, usize) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for etcd in [TWO_ETCD, ONE_ETCD] {
        println!("etcd members {etcd:?}");
        let mut cluster = start(etcd)?;
        let client = cluster.client();
        for leader in [OURS, ETCD] {
            client.make_leader(leader, ELECTION).await?;
            test(&client, leader).await?;
        }
        same(&mut cluster, &client).await?;
    }
    Ok(())
}

async fn same(cluster: &mut Cluster, client: &Client) -> anyhow::Result<()> {
    client.same_hash(client.revision(ELECTION).await?, SETTLE).await?;
    all_run(cluster)
}

/// A lease from its grant to its revoke, the latter by the member after the one that granted it.
async fn answers(client: &Client, leader: usize, granter: usize) -> anyhow::Result<()> {
    let (id, key) = (grant(client, granter, 60).await?, format!("answers/{leader}/{granter}"));
    hang(client, granter, &key, id).await?;
    let ask = |id| LeaseTimeToLiveRequest { id, keys: true };
    for at in 0..client.size() {
        let what = format!("m{leader} leads, m{granter} granted, m{at} is asked");
        ensure!(keep_alive(client, at, id).await? == 60, "{what}");
        ensure!(keep_alive(client, at, 12_345).await? == 0, "{what}");
        let answer = client.lease(at).lease_time_to_live(ask(id)).await?.into_inner();
        ensure!((58..=61).contains(&answer.ttl) && answer.granted_ttl == 60, "{what}: {answer:?}");
        ensure!(answer.keys == [key.as_str()], "{what}: {answer:?}");
        let answer = client.lease(at).lease_time_to_live(ask(12_345)).await?.into_inner();
        ensure!(answer.ttl == -1, "{what}: {answer:?}");
        // The list is the member's own, which may be behind.
        let begun = Instant::now();
        while !lists(client, at, id).await? {
            ensure!(begun.elapsed() < SETTLE, "{what}, and never lists it");
            sleep(Duration::from_millis(10)).await;
        }
    }
    let other = (granter + 1) % client.size();
    client.lease(other).lease_revoke(LeaseRevokeRequest { id }).await?;
    ensure!(count(client, other, &key).await? == 0, "m{other} revoked it and holds its key");
    Ok(())
}

async fn lists(client: &Client, at: usize, id: i64) -> anyhow::Result<bool> {
    let list = client.lease(at).lease_leases(LeaseLeasesRequest {}).await?.into_inner();
    Ok(list.leases.iter().any(|lease| lease.id == id))
}

#[test]
fn leases_end_on_time_whoever_leads() {
    const TTL: i64 = 3;
    run(whoever_leads(async |client, leader| {
        for granter in [OURS, ETCD] {
            let key = format!("ends/{leader}/{granter}");
            let id = grant(client, granter, TTL).await?;
            hang(client, granter, &key, id).await?;
            sleep(Duration::from_secs(2)).await;
            // The other kind passes it on; the lease begins anew.
            let before = Instant::now();
            ensure!(keep_alive(client, OURS + ETCD - granter, id).await? == TTL, "{key} is gone");
            let after = Instant::now();
            let ended = gone(client, &key, Duration::from_secs(3) + SLACK).await?;
            println!("m{leader} leads, m{granter} granted: {:?}", ended - after);
            ensure!(ended - before >= Duration::from_secs(3), "early: {:?}", ended - before);
        }
        Ok(())
    }));
}

/// What is left of a lease is not logged where a member might misread it: a new leader gives it all of its time.
#[test]
fn a_change_of_leaders_between_the_kinds_ends_no_lease_early_and_keeps_none() {
    const TTL: i64 = 4;
    run(async {
        for (from, to) in [(OURS, ETCD), (ETCD, OURS)] {
            let mut cluster = start(ONE_ETCD)?;
            let client = cluster.client();
            client.make_leader(from, ELECTION).await?;
            let begun = Instant::now();
            let id = grant(&client, OURS, TTL).await?;
            hang(&client, ETCD, "between", id).await?;
            sleep(Duration::from_secs(2)).await;
            client.make_leader(to, ELECTION).await?;
            let handed_over = Instant::now();
            let ended = gone(&client, "between", Duration::from_secs(4) + SLACK).await?;
            println!("m{from} to m{to}: ended {:?} after the grant", ended - begun);
            ensure!(ended - begun >= Duration::from_secs(4), "early: {:?}", ended - begun);
            ensure!(ended - handed_over <= Duration::from_secs(4) + SLACK, "late: {:?}", ended - handed_over);
            same(&mut cluster, &client).await?;
        }
        Ok(())
    });
}
