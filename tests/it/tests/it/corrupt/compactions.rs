//! `CompactHashCheck`: hashes of compactions are compared, and the majority is right.

use proto::etcdserverpb::CompactionRequest;

use super::{ELECTION, TWO_ETCD, alarm_for, damage_and_restart, id_of, start, ten_keys};
use crate::support::run;

const FLAGS: &[&str] = &["--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=1s"];

#[test]
fn a_member_of_ours_that_compacted_something_else_is_found() {
    run(found(&[], 1, 0));
    // The leader itself may be the one.
    run(found(&[], 0, 0));
}

#[test]
fn in_a_mixed_cluster_whoever_leads_finds_whoever_it_is() {
    run(found(&[2], 0, 2));
    run(found(TWO_ETCD, 1, 0));
    run(found(TWO_ETCD, 0, 0));
}

async fn found(etcd: &[usize], leader: usize, damaged: usize) -> anyhow::Result<()> {
    println!("etcd members {etcd:?}, m{leader} leads, m{damaged} is damaged");
    let mut cluster = start(etcd, FLAGS)?;
    let client = cluster.client();
    ten_keys(&client).await?;
    let id = id_of(&client, damaged).await?;
    damage_and_restart(&mut cluster, damaged)?;
    client.make_leader(leader, ELECTION).await?;
    let compact = CompactionRequest { revision: 8, physical: false };
    client.kv(leader).compact(compact).await?;
    alarm_for(&client, id).await
}
