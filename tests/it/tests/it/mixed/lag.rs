//! Members that lag behind the log of a leader of the other kind, and get its snapshot.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use harness::{Cluster, Options};
use proto::etcdserverpb::{LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest};

use super::{ELECTION, ETCD, ONE_ETCD, OURS, TWO_ETCD, no_alarm, put_patiently, unharmed};
use crate::snapshots::{INSTALLING, SHORT_LOG};
use crate::support::{PATIENT, run};

/// What etcd says of one that it has installed.
const APPLIED: &str = "applied snapshot";

fn short_log(etcd: &[usize]) -> Options {
    let flags = SHORT_LOG.map(str::to_owned).to_vec();
    Options { flags, ..Options::mixed(etcd) }
}

/// One is away while the other leads and 400 keys are put; then it gets a snapshot.
async fn catches_up(etcd: &[usize], leader: usize, away: usize, said: &str) -> anyhow::Result<()> {
    let mut cluster = Cluster::start_with(&short_log(etcd))?;
    let client = cluster.client();
    client.make_leader(leader, ELECTION).await?;
    put_patiently(&client, leader, "before").await?;
    cluster.kill(away)?;
    client.lease(leader).lease_grant(LeaseGrantRequest { ttl: 600, id: 77 }).await?;
    let leased = PutRequest { key: "leased".into(), value: "v".into(), lease: 77, ..Default::default() };
    client.put(leader, leased, PATIENT).await?;
    for round in 0..400 {
        put_patiently(&client, leader, &format!("lag/{round}")).await?;
    }
    let term = client.status(leader).await?.raft_term;
    cluster.member(away).start()?;
    cluster.member(away).process()?.wait_for(said, ELECTION)?;
    cluster.member(away).wait_ready()?;
    ensure!(client.status(leader).await?.raft_term == term, "it disturbed the others");
    unharmed(&mut cluster, &client).await?;
    no_alarm(&client).await?;
    let asked = LeaseTimeToLiveRequest { id: 77, keys: true };
    let left = client.lease(away).lease_time_to_live(asked).await?.into_inner();
    ensure!(left.keys == [Bytes::from_static(b"leased")], "{left:?}");
    // It can lead, and restarts on what it got.
    client.make_leader(away, ELECTION).await?;
    put_patiently(&client, away, "after").await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.kill(away)?;
    cluster.restart(away)?;
    unharmed(&mut cluster, &client).await
}

#[test]
fn a_member_of_ours_catches_up_by_an_etcd_leaders_snapshot() {
    run(catches_up(TWO_ETCD, ETCD, OURS, INSTALLING));
}

#[test]
fn an_etcd_member_catches_up_by_our_leaders_snapshot() {
    run(catches_up(ONE_ETCD, OURS, ETCD, APPLIED));
}

#[test]
fn an_etcd_member_beside_another_one_catches_up_by_our_leaders_snapshot() {
    run(catches_up(TWO_ETCD, OURS, ETCD, APPLIED));
}
