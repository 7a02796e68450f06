//! What is in the store before an attack.

use std::{
    iter,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use harness::{Client, end_of_prefix, txn_of_puts};
use proto::etcdserverpb::{DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest};
use tonic::{Code, Status};

use crate::target::scaled;

/// All large values are under it.
pub(crate) const VALUES: &str = "value/";
/// All keys that were deleted and made again are under it.
pub(crate) const REMADE: &str = "remade/";

/// etcd's default limit of operations in a transaction (`--max-txn-ops`).
const OPERATIONS_MAX: u32 = 128;
/// Requests under way while the store is filled.
const AHEAD: usize = 8;
/// The same of what is small.
const GRANTS_AHEAD: usize = 100;
/// Before a request is made again.
const PAUSE: Duration = Duration::from_millis(100);
/// A request while the store is filled; deleting 200,000 keys is one.
const PATIENT: Duration = Duration::from_mins(1);
/// Requests of daily use to each member, how many at a time, and keys in each of its lists.
const DAILY: u32 = 5_000;
const DAILY_AHEAD: usize = 200;
const LISTED: i64 = 100;
/// Puts to one member before that, and their bytes: more than the caches of recent entries, events and rows hold, which
/// are full in a member that has been in use.
const WRITTEN: u32 = 60_000;
const WRITTEN_BYTES: usize = 256;
/// Longer than any row: no lease ends by itself.
const LEASE_SECONDS: i64 = 600;
/// Small keys that are always there.
const FEW: u32 = 1_000;
/// Bytes of a key and a value of those, and of the remade ones.
const SMALL_BYTES: u32 = 64;

/// What a row needs, at full strength.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Data {
    /// The number of keys `value/00000000`, …
    pub(crate) values: u32,
    /// What each of them holds.
    pub(crate) value_bytes: u32,
    /// Small keys that were put, deleted, and put again.
    pub(crate) remade: u32,
    /// Leases with the IDs 1, 2, …
    pub(crate) leases: u32,
}

/// What was filled in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filled {
    /// Keys and values that a list of everything returns.
    pub(crate) live_bytes: u64,
    /// A revision at which the remade keys were there the first time.
    pub(crate) older_revision: i64,
}

impl Data {
    /// A thousand small keys, as every store has.
    pub(crate) const fn few() -> Self {
        Self { values: 0, value_bytes: 0, remade: 0, leases: 0 }
    }

    /// Fills one member's store. Only counts are scaled: a value is as large as it is.
    pub(crate) async fn fill(&self, client: &Client, at: usize, scale: f64) -> anyhow::Result<Filled> {
        let count = |full: u32| if full == 0 { 0 } else { scaled(full, scale) };
        let (values, remade, leases) = (count(self.values), count(self.remade), count(self.leases));
        let value = &Bytes::from(vec![b'v'; self.value_bytes as usize]);
        let puts = (0..values).map(|n| again(move || client.put(at, put(VALUES, n, value), PATIENT)));
        stream::iter(puts).buffer_unordered(AHEAD).try_for_each(|_| async { Ok(()) }).await?;
        let grants = (1..=i64::from(leases)).map(|id| again(move || grant(client, at, id)));
        stream::iter(grants).buffer_unordered(GRANTS_AHEAD).try_for_each(|()| async { Ok(()) }).await?;
        small(client, at, "few/", FEW).await?;
        let mut older_revision = 0;
        if remade > 0 {
            small(client, at, REMADE, remade).await?;
            older_revision = client.revision(PATIENT).await?;
            delete(client, at, REMADE).await?;
            small(client, at, REMADE, remade).await?;
        }
        let (large, small) = (u64::from(values) * u64::from(self.value_bytes), u64::from(FEW + remade));
        Ok(Filled { live_bytes: large + small * u64::from(SMALL_BYTES), older_revision })
    }
}

fn put(prefix: &str, number: u32, value: &Bytes) -> PutRequest {
    PutRequest { key: format!("{prefix}{number:08}").into(), value: value.clone(), ..Default::default() }
}

/// What a member has behind it that has been in use: what it keeps of the newest writes is full.
pub(crate) async fn write_much(client: &Client, at: usize, scale: f64) -> anyhow::Result<()> {
    let value = &Bytes::from(vec![b'u'; WRITTEN_BYTES]);
    let puts = (0..scaled(WRITTEN, scale))
        .map(|number| again(move || client.put(at, put("few/", number % FEW, value), PATIENT)));
    stream::iter(puts).buffer_unordered(DAILY_AHEAD).try_for_each(|_| async { Ok(()) }).await
}

/// What every store does all day: gets, puts and short lists on all members, so that its memory before an attack is not that
/// of a process that has just been started.
pub(crate) async fn daily_use(client: &Client, scale: f64) -> anyhow::Result<()> {
    let value = &Bytes::from(vec![b'd'; SMALL_BYTES as usize]);
    let few = &RangeRequest {
        key: "few/".into(),
        range_end: end_of_prefix(b"few/"),
        limit: LISTED,
        ..Default::default()
    };
    for at in 0..client.size() {
        let use_it = (0..scaled(DAILY, scale)).map(|number| {
            again(move || async move {
                if number % 2 == 0 {
                    client.put(at, put("few/", number % FEW, value), PATIENT).await.map(drop)
                } else {
                    client.range(at, few.clone(), PATIENT).await.map(drop)
                }
            })
        });
        stream::iter(use_it).buffer_unordered(DAILY_AHEAD).try_for_each(|()| async { Ok(()) }).await?;
    }
    Ok(())
}

/// Small keys, as many in a transaction as there may be.
async fn small(client: &Client, at: usize, prefix: &str, count: u32) -> anyhow::Result<()> {
    let value = Bytes::from(vec![b's'; SMALL_BYTES as usize - prefix.len() - 8]);
    let first =
        iter::successors(Some(0), |first| Some(first + OPERATIONS_MAX)).take_while(|first| *first < count);
    let transactions = first.map(|first| {
        let numbers = first..count.min(first + OPERATIONS_MAX);
        let txn = txn_of_puts(numbers.map(|n| put(prefix, n, &value)));
        again(move || client.txn(at, txn.clone(), PATIENT))
    });
    stream::iter(transactions).buffer_unordered(AHEAD).try_for_each(|_| async { Ok(()) }).await?;
    Ok(())
}

async fn delete(client: &Client, at: usize, prefix: &str) -> anyhow::Result<()> {
    let (key, range_end) = (prefix.to_owned().into(), end_of_prefix(prefix.as_bytes()));
    let all = DeleteRangeRequest { key, range_end, prev_kv: false };
    again(|| async { client.kv(at).delete_range(all.clone()).await }).await?;
    Ok(())
}

/// A lease with its ID; one that an attempt before has granted is as good.
async fn grant(client: &Client, at: usize, id: i64) -> Result<(), Status> {
    match client.lease(at).lease_grant(LeaseGrantRequest { ttl: LEASE_SECONDS, id }).await {
        Err(error) if error.code() != Code::FailedPrecondition => Err(error),
        _ => Ok(()),
    }
}

/// Asks until it is done: a machine that is busy with other things makes servers give up.
async fn again<T, F: Future<Output = Result<T, Status>>>(mut ask: impl FnMut() -> F) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENT;
    loop {
        match ask().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
