//! Members whose data is changed behind their backs, ours and etcd's: who notices, whom they name, and who goes on. The
//! scenarios of etcd's `tests/e2e/corrupt_test.go`, and those of what we compare beyond etcd.

mod compactions;
mod divergence;
mod initial;
mod periodic;
mod quiet;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use engine::{Batch, Engine as _, Family};
use engine_rocks::RocksEngine;
use harness::{Client, Cluster, Options};
use proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, LeaseGrantRequest};
use tonic::{Code, Status};

use crate::support::put;

/// An election, or a member that comes back.
const ELECTION: Duration = Duration::from_secs(30);

/// Until somebody must have noticed: checks are a second apart, and a few of them are needed at most.
const NOTICED: Duration = Duration::from_secs(20);

/// The value that is changed, and what it is changed to.
const VALUE: &str = "value-00005";
const WRONG: &str = "wrong-00005";

/// Two etcd members, one of ours: ours is m0.
const TWO_ETCD: &[usize] = &[1, 2];

/// Members of which these are etcd's, with flags for all; ours compare nothing beyond etcd.
fn start(etcd: &[usize], flags: &[&str]) -> anyhow::Result<Cluster> {
    let mut options = Options::mixed(etcd);
    options.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let mut cluster = Cluster::prepare(&options)?;
    for at in 0..cluster.size() {
        let member = cluster.member(at);
        if !etcd.contains(&at) {
            // A variable: etcd would refuse the flag.
            member.set_variable("ETCD_DIVERGENCE_CHECK_TIME", "0");
        }
        member.start()?;
    }
    for at in 0..cluster.size() {
        cluster.member(at).wait_ready()?;
    }
    Ok(cluster)
}

/// Ten keys, `value-00000` to `value-00009`, on all members.
async fn ten_keys(client: &Client) -> anyhow::Result<()> {
    let mut newest = 0;
    for number in 0..10 {
        newest = put(client, 0, &format!("foo{number:05}"), &format!("value-{number:05}")).await?;
    }
    client.same_hash(newest, ELECTION).await?;
    Ok(())
}

/// The ID of a member that runs.
async fn id_of(client: &Client, at: usize) -> anyhow::Result<u64> {
    Ok(client.status(at).await?.header.unwrap_or_default().member_id)
}

/// Changes the history of a member that is down, ours or etcd's.
fn damage(data: &Path) -> anyhow::Result<()> {
    let etcds = data.join("member/snap/db");
    if !etcds.exists() {
        return damage_rows(data, Family::Revs, VALUE, Some(WRONG));
    }
    let tool = std::env::var_os("QUORATE_BBOLTCHECK").map_or_else(default_tool, PathBuf::from);
    let made = Command::new(&tool).arg("damage").arg(&etcds).args(["key", VALUE, WRONG]).output();
    let made = made.with_context(|| format!("cannot run {}", tool.display()))?;
    ensure!(made.status.success(), "bboltcheck: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

fn default_tool() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/quorate/go/bboltcheck")
}

/// Changes the rows of a family that have `old` in them, or removes them, in a member of ours that is down.
fn damage_rows(data: &Path, family: Family, old: &str, new: Option<&str>) -> anyhow::Result<()> {
    let engine = RocksEngine::open(&rows(data)?, &engine_rocks::Options::default())?;
    let mut batch = Batch::default();
    engine.scan(family, &[], None, &mut |key, row| {
        if let Some(at) = row.windows(old.len()).position(|part| part == old.as_bytes()) {
            match new {
                None => batch.delete(family, key.to_vec()),
                Some(new) => {
                    let mut row = row.to_vec();
                    row[at..at + new.len()].copy_from_slice(new.as_bytes());
                    batch.put(family, key.to_vec(), row);
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    ensure!(!batch.is_empty(), "no row of {family:?} has {old:?} in it");
    engine.write(batch)?;
    Ok(engine.flush()?)
}

/// The directory of the rows: the only one that is a database.
fn rows(data: &Path) -> anyhow::Result<PathBuf> {
    for entry in std::fs::read_dir(data.join("member"))? {
        let path = entry?.path();
        if RocksEngine::exists(&path) {
            return Ok(path);
        }
    }
    bail!("no rows in {}", data.display())
}

/// Stops a member, changes its history, and starts it again.
fn damage_and_restart(cluster: &mut Cluster, at: usize) -> anyhow::Result<()> {
    cluster.stop(at)?;
    damage(&cluster.member(at).data)?;
    cluster.restart(at)?;
    Ok(())
}

/// The alarms, in the words of one member.
async fn alarms(client: &Client, at: usize) -> Result<Vec<AlarmMember>, Status> {
    Ok(client.maintenance(at).alarm(AlarmRequest::default()).await?.into_inner().alarms)
}

/// Waits for an alarm, and demands that it is CORRUPT for this member alone.
async fn alarm_for(client: &Client, member_id: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let found = alarms(client, 1).await.unwrap_or_default();
        if !found.is_empty() {
            let expected = AlarmMember { member_id, alarm: AlarmType::Corrupt.into() };
            ensure!(found == [expected], "for {member_id:x}: {found:?}");
            println!("CORRUPT for {member_id:x} after {:.1?}", begun.elapsed());
            return Ok(());
        }
        ensure!(begun.elapsed() < NOTICED, "nobody noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether a request was refused as etcd refuses it while CORRUPT is raised.
fn is_corrupt(status: &Status) -> bool {
    status.code() == Code::DataLoss && status.message() == "etcdserver: corrupt cluster"
}

/// Whether a member refuses puts for that.
async fn refuses(client: &Client, at: usize) -> bool {
    let put = proto::etcdserverpb::PutRequest { key: "x".into(), ..Default::default() };
    client.put(at, put, Duration::from_secs(5)).await.is_err_and(|status| is_corrupt(&status))
}

/// Waits until a member refuses puts.
async fn until_refused(client: &Client, at: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !refuses(client, at).await {
        ensure!(begun.elapsed() < NOTICED, "m{at} takes puts");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("m{at} refuses after {:.1?}", begun.elapsed());
    Ok(())
}

async fn grant(client: &Client, at: usize) -> Result<(), Status> {
    client.lease(at).lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await.map(drop)
}

/// A page of a member: its status, and what it says.
fn page(member: &harness::Member, path: &str) -> anyhow::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    let port = member.addresses.client.to_string().parse()?;
    Ok(String::from_utf8_lossy(&crate::support::talk(port, request.as_bytes())?).into_owned())
}
