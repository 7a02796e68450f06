//! `InitialCorruptCheck`: a member whose data is not its peers' does not start.

use anyhow::ensure;
use harness::Cluster;

use super::{TWO_ETCD, damage, start, ten_keys};
use crate::support::{REFUSAL_LIMIT, run};

const GATE: &str = "--feature-gates=InitialCorruptCheck=true";

/// The checked one and its peers, by kind.
#[test]
fn a_member_with_other_data_than_its_peers_does_not_start() {
    run(refuses_to_start(&[], 0));
    run(refuses_to_start(TWO_ETCD, 0));
    run(refuses_to_start(&[0], 0));
}

async fn refuses_to_start(etcd: &[usize], at: usize) -> anyhow::Result<()> {
    println!("etcd members {etcd:?}, m{at} is damaged");
    // etcd reads its peers from its last snapshot's rows.
    let mut cluster = start(etcd, &[GATE, "--snapshot-count=3"])?;
    ten_keys(&cluster.client()).await?;
    restarts_in_peace(&mut cluster, at)?;
    cluster.stop(at)?;
    damage(&cluster.member(at).data)?;
    let member = cluster.member(at);
    member.start()?;
    let status = member.process()?.wait_end(REFUSAL_LIMIT)?;
    let output = member.process()?.output();
    ensure!(!status.success(), "it ended well");
    for words in ["found different hash values from remote peer", "found data inconsistency with peers"] {
        ensure!(output.contains(words), "no {words:?} in\n{output}");
    }
    Ok(())
}

/// Nothing was changed: it starts, and says that it looked.
fn restarts_in_peace(cluster: &mut Cluster, at: usize) -> anyhow::Result<()> {
    cluster.stop(at)?;
    cluster.restart(at)?;
    let output = cluster.member(at).process()?.output();
    ensure!(output.contains("initial corruption checking passed; no corruption"), "{output}");
    Ok(())
}
