//! Alarms: what is refused and what is not while one is raised, here and at etcd.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use harness::{Client, Cluster, Options};
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, alarm_request::AlarmAction, request_op::Request,
};
use tonic::Status;

use super::judge;
use crate::support::{PATIENT, run};

/// 32 pages: passed after some 30 puts, and far above what etcd's file takes when it is defragmented. At the 13 pages
/// of etcd's own tests it raises the alarm again now and then, a few small writes after it was disarmed.
const QUOTA: &str = "--quota-backend-bytes=131072";

fn put(key: &'static str, bytes: usize) -> PutRequest {
    PutRequest { key: key.into(), value: vec![b'v'; bytes].into(), ..Default::default() }
}

fn txn(request: Request) -> TxnRequest {
    TxnRequest { success: vec![RequestOp { request: Some(request) }], ..Default::default() }
}

/// What became of each kind of request.
async fn everything(client: &Client) -> Vec<String> {
    let said = |what: &str, error: Option<Status>| match error {
        None => format!("{what}: ok"),
        Some(status) => format!("{what}: {:?} {}", status.code(), status.message()),
    };
    let range = RangeRequest { key: "small".into(), ..Default::default() };
    let delete = DeleteRangeRequest { key: "small".into(), ..Default::default() };
    let only_range = txn(Request::RequestRange(range.clone()));
    let only_delete = txn(Request::RequestDeleteRange(delete.clone()));
    vec![
        said("put", client.put(1, put("small", 8), PATIENT).await.err()),
        said("txn with a put", client.txn(1, txn(Request::RequestPut(put("small", 8))), PATIENT).await.err()),
        said("txn with a range", client.txn(1, only_range, PATIENT).await.err()),
        said("txn with a delete", client.txn(1, only_delete, PATIENT).await.err()),
        said("range", client.range(1, range, PATIENT).await.err()),
        said("delete", client.kv(1).delete_range(delete).await.err()),
        said("defragment", client.maintenance(1).defragment(DefragmentRequest {}).await.err()),
    ]
}

async fn alarm(
    client: &Client,
    action: AlarmAction,
    member_id: u64,
    kind: AlarmType,
) -> anyhow::Result<String> {
    let request = AlarmRequest { action: action.into(), member_id, alarm: kind.into() };
    let answer = client.maintenance(2).alarm(request).await?.into_inner();
    // Every member that sees the quota passed raises an alarm of its own, whoever comes first.
    let kinds: BTreeSet<i32> = answer.alarms.iter().map(|alarm| alarm.alarm).collect();
    Ok(format!("{action:?} {kind:?}: {kinds:?}"))
}

/// As `etcdctl alarm disarm` does.
async fn disarm_all(client: &Client) -> anyhow::Result<()> {
    let get = AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
    for raised in client.maintenance(1).alarm(get).await?.into_inner().alarms {
        let (member_id, alarm) = (raised.member_id, raised.alarm);
        let disarm = AlarmRequest { action: AlarmAction::Deactivate.into(), member_id, alarm };
        client.maintenance(1).alarm(disarm).await?;
    }
    Ok(())
}

async fn scenario(binary: Option<std::path::PathBuf>) -> anyhow::Result<Vec<String>> {
    let options = Options { binary, flags: vec![QUOTA.to_owned()], ..Options::new(3) };
    let cluster = Cluster::start_with(&options)?;
    let client = cluster.client();
    client.wait_leader(PATIENT).await?;
    client.put(0, put("small", 64), PATIENT).await?;
    let mut refusal = None;
    // etcd compares with the size of its last commit to disk, which may be 100 ms old.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if let Err(status) = client.put(0, put("large", 4096), PATIENT).await {
            refusal = Some(status);
            break;
        }
    }
    let refusal = refusal.context("the quota is never reached")?;
    let mut said = vec![format!("{:?} {}", refusal.code(), refusal.message())];
    said.push(alarm(&client, AlarmAction::Get, 0, AlarmType::None).await?);
    said.extend(everything(&client).await);
    let revision = client.revision(PATIENT).await?;
    client.kv(0).compact(CompactionRequest { revision, physical: true }).await?;
    for at in 0..3 {
        client.maintenance(at).defragment(DefragmentRequest {}).await?;
    }
    said.push(format!("still: {:?}", client.put(0, put("small", 8), PATIENT).await.err().map(|e| e.code())));
    said.push(alarm(&client, AlarmAction::Deactivate, 77, AlarmType::Nospace).await?);
    disarm_all(&client).await?;
    said.push(alarm(&client, AlarmAction::Get, 0, AlarmType::None).await?);
    said.extend(everything(&client).await);
    said.push(alarm(&client, AlarmAction::Activate, 77, AlarmType::Corrupt).await?);
    said.push(alarm(&client, AlarmAction::Get, 0, AlarmType::Nospace).await?);
    said.push(alarm(&client, AlarmAction::Get, 0, AlarmType::Corrupt).await?);
    said.extend(everything(&client).await);
    let errors = client.status(0).await?.errors;
    ensure!(errors.len() == 1 && errors[0].contains("alarm:CORRUPT"), "{errors:?}");
    said.push(alarm(&client, AlarmAction::Deactivate, 77, AlarmType::Corrupt).await?);
    said.extend(everything(&client).await);
    Ok(said)
}

#[test]
fn alarms_refuse_what_they_refuse_at_etcd() {
    run(async {
        let ours = scenario(None).await?;
        let theirs = scenario(Some(judge("etcd")?)).await?;
        for (ours, theirs) in ours.iter().zip(&theirs) {
            println!("{ours}");
            ensure!(ours == theirs, "\nquorate: {ours}\netcd:    {theirs}");
        }
        ensure!(ours.len() == theirs.len(), "{} and {} answers", ours.len(), theirs.len());
        Ok(())
    });
}
