//! A member of ours that lags behind the log of an etcd leader: it is sent a snapshot, which it cannot read yet.

use std::time::Duration;

use anyhow::ensure;
use harness::{Cluster, Options};

use super::{ELECTION, ETCD, OURS, TWO_ETCD, all_run, put_patiently};
use crate::support::run;

/// What it says, once.
const LINE: &str = "snapshots between members are not supported yet";

/// Long enough for etcd to send a hundred snapshots.
const WATCH: Duration = Duration::from_secs(6);

#[test]
fn a_member_that_needs_a_snapshot_says_so_once_and_stays_a_follower() {
    run(async {
        let etcd_flags = vec!["--snapshot-count=50".to_owned(), "--snapshot-catchup-entries=5".to_owned()];
        let mut cluster = Cluster::start_with(&Options { etcd_flags, ..Options::mixed(TWO_ETCD) })?;
        let client = cluster.client();
        client.make_leader(ETCD, ELECTION).await?;
        cluster.kill(OURS)?;
        for round in 0..300 {
            put_patiently(&client, ETCD, &format!("lag/{round}")).await?;
        }
        let term = client.status(ETCD).await?.raft_term;
        cluster.member(OURS).start()?;
        cluster.member(OURS).process()?.wait_for(LINE, ELECTION)?;
        let begun = std::time::Instant::now();
        let mut writes = 0;
        while begun.elapsed() < WATCH {
            put_patiently(&client, 1 + writes % 2, "lag/meanwhile").await?;
            writes += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        all_run(&mut cluster)?;
        let lines = cluster.member(OURS).process()?.lines_with(&[LINE]);
        println!("{writes} writes meanwhile; its lines: {lines:#?}");
        ensure!(lines.len() == 1, "{} lines instead of one: {lines:#?}", lines.len());
        let after = client.status(ETCD).await?;
        ensure!(
            after.raft_term == term && client.leader().await == Some(ETCD),
            "it disturbed the others: term {term} became {}",
            after.raft_term
        );
        Ok(())
    });
}
