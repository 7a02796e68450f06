//! A leader's snapshot that a member goes on from is there after a power cut, and each sync of its installation is needed
//! for that.

use anyhow::{Context as _, ensure};
use harness::{Client, Cluster, Options, power::Survives};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::time::Duration;

use super::noticed;
use crate::snapshots::{INSTALLING, SHORT_LOG, follower, leave_behind};
use crate::support::{get, is_etcd, number, put, run, seed};

/// For a cluster to lead and serve again.
const SERVE_LIMIT: Duration = Duration::from_mins(1);

/// Syncs that are left out, beginning with none.
const LIES: [&str; 5] = [
    "",
    "lie dir data/member",
    "lie dir data/member/kv-*",
    "lie file data/member/kv-*/*.sst",
    "lie file data/member/kv-*/MANIFEST-*",
];

fn cluster() -> anyhow::Result<(Cluster, Client)> {
    let flags = SHORT_LOG.map(str::to_owned).into();
    let cluster = Cluster::start_with(&Options { power: true, flags, ..Options::new(3) })?;
    let client = cluster.client();
    Ok((cluster, client))
}

#[test]
fn an_installed_snapshot_outlives_a_power_cut() {
    if is_etcd() {
        return;
    }
    run(async {
        for lie in LIES {
            let ended = installed(lie).await;
            noticed(lie, ended)?;
        }
        Ok(())
    });
}

async fn installed(lie: &str) -> anyhow::Result<()> {
    let (mut cluster, client) = cluster()?;
    let (leader, away) = follower(&client).await?;
    cluster.stop(away)?;
    leave_behind(&client, leader, 400).await?;
    cluster.disk(away).command(&format!("{lie}\n"))?;
    cluster.member(away).start()?;
    cluster.member(away).process()?.wait_for(INSTALLING, SERVE_LIMIT)?;
    cluster.member(away).wait_ready()?;
    cluster.kill(away)?;
    assert!(lie.is_empty() || !cluster.disk(away).struck().is_empty(), "{lie}: there is no such sync");
    cluster.disk(away).command("")?;
    cluster.disk(away).cut(Survives::Nothing)?;
    cluster.restart(away)?;
    let revision = client.revision(SERVE_LIMIT).await?;
    client.same_hash(revision, SERVE_LIMIT).await?;
    ensure!(
        get(&client, away, "behind/399").await?.as_deref() == Some("value 399"),
        "LOST: a key of the snapshot"
    );
    Ok(())
}

/// Wherever it was: receiving, reading, in the middle of the switch, or long behind it. `IT_POWER_CUTS` of them.
#[test]
fn a_member_keeps_its_old_state_or_the_new_one_over_power_cuts() {
    if is_etcd() {
        return;
    }
    run(async {
        let (seed, count) = (seed(), number("IT_POWER_CUTS", 30));
        println!("{count} power cuts, IT_SEED={seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut cluster, client) = cluster()?;
        let mut installed = 0;
        for round in 0..count {
            let (leader, away) = follower(&client).await?;
            cluster.kill(away)?;
            leave_behind(&client, leader, 120).await?;
            put(&client, leader, "round", &round.to_string()).await?;
            cluster.member(away).start()?;
            tokio::time::sleep(Duration::from_millis(random.random_range(50..700))).await;
            installed += u64::from(cluster.member(away).process()?.output().contains(INSTALLING));
            cluster.kill(away)?;
            let survives =
                if random.random_bool(0.5) { Survives::Nothing } else { Survives::Some(random.random()) };
            cluster.disk(away).cut(survives)?;
            cluster.restart(away).with_context(|| format!("in round {round}"))?;
            let revision = client.revision(SERVE_LIMIT).await?;
            client.same_hash(revision, SERVE_LIMIT).await.with_context(|| format!("in round {round}"))?;
            ensure!(
                get(&client, away, "round").await?.as_deref() == Some(&*round.to_string()),
                "a write is lost"
            );
        }
        println!("{count} power cuts, {installed} after a snapshot was installed");
        Ok(())
    });
}
