//! Many leases with one key each expire at the same time: measures how long it takes until all keys are deleted, and the
//! latency of puts meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::{TryStreamExt as _, stream};
use proto::etcdserverpb::{
    LeaseGrantRequest, PutRequest, RangeRequest, kv_client::KvClient, lease_client::LeaseClient,
};
use serde::Serialize;
use tonic::transport::{Channel, Endpoint};

/// The number of leases, each with one key.
const LEASES: u32 = 20_000;

/// The TTL in seconds: longer than granting all of them takes on either server.
const TTL: i64 = 15;

const AHEAD: usize = 64;

/// How often the remaining keys are counted.
const POLL: Duration = Duration::from_millis(20);

/// The longest wait: etcd revokes 1,000 leases per second.
const GONE_MAX: Duration = Duration::from_secs(90);

/// How long puts are measured before the first lease expires, for comparison.
const QUIET: Duration = Duration::from_secs(2);

/// The prefix of all keys with leases, and its range end.
const PREFIX: &str = "bench-lease/";
const PREFIX_END: &str = "bench-lease0";

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Expiry {
    pub(crate) leases: u32,
    /// From the expiry of the last lease to the deletion of the last key, in seconds.
    pub(crate) gone_after_s: f64,
    /// The latency of puts by one client before leases expire, in milliseconds.
    pub(crate) quiet_p99_ms: f64,
    /// The latency of puts by one client while leases expire, in milliseconds.
    pub(crate) p99_ms: f64,
}

/// Grants the leases and measures their expiry.
pub(crate) async fn measure(url: &str) -> anyhow::Result<Expiry> {
    let channel = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect().await?;
    let (kv, lease) = (KvClient::new(channel.clone()), LeaseClient::new(channel));
    let begun = Instant::now();
    stream::iter((1..=LEASES).map(Ok::<_, anyhow::Error>))
        .try_for_each_concurrent(AHEAD, |number| grant(kv.clone(), lease.clone(), number))
        .await?;
    let granted = Instant::now();
    let ttl = Duration::from_secs(TTL.unsigned_abs());
    let quiet = puts(kv.clone(), granted + QUIET).await?;
    ensure!(Instant::now() < begun + ttl, "granting took too long: the first lease ended meanwhile");
    tokio::time::sleep_until((begun + ttl).into()).await;
    let putting = tokio::spawn(puts_until_gone(kv.clone()));
    let last_end = granted + ttl;
    while left(kv.clone()).await? > 0 {
        ensure!(
            last_end.elapsed() < GONE_MAX,
            "{} keys are left after {GONE_MAX:?}",
            left(kv.clone()).await?
        );
        tokio::time::sleep(POLL).await;
    }
    let gone_after_s = last_end.elapsed().as_secs_f64();
    let during = putting.await.context("the putting task")??;
    Ok(Expiry { leases: LEASES, gone_after_s, quiet_p99_ms: p99_ms(quiet), p99_ms: p99_ms(during) })
}

async fn grant(
    mut kv: KvClient<Channel>,
    mut lease: LeaseClient<Channel>,
    number: u32,
) -> anyhow::Result<()> {
    let id = lease.lease_grant(LeaseGrantRequest { ttl: TTL, id: 0 }).await?.into_inner().id;
    let key = format!("{PREFIX}{number:08}").into();
    kv.put(PutRequest { key, value: "v".into(), lease: id, ..Default::default() }).await?;
    Ok(())
}

async fn left(mut kv: KvClient<Channel>) -> anyhow::Result<i64> {
    let (key, range_end) = (PREFIX.into(), PREFIX_END.into());
    let count = RangeRequest { key, range_end, count_only: true, serializable: true, ..Default::default() };
    Ok(kv.range(count).await?.into_inner().count)
}

async fn puts_until_gone(kv: KvClient<Channel>) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::new();
    while left(kv.clone()).await? > 0 {
        took.extend(puts(kv.clone(), Instant::now() + POLL).await?);
    }
    Ok(took)
}

async fn puts(mut kv: KvClient<Channel>, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        kv.put(PutRequest { key: "bench-put".into(), value: "v".into(), ..Default::default() }).await?;
        took.push(begun.elapsed());
    }
    Ok(took)
}

fn p99_ms(mut took: Vec<Duration>) -> f64 {
    took.sort_unstable();
    took.get(took.len() * 99 / 100).map_or(f64::NAN, |took| took.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_of_a_hundred() {
        let took = (1..=100).rev().map(Duration::from_millis).collect();
        assert!((p99_ms(took) - 100.0).abs() < f64::EPSILON);
        assert!(p99_ms(Vec::new()).is_nan());
    }
}
