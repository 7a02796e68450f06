//! An alarm is in the log like everything else: raised by one member, it refuses the same requests on all.

use anyhow::{Context as _, ensure};
use harness::{Client, Cluster, Options};
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DeleteRangeRequest, LeaseGrantRequest, PutRequest,
    alarm_request::AlarmAction,
};
use tonic::{Code, Status};

use super::{ELECTION, ETCD, ONE_ETCD, OURS, SETTLE, TWO_ETCD, all_run, put_patiently};
use crate::support::{PATIENT, run};

/// etcd's files begin at some twenty pages; a hundred puts of this size pass it.
const QUOTA: &str = "--quota-backend-bytes=2000000";

/// Puts that are more than the quota.
const PUTS_MAX: usize = 400;

#[test]
fn an_etcd_member_that_is_full_stops_writes_on_all_until_disarmed() {
    run(full(TWO_ETCD, OURS));
    run(full(ONE_ETCD, ETCD));
}

async fn full(etcd: &[usize], leader: usize) -> anyhow::Result<()> {
    println!("etcd members {etcd:?}, m{leader} leads");
    let mut options = Options::mixed(etcd);
    options.etcd_flags.push(QUOTA.to_owned());
    let mut cluster = Cluster::start_with(&options)?;
    let client = cluster.client();
    client.make_leader(leader, ELECTION).await?;
    let mut puts = 0;
    // Ours has room and takes them, until the etcd member says through the log that it has none.
    let refusal = loop {
        puts += 1;
        ensure!(puts < PUTS_MAX, "{puts} puts of 20 kB fit into etcd's quota");
        if let Err(status) = large_put(&client, OURS).await {
            break status;
        }
    };
    println!("refused after {puts} puts: {}", refusal.message());
    for at in 0..client.size() {
        let refusal = large_put(&client, at).await.err().context("a put is taken")?;
        ensure!(is_full(&refusal), "m{at}: {refusal:?}");
        // Deletes make room, so they pass; a lease does not.
        let gone = DeleteRangeRequest { key: format!("full/{at}").into(), ..Default::default() };
        client.kv(at).delete_range(gone).await?;
        let grant = LeaseGrantRequest { ttl: 60, id: 7 };
        let refusal = client.lease(at).lease_grant(grant).await.err();
        ensure!(refusal.as_ref().is_some_and(is_full), "m{at}: {refusal:?}");
    }
    let alarms = same_alarms(&client).await?;
    ensure!(!alarms.is_empty(), "nobody is full");
    for alarm in alarms {
        let disarm = AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: alarm.member_id,
            alarm: AlarmType::Nospace.into(),
        };
        client.maintenance(OURS).alarm(disarm).await?;
    }
    // With alarms off everybody writes again; deletes did not shrink etcd's files, so it may be raised anew.
    put_patiently(&client, OURS, "small").await?;
    let revision = client.revision(ELECTION).await?;
    let hash = client.same_hash(revision, SETTLE).await?;
    println!("disarmed; HashKV {hash:08x} at {revision}");
    all_run(&mut cluster)
}

async fn large_put(client: &Client, at: usize) -> Result<(), Status> {
    let put = PutRequest {
        key: format!("full/{at}").into(),
        value: vec![b'v'; 20_000].into(),
        ..Default::default()
    };
    client.put(at, put, PATIENT).await.map(drop)
}

fn is_full(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted && status.message().contains("database space exceeded")
}

/// The alarms, of which all members say the same.
async fn same_alarms(client: &Client) -> anyhow::Result<Vec<AlarmMember>> {
    let mut lists = Vec::new();
    for at in 0..client.size() {
        let mut list = client.maintenance(at).alarm(AlarmRequest::default()).await?.into_inner().alarms;
        list.sort_unstable_by_key(|alarm| alarm.member_id);
        lists.push(list);
    }
    ensure!(lists.windows(2).all(|pair| pair[0] == pair[1]), "{lists:?}");
    Ok(lists.swap_remove(0))
}
