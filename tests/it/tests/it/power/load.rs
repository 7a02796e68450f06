//! Writes of every size, each under a key of its own, and leases: whatever was acknowledged is asked for after each cut.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use harness::Client;
use proto::etcdserverpb::{LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest};
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// What a request may take: slow disks, elections.
const LIMIT: Duration = Duration::from_secs(30);

/// Longer than any run.
const LEASE_SECONDS: i64 = 36_000;

/// The largest value: `--max-request-bytes` is 1.5 MiB.
const VALUE_BYTES_MAX: usize = 1_400_000;

/// How the writes of one round look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Many small values, one after the other.
    Small,
    /// From a byte to the largest, as many small as large.
    Mixed,
    /// So many of about a megabyte at once.
    Burst(usize),
}

impl Shape {
    fn writers(self) -> usize {
        match self {
            Self::Small => 12,
            Self::Mixed => 6,
            Self::Burst(writers) => writers,
        }
    }

    fn bytes(self, random: &mut SmallRng) -> usize {
        match self {
            Self::Small => random.random_range(1..300),
            Self::Mixed => {
                let bits = random.random_range(0..=20);
                random.random_range(1..=VALUE_BYTES_MAX.min(2 << bits))
            }
            Self::Burst(_) => random.random_range(900_000..=VALUE_BYTES_MAX),
        }
    }
}

/// A write, by what makes its key and its value, and where it was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Put {
    number: u64,
    bytes: usize,
    lease: i64,
    acked: Option<i64>,
}

impl Put {
    fn key(self) -> Bytes {
        format!("power/{:08}", self.number).into()
    }

    /// A value that does not compress.
    fn value(self) -> Bytes {
        let mut value = vec![0; self.bytes];
        SmallRng::seed_from_u64(self.number).fill_bytes(&mut value);
        value.into()
    }
}

/// Everything written to one cluster.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    puts: Mutex<Vec<Put>>,
    leases: Mutex<Vec<i64>>,
    next: AtomicU64,
    acked: AtomicU64,
    stopping: AtomicBool,
    /// What the writers may still send, in bytes.
    budget: AtomicU64,
}

impl Witness {
    /// How many writes were acknowledged.
    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Relaxed)
    }

    /// Begins to write; the writers end when they are told to, or have sent so many bytes between them.
    pub(crate) fn begin(
        self: &Arc<Self>,
        client: &Client,
        shape: Shape,
        seed: u64,
        bytes_max: u64,
    ) -> JoinSet<()> {
        self.stopping.store(false, Relaxed);
        self.budget.store(bytes_max, Relaxed);
        let mut writers = JoinSet::new();
        for writer in 0..shape.writers() {
            let random = SmallRng::seed_from_u64(seed ^ ((writer as u64) << 32));
            writers.spawn(Arc::clone(self).write(client.clone(), writer, shape, random));
        }
        writers
    }

    /// Writes that are under way end unanswered when their servers are gone.
    pub(crate) async fn end(&self, writers: &mut JoinSet<()>) -> anyhow::Result<()> {
        self.stopping.store(true, Relaxed);
        while let Some(ended) = writers.join_next().await {
            ended?;
        }
        Ok(())
    }

    /// A lease that outlives the run.
    pub(crate) async fn grant(&self, client: &Client, at: usize) -> anyhow::Result<i64> {
        let request = LeaseGrantRequest { id: 0, ttl: LEASE_SECONDS };
        let id = timeout(LIMIT, client.lease(at).lease_grant(request)).await??.into_inner().id;
        lock(&self.leases).push(id);
        Ok(id)
    }

    async fn write(self: Arc<Self>, client: Client, writer: usize, shape: Shape, mut random: SmallRng) {
        let mut at = writer;
        while !self.stopping.load(Relaxed) {
            let lease = lock(&self.leases).last().copied().filter(|_| random.random_ratio(1, 4)).unwrap_or(0);
            let number = self.next.fetch_add(1, Relaxed);
            let mut put = Put { number, bytes: shape.bytes(&mut random), lease, acked: None };
            let spend = |left: u64| left.checked_sub(put.bytes as u64);
            if self.budget.fetch_update(Relaxed, Relaxed, spend).is_err() {
                return;
            }
            let request = PutRequest { key: put.key(), value: put.value(), lease, ..Default::default() };
            if let Ok(answer) = client.put(at % client.size(), request, LIMIT).await {
                put.acked = answer.header.map(|header| header.revision);
                self.acked.fetch_add(1, Relaxed);
            } else {
                at += 1;
                sleep(Duration::from_millis(10)).await;
            }
            lock(&self.puts).push(put);
        }
    }

    /// Asks one member for everything: how many acknowledged writes it holds. What was not acknowledged is there as it
    /// was sent, or not at all.
    pub(crate) async fn check(self: &Arc<Self>, client: &Client, at: usize) -> anyhow::Result<usize> {
        let puts = lock(&self.puts).clone();
        let mut reads = JoinSet::new();
        let mut acked = 0;
        for put in puts {
            if reads.len() >= 16 {
                reads.join_next().await.context("there are reads")???;
            }
            acked += usize::from(put.acked.is_some());
            reads.spawn(check_put(client.clone(), at, put));
        }
        while let Some(read) = reads.join_next().await {
            read??;
        }
        let leases = lock(&self.leases).clone();
        for id in leases {
            let request = LeaseTimeToLiveRequest { id, keys: false };
            let answer = timeout(LIMIT, client.lease(at).lease_time_to_live(request)).await??.into_inner();
            ensure!(answer.granted_ttl == LEASE_SECONDS, "LOST: lease {id:x}, which was granted: {answer:?}");
        }
        Ok(acked)
    }
}

async fn check_put(client: Client, at: usize, put: Put) -> anyhow::Result<()> {
    let deadline = Instant::now() + 4 * LIMIT;
    let found = loop {
        let range = RangeRequest { key: put.key(), ..Default::default() };
        match client.range(at, range, LIMIT).await {
            Ok(mut answer) => break answer.kvs.pop(),
            Err(error) if Instant::now() > deadline => bail!("member {at} does not answer: {error}"),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    };
    match (found, put.acked) {
        (None, None) => Ok(()),
        (None, Some(revision)) => {
            bail!("LOST: {put:?} was acknowledged at revision {revision}, and member {at} has nothing")
        }
        (Some(kv), acked) => {
            ensure!(
                acked.is_none_or(|revision| revision == kv.mod_revision) && kv.lease == put.lease,
                "CHANGED: {put:?} is at revision {} of lease {:x}",
                kv.mod_revision,
                kv.lease
            );
            ensure!(kv.value == put.value(), "CHANGED: {put:?} holds another value");
            Ok(())
        }
    }
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
