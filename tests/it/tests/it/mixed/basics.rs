//! Elects, replicates, forwards, reads: whoever leads, at every member.

use anyhow::ensure;
use harness::Client;
use proto::etcdserverpb::{DeleteRangeRequest, RangeRequest};

use super::{ELECTION, ETCD, ONE_ETCD, OURS, SETTLE, TWO_ETCD, all_run, same_members, start};
use crate::support::{PATIENT, get, put, run};

#[test]
fn two_etcd_and_one_of_ours_elect_replicate_forward_and_read() {
    run(serves(TWO_ETCD));
}

#[test]
fn two_of_ours_and_one_etcd_elect_replicate_forward_and_read() {
    run(serves(ONE_ETCD));
}

async fn serves(etcd: &[usize]) -> anyhow::Result<()> {
    let mut cluster = start(etcd)?;
    let client = cluster.client();
    let first = client.wait_leader(ELECTION).await?;
    println!("etcd members {etcd:?}; m{first} was elected");
    for leader in [OURS, ETCD, 1, OURS] {
        client.make_leader(leader, ELECTION).await?;
        for at in 0..client.size() {
            let key = format!("basics/{leader}/{at}");
            let revision = put(&client, at, &key, "1").await?;
            for reader in 0..client.size() {
                ensure!(
                    get(&client, reader, &key).await?.as_deref() == Some("1"),
                    "m{leader} leads: m{reader} does not read what m{at} was answered"
                );
                let at_revision = RangeRequest { key: key.clone().into(), revision, ..Default::default() };
                let found = client.range(reader, at_revision, PATIENT).await?.kvs;
                ensure!(found.len() == 1 && found[0].mod_revision == revision, "{found:?} at {revision}");
            }
            let gone = DeleteRangeRequest { key: key.into(), prev_kv: true, ..Default::default() };
            let gone = client.kv(at).delete_range(gone).await?.into_inner();
            ensure!(gone.deleted == 1 && gone.prev_kvs.len() == 1, "{gone:?}");
        }
        agree(&client, leader).await?;
    }
    let members = same_members(&client, &[0, 1, 2]).await?;
    ensure!(members.iter().all(|m| !m.name.is_empty() && !m.client_ur_ls.is_empty()), "{members:?}");
    let revision = client.revision(ELECTION).await?;
    client.same_hash(revision, SETTLE).await?;
    all_run(&mut cluster)
}

/// Everybody names the same leader, term and cluster.
async fn agree(client: &Client, leader: usize) -> anyhow::Result<()> {
    let id = client.status(leader).await?.header.unwrap_or_default().member_id;
    let mut words = Vec::new();
    for at in 0..client.size() {
        let status = client.status(at).await?;
        let header = status.header.unwrap_or_default();
        words.push((status.leader, header.cluster_id, header.raft_term, status.version, status.is_learner));
    }
    ensure!(words.iter().all(|word| *word == words[0] && word.0 == id), "m{leader} leads: {words:?}");
    Ok(())
}
