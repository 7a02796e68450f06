//! Snapshots that change sides: etcd starts on ours, and we start on etcd's.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use harness::{Client, Cluster, Options};
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest,
    LeaseTimeToLiveRequest, PutRequest, RequestOp, TxnRequest, alarm_request::AlarmAction,
    request_op::Request,
};

use super::{
    call, ctl, judge,
    orders::version_becomes,
    snapshots::{all, restore, restore_with, restored},
};
use crate::support::{PATIENT, put, run};

/// A history with what a snapshot may hold: overwritten, deleted and created anew, several changes in one revision, and
/// leases with and without keys. Returns the compacted revision.
async fn live(client: &Client) -> anyhow::Result<i64> {
    for number in 0..60 {
        put(client, 0, &format!("kept/{number:02}"), "first").await?;
    }
    for (id, ttl) in [(7, 900), (8, 1_000)] {
        client.lease(0).lease_grant(LeaseGrantRequest { id, ttl }).await?;
    }
    let on = PutRequest { key: "on/7".into(), lease: 7, ..Default::default() };
    client.put(0, on, PATIENT).await?;
    let gone = |from: &str, to: &str| DeleteRangeRequest {
        key: from.to_owned().into(),
        range_end: to.to_owned().into(),
        ..Default::default()
    };
    client.kv(0).delete_range(gone("kept/10", "kept/20")).await?;
    put(client, 0, "kept/15", "again").await?;
    for value in ["second", "third"] {
        put(client, 0, "kept/00", value).await?;
    }
    let compacted = client.revision(PATIENT).await? - 1;
    client.kv(0).compact(CompactionRequest { revision: compacted, physical: true }).await?;
    client.kv(0).delete_range(gone("kept/40", "kept/45")).await?;
    let requests = [
        Request::RequestPut(PutRequest {
            key: "kept/00".into(),
            value: "fourth".into(),
            ..Default::default()
        }),
        Request::RequestDeleteRange(gone("kept/15", "kept/16")),
    ];
    let success = requests.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
    client.kv(0).txn(TxnRequest { success, ..Default::default() }).await?;
    put(client, 0, "kept/41", "anew").await?;
    client.maintenance(0).alarm(alarm(AlarmAction::Activate, ALARMED)).await?;
    Ok(compacted)
}

/// Lets stock etcdctl save a snapshot.
async fn save(cluster: &Cluster, file: &Path) -> anyhow::Result<()> {
    let endpoint = format!("--endpoints={}", cluster.members()[0].addresses.client_url());
    let (etcdctl, file) = (judge("etcdctl")?, file.display().to_string());
    let saving = move || call(&etcdctl, &[&endpoint, "snapshot", "save", &file]);
    let said = tokio::task::spawn_blocking(saving).await??;
    ensure!(said.code == Some(0) && said.out.contains("Server version 3.7.0"), "{said:?}");
    Ok(())
}

/// Both hold the same at every revision that can be read, with the same leases.
async fn same(old: &Client, new: &Client, compacted: i64) -> anyhow::Result<()> {
    let (revision, _) = all(old, 0, 0).await?;
    let mut readable = 0;
    for at in (2..=revision).rev() {
        match (all(old, 0, at).await, all(new, 0, at).await) {
            (Ok(old), Ok(new)) => ensure!(old == new, "at {at}: {old:?} and {new:?}"),
            (Err(old), Err(new)) => {
                ensure!(old.to_string() == new.to_string(), "at {at}: {old} and {new}");
                break;
            }
            (old, new) => anyhow::bail!("at {at}: {old:?} and {new:?}"),
        }
        // What the compaction itself left is in memory only, in etcd as here.
        if at > compacted {
            ensure!(old.hash_kv(0, at).await? == new.hash_kv(0, at).await?, "the hash at {at}");
        }
        readable += 1;
    }
    ensure!(readable == revision - compacted + 1, "{readable} revisions, {compacted} to {revision}");
    for id in [7, 8] {
        let question = LeaseTimeToLiveRequest { id, keys: true };
        let old = old.lease(0).lease_time_to_live(question).await?.into_inner();
        let new = new.lease(0).lease_time_to_live(question).await?.into_inner();
        ensure!((old.granted_ttl, &old.keys) == (new.granted_ttl, &new.keys), "{old:?} and {new:?}");
        ensure!(old.ttl - new.ttl < 60, "{old:?} and {new:?}");
    }
    let alarms = |client: &Client| client.maintenance(0);
    let list = alarm(AlarmAction::Get, 0);
    let raised = alarms(new).alarm(list).await?.into_inner().alarms;
    ensure!(raised == alarms(old).alarm(list).await?.into_inner().alarms && raised.len() == 1, "{raised:?}");
    alarms(new).alarm(alarm(AlarmAction::Deactivate, ALARMED)).await?;
    ensure!(put(new, 0, "after", "1").await? == revision + 1, "the revision goes on");
    Ok(())
}

/// A member that is out of space, which nobody knows.
const ALARMED: u64 = 300;

fn alarm(action: AlarmAction, member_id: u64) -> AlarmRequest {
    AlarmRequest { action: action.into(), member_id, alarm: AlarmType::Nospace.into() }
}

/// The same from etcdutl and from us.
fn same_status(file: &Path) -> anyhow::Result<()> {
    let status = ["snapshot", "status", &file.display().to_string(), "-w", "json"];
    let (theirs, ours) = (call(&judge("etcdutl")?, &status)?, ctl(&status)?);
    ensure!(theirs.code == Some(0) && theirs.out == ours.out, "{theirs:?} and {ours:?}");
    Ok(())
}

#[test]
fn etcd_starts_on_a_snapshot_of_ours() {
    run(async {
        let source = Cluster::start(1)?;
        let client = source.client();
        version_becomes(&source, "3.7.0").await?;
        let compacted = live(&client).await?;
        let file = source.folder().join("ours.db");
        save(&source, &file).await?;
        same_status(&file)?;
        let options = Options { token: "restored".to_owned(), etcd: vec![0], ..Options::new(1) };
        let mut cluster = Cluster::prepare(&options)?;
        let etcdutl = judge("etcdutl")?;
        let said = restore_with(|arguments| call(&etcdutl, arguments), &cluster, 0, &file, &[])?;
        ensure!(said.code == Some(0), "{said:?}");
        cluster.member(0).start()?;
        cluster.member(0).wait_ready()?;
        let members = cluster.client().status(0).await?;
        let version = members.version;
        ensure!(version.starts_with("3.7.") && !version.contains("quorate"), "{version} is no etcd");
        same(&client, &cluster.client(), compacted).await.context("ours, and etcd on it")
    });
}

#[test]
fn we_start_on_a_snapshot_of_etcds() {
    run(async {
        let mut source = Cluster::start_with(&Options { etcd: vec![0], ..Options::new(1) })?;
        let client = source.client();
        version_becomes(&source, "3.7.0").await?;
        let compacted = live(&client).await?;
        let file = source.folder().join("etcd.db");
        save(&source, &file).await?;
        same_status(&file)?;
        let cluster = restored(3, &file, &[])?;
        let new = cluster.client();
        same(&client, &new, compacted).await.context("etcd's, and ours on it")?;
        new.same_hash(new.revision(PATIENT).await?, PATIENT).await?;
        // What grew out of etcd's snapshot goes back to etcd.
        let back = source.folder().join("back.db");
        save(&cluster, &back).await?;
        same_status(&back)?;
        // etcd's own database, without a checksum.
        source.stop(0)?;
        let database = source.members()[0].data.join("member/snap/db");
        same_status(&database)?;
        let prepared = Cluster::prepare(&Options::new(1))?;
        let said = restore(&prepared, 0, &database, &["--skip-hash-check"])?;
        ensure!(said.code == Some(0), "{said:?}");
        Ok(())
    });
}

#[test]
fn a_damaged_snapshot_of_etcds_is_refused_by_name() {
    run(async {
        let source = Cluster::start_with(&Options { etcd: vec![0], ..Options::new(1) })?;
        let client = source.client();
        version_becomes(&source, "3.7.0").await?;
        live(&client).await?;
        let file = source.folder().join("etcd.db");
        save(&source, &file).await?;
        let whole = fs::read(&file)?;
        for (at, skip) in [(whole.len() / 3, false), (0, true), (whole.len() - 1, false)] {
            let mut bad = whole.clone();
            // Both metas, if the check is to be skipped: either is enough.
            for at in if skip { vec![at + 16, at + 4096 + 16] } else { vec![at] } {
                bad[at] ^= 1;
            }
            fs::write(&file, &bad)?;
            let cluster = Cluster::prepare(&Options::new(1))?;
            let more = if skip { &["--skip-hash-check"][..] } else { &[] };
            let said = restore(&cluster, 0, &file, more)?;
            let text = if skip { "the snapshot cannot be read: bbolt: " } else { "expected sha256 [" };
            ensure!(said.code == Some(1) && said.error.contains(text), "{said:?}");
            ensure!(!cluster.members()[0].data.join("member/wal").exists(), "no server may start on it");
        }
        Ok(())
    });
}
