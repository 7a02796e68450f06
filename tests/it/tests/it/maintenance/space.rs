//! Defragmentation gives space back: to the member's own count of it, and to the file system.

use std::{fs, path::Path};

use anyhow::ensure;
use harness::{Client, Cluster, Options};
use proto::etcdserverpb::{CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest};

use crate::support::{PATIENT, run};

/// Bytes of values that are written and deleted again, in pieces of one megabyte.
const MEGABYTES: usize = 96;

/// What is left besides keys: tables half full, what is in memory, logs of the store.
const REST_BYTES: u64 = 16 << 20;

fn bytes_under(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Files come and go meanwhile.
        let Ok(known) = entry.metadata() else { continue };
        bytes += if known.is_dir() { bytes_under(&entry.path())? } else { known.len() };
    }
    Ok(bytes)
}

async fn sizes(client: &Client, dir: &Path) -> anyhow::Result<(u64, u64)> {
    Ok((client.status(0).await?.db_size.unsigned_abs(), bytes_under(dir)?))
}

#[test]
fn what_was_deleted_and_compacted_is_given_back() {
    run(async {
        let cluster = Cluster::start_with(&Options::new(1))?;
        let client = cluster.client();
        client.wait_leader(PATIENT).await?;
        let dir = cluster.members()[0].data.join("member/kv");
        for number in 0..MEGABYTES {
            // Nothing that can be packed.
            let mut state = number as u64 + 1;
            let value: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state.to_be_bytes()[0]
            })
            .take(1 << 20)
            .collect();
            let key = format!("{number:03}").into();
            client.put(0, PutRequest { key, value: value.into(), ..Default::default() }, PATIENT).await?;
        }
        let full = sizes(&client, &dir).await?;
        let everything =
            DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        client.kv(0).delete_range(everything).await?;
        let revision = client.revision(PATIENT).await?;
        client.kv(0).compact(CompactionRequest { revision, physical: true }).await?;
        client.maintenance(0).defragment(DefragmentRequest {}).await?;
        let after = sizes(&client, &dir).await?;
        println!(
            "told {} and on disk {} bytes; after defragmentation {} and {}",
            full.0, full.1, after.0, after.1
        );
        let written = (MEGABYTES as u64) << 20;
        ensure!(full.0 >= written && full.1 >= written / 2, "{full:?} is less than was written");
        ensure!(after.0 <= REST_BYTES && after.1 <= REST_BYTES, "{after:?} are left");
        Ok(())
    });
}
