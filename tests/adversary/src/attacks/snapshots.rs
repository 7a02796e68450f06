//! Attacks by those who read slowly, or not at all, what the server must keep for them.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::join_all;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, PutResponse, RangeRequest, RangeResponse, SnapshotRequest,
};
use tokio::time::timeout;

use super::{COMPACT, PUT, RANGE, RANGE_STREAM, SNAPSHOT, list, put};
use crate::{
    data::VALUES,
    raw::{Connection, Windows},
    target::{Outcome, Target},
};

/// Readers that crawl, and how.
const SLOW_READERS: u32 = 4;
const SLOW_BYTES: u32 = 40_000;
const SLOW_EVERY: Duration = Duration::from_secs(5);
/// Time for the slow readers to be where they hold what they hold.
const BEFORE: Duration = Duration::from_millis(500);
/// A snapshot beside them may take so many times what one takes alone, for as many bytes: what is put by other attacks of
/// a mixture makes it longer (B1 puts 100 MiB meanwhile).
const BESIDE_FACTOR: f64 = 1.5;
/// Whoever stands beside waits no longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// B8: four clients read a snapshot 40 KB every 5 s. A fifth, who reads as fast as it can, gets its own nearly as soon as
/// one who is alone.
pub(crate) async fn slow_readers(target: Target) -> anyhow::Result<Outcome> {
    let (alone, alone_bytes) =
        timeout(PATIENCE, snapshot(&target)).await.context("nobody else reads, and yet")??;
    let crawling = (0..SLOW_READERS).map(|_| crawl(&target));
    let fifth = async {
        tokio::time::sleep(BEFORE).await;
        snapshot(&target).await
    };
    let (_, fifth) = futures::join!(join_all(crawling), timeout(PATIENCE, fifth));
    Ok(match fifth {
        Ok(taken) => {
            let (took, bytes) = taken.context("the fifth snapshot")?;
            let longer = (f64::from(bytes) / f64::from(alone_bytes)).max(1.0);
            Outcome::waited(took).allowed(alone.mul_f64(BESIDE_FACTOR * longer))
        }
        Err(_) => Outcome::fault(format!("no fifth snapshot in {PATIENCE:?}")),
    })
}

/// How long a whole snapshot takes, and how long it is, in bytes.
async fn snapshot(target: &Target) -> anyhow::Result<(Duration, u32)> {
    let begun = Instant::now();
    let connection = Connection::open(target.leader(), Windows::WIDE).await?;
    let mut answer = connection.call(SNAPSHOT, &SnapshotRequest {}).await?.answer().await?;
    let bytes = u32::try_from(answer.end().await?)?;
    Ok((begun.elapsed(), bytes))
}

/// One that crawls until the end. That it is told to leave is not an error.
async fn crawl(target: &Target) -> anyhow::Result<()> {
    let connection = Connection::open(target.leader(), Windows::of_stream(SLOW_BYTES)).await?;
    let mut answer = connection.call(SNAPSHOT, &SnapshotRequest {}).await?.answer().await?;
    let mut unread = 0;
    while !target.is_over() {
        let next = target.end.min(tokio::time::Instant::now() + SLOW_EVERY);
        while let Ok(bytes) = tokio::time::timeout_at(next, answer.bytes()).await {
            let Some(bytes) = bytes? else { return Ok(()) };
            unread += bytes.len();
        }
        answer.release(std::mem::take(&mut unread))?;
    }
    Ok(())
}

/// A reader who reads nothing for some seconds may be told to leave first.
const COMPACTED_WITHIN: Duration = Duration::from_secs(10);

/// B11: a list that is sent in pieces, of which none is read, keeps what a physical compaction waits for.
pub(crate) async fn unread_stream(target: Target) -> anyhow::Result<Outcome> {
    let silent = Connection::open(target.leader(), Windows::of_stream(0)).await?;
    let held = silent.call(RANGE_STREAM, &list(VALUES)).await?;
    tokio::time::sleep(BEFORE).await;
    let connection = Connection::open(target.leader(), Windows::WIDE).await?;
    let first = format!("{VALUES}{:08}", 0);
    connection.ask::<PutResponse>(PUT, &put(&first)).await?;
    let get = RangeRequest { key: first.into(), ..Default::default() };
    let now = connection.ask::<RangeResponse>(RANGE, &get).await?.header.context("no header")?.revision;
    let begun = Instant::now();
    let compact = CompactionRequest { revision: now, physical: true };
    let compacted = timeout(PATIENCE, connection.ask::<CompactionResponse>(COMPACT, &compact)).await;
    let took = begun.elapsed();
    target.until_end().await;
    drop(held);
    Ok(match compacted {
        Ok(done) => {
            done.context("the compaction")?;
            Outcome::waited(took).allowed(COMPACTED_WITHIN)
        }
        Err(_) => Outcome::fault(format!("no physical compaction in {PATIENCE:?}")),
    })
}
