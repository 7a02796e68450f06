//! One compaction on the heels of another: etcd keeps no hash of the second then ([`harness::Client::hashes`]), ours
//! does. Nothing else may differ.

use anyhow::ensure;
use bytes::Bytes;
use harness::{Cluster, txn_of_puts};
use proto::etcdserverpb::{CompactionRequest, PutRequest};

use super::{ELECTION, OURS, SETTLE, TWO_ETCD, all_run, checking, no_alarm, same_hashes_of_compaction};
use crate::support::{PATIENT, run};

/// Puts of one transaction, each a row of the history.
const PUTS: usize = 100;

/// Transactions. The first compaction, at half of them, is of 3,000 rows: etcd pauses for 10 ms after each thousand.
const TXNS: i64 = 60;

#[test]
fn two_compactions_at_once() {
    run(async {
        let mut cluster = Cluster::start_with(&checking(TWO_ETCD))?;
        let client = cluster.client();
        client.make_leader(OURS, ELECTION).await?;
        let put = |key: usize| PutRequest {
            key: format!("hashes/{key:03}").into(),
            value: Bytes::from_static(b"v"),
            ..Default::default()
        };
        let txn = txn_of_puts((0..PUTS).map(put));
        let mut newest = 0;
        for _ in 0..TXNS {
            newest = client.txn(OURS, txn.clone(), PATIENT).await?.header.unwrap_or_default().revision;
        }
        let (first, second) = (newest - TXNS / 2, newest - 5);
        for (revision, physical) in [(first, false), (second, true)] {
            client.kv(OURS).compact(CompactionRequest { revision, physical }).await?;
        }
        client.same_hash(newest, SETTLE).await?;
        client.same_hash(second + 1, SETTLE).await?;
        println!("compacted at {second}: {}", same_hashes_of_compaction(&client, second).await?);
        let ours = client.hashes(second, SETTLE).await?[OURS].compact_revision;
        ensure!(ours == first, "ours kept no hash of the compaction at {second}: it is since {ours}");
        // Nobody's hashes of compactions outlive the process.
        cluster.restart_all()?;
        client.same_hash(second, SETTLE).await?;
        no_alarm(&client).await?;
        all_run(&mut cluster)
    });
}
